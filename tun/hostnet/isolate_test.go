//go:build !(linux && netns)

package hostnet

// isolate does nothing: these tests change only files of their own.
func isolate() {}
