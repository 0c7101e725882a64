package node

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/circuit"
)

func TestEarlyRemembersWhoAnswered(t *testing.T) {
	one, two := netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("192.0.2.1:80")
	synctest.Test(t, func(t *testing.T) {
		for mode, want := range map[string]bool{earlyOff: false, earlyRecent: false, earlyAll: true} {
			a := &answered{mode: mode}
			if got := a.early(answer{dst: one}); got != want {
				t.Errorf("%s, nothing known: early %v, want %v", mode, got, want)
			}
			a.note(answer{dst: one}, true)
			if got := a.early(answer{dst: one}); got != (mode != earlyOff) {
				t.Errorf("%s, has answered: early %v", mode, got)
			}
		}
		a := &answered{mode: earlyRecent}
		a.note(answer{dst: one}, true)
		if a.early(answer{dst: two}) {
			t.Error("another port of a host that answered counts")
		}
		if a.early(answer{dst: one, key: circuit.Key{1}}) {
			t.Error("an answer to flows of another isolation key counts")
		}
		a.note(answer{dst: one}, false)
		if a.early(answer{dst: one}) {
			t.Error("a destination that has failed since counts")
		}
		a.note(answer{dst: one}, true)
		time.Sleep(recentTime)
		if a.early(answer{dst: one}) {
			t.Error("an old answer counts")
		}
		a.note(answer{dst: one}, true)
		a.forget()
		if a.early(answer{dst: one}) {
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
			a.note(answer{dst: at(i)}, true)
			time.Sleep(time.Millisecond)
		}
		if n := len(a.when); n != recentMost {
			t.Errorf("%d destinations are remembered, want %d", n, recentMost)
		}
		if a.early(answer{dst: at(0)}) || !a.early(answer{dst: at(recentMost + 9)}) {
			t.Error("the newest was dropped and not the oldest")
		}
	})
}
