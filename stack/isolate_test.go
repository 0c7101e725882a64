//go:build !(linux && netns)

package stack

// isolate does nothing: these tests stay on loopback and in memory.
func isolate() {}
