//go:build !linux

package processor

// Batch does nothing: this system has no such policy.
func Batch() {}
