//go:build linux && netns

package hostnet

import "cuttle/tun/hostnet/hostnettest"

// isolate also serves the child that TestRecoverAfterKill kills: it inherits the
// namespaces of its parent.
func isolate() { hostnettest.Isolate() }
