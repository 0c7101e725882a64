//go:build !linux

package exit

func wantErrors(int, bool) {}

// readErrors has nothing: errors are read on Linux only.
func readErrors(int) []echoFailure { return nil }
