package control

import "os"

// hasEnded is never asked: this system has no such files.
func hasEnded(*os.File) bool { return true }
