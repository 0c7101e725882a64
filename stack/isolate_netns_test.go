//go:build linux && netns

package stack

import "cuttle/tun/hostnet/hostnettest"

func isolate() { hostnettest.Isolate() }
