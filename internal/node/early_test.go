package node

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

func TestEarlyRemembersWhoAnswered(t *testing.T) {
	one, two := netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("192.0.2.1:80")
	synctest.Test(t, func(t *testing.T) {
		for mode, want := range map[string]bool{earlyOff: false, earlyRecent: false, earlyAll: true} {
			a := &answered{mode: mode}
			if got := a.early(one, wire.NodeID{}); got != want {
				t.Errorf("%s, nothing known: early %v, want %v", mode, got, want)
			}
			a.note(one, wire.NodeID{}, true)
			if got := a.early(one, wire.NodeID{}); got != (mode != earlyOff) {
				t.Errorf("%s, has answered: early %v", mode, got)
			}
		}
		a := &answered{mode: earlyRecent}
		a.note(one, wire.NodeID{}, true)
		if a.early(two, wire.NodeID{}) {
			t.Error("another port of a host that answered counts")
		}
		a.note(one, wire.NodeID{}, false)
		if a.early(one, wire.NodeID{}) {
			t.Error("a destination that has failed since counts")
		}
		a.note(one, wire.NodeID{}, true)
		time.Sleep(recentTime)
		if a.early(one, wire.NodeID{}) {
			t.Error("an old answer counts")
		}
		a.note(one, wire.NodeID{}, true)
		a.forget()
		if a.early(one, wire.NodeID{}) {
			t.Error("a forgotten answer counts")
		}
	})
}

func TestEarlyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answered{mode: earlyRecent}
		at := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
		}
		for i := range recentMost + 10 {
			a.note(at(i), wire.NodeID{}, true)
			time.Sleep(time.Millisecond)
		}
		if n := len(a.when); n != recentMost {
			t.Errorf("%d destinations are remembered, want %d", n, recentMost)
		}
		if a.early(at(0), wire.NodeID{}) || !a.early(at(recentMost+9), wire.NodeID{}) {
			t.Error("the newest was dropped and not the oldest")
		}
	})
}
