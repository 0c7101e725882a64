//go:build !linux

package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	fmt.Fprintf(os.Stderr, "cuttle-lab needs Linux, since it builds a network out of network namespaces; this is %s.\n", runtime.GOOS)
	os.Exit(1)
}
