//go:build !linux && !darwin

package link

// setSocketOptions has no options to set on this system.
func setSocketOptions(uintptr) {}
