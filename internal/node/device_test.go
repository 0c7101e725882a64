package node

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/tun/hostnet"
)

// TestNeighborsAskOnce has many flows of one address ask once, whether somebody has it
// or not, and again when that is old.
func TestNeighborsAskOnce(t *testing.T) {
	for _, want := range []error{nil, hostnet.ErrNoNeighbor} {
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int32
			n := neighbors{ask: func(string, netip.Addr) (string, error) {
				asked.Add(1)
				time.Sleep(time.Second)
				return "02:00:00:00:00:01", want
			}}
			a := netip.MustParseAddr("192.168.7.9")
			flows := func() {
				var all sync.WaitGroup
				for range 50 {
					all.Go(func() {
						if mac, err := n.find("lan0", a); mac != "02:00:00:00:00:01" || !errors.Is(err, want) {
							t.Errorf("found %q, %v; want the neighbor and %v", mac, err, want)
						}
					})
				}
				all.Wait()
			}
			flows()
			time.Sleep(neighborTime - time.Nanosecond)
			flows()
			if got := asked.Load(); got != 1 {
				t.Errorf("%d flows asked in the neighbor's time, want 1 (%v)", got, want)
			}
			time.Sleep(time.Nanosecond)
			flows()
			if got := asked.Load(); got != 2 {
				t.Errorf("after the neighbor's time %d have asked, want 2 (%v)", got, want)
			}
		})
	}
}

// TestNeighborsAreBounded has a host make up addresses: they do not push out one that
// somebody has.
func TestNeighborsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		real := netip.MustParseAddr("192.168.7.9")
		asked := 0 // for the real one
		n := neighbors{ask: func(_ string, a netip.Addr) (string, error) {
			if a != real {
				return "", hostnet.ErrNoNeighbor
			}
			asked++
			return "02:00:00:00:00:01", nil
		}}
		for i := range 5 * neighborsMost {
			made := netip.MustParseAddr(fmt.Sprintf("fd00::%x", i))
			if _, err := n.find("lan0", made); err == nil {
				t.Fatalf("%v has a neighbor", made)
			}
			if _, err := n.find("lan0", real); err != nil {
				t.Fatal(err)
			}
			if len(n.known) > neighborsMost {
				t.Fatalf("%d addresses are remembered, want at most %d", len(n.known), neighborsMost)
			}
		}
		if asked != 1 {
			t.Errorf("the real one was asked for %d times, want 1", asked)
		}
	})
}
