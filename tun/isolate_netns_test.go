//go:build linux && netns

package tun

import "cuttle/tun/hostnet/hostnettest"

func isolate() { hostnettest.Isolate() }
