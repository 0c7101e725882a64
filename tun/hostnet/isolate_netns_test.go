//go:build linux && netns

package hostnet

import (
	"fmt"
	"os"

	"cuttle/tun/hostnet/hostnettest"
)

// isolate also turns the process into the child that TestRecoverAfterKill kills,
// which has the namespaces of its parent.
func isolate() {
	hostnettest.Isolate()
	if state := os.Getenv(childState); state != "" {
		if err := holdPlan(state); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}
