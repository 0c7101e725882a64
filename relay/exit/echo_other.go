//go:build !linux

package exit

func wantErrors(int, bool) {}

// readErrors has nothing: errors are read on Linux only.
func readErrors(int) []echoFailure { return nil }

// readFailures has nothing, either.
func readFailures(int) []udpFailure { return nil }
