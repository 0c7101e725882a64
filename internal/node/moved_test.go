package node

import (
	"net/netip"
	"testing"
	"time"
)

// A link from an address that this machine has no more ends at once and is dialled
// again; links from addresses that are there stay.
func TestLinksFollowAddresses(t *testing.T) {
	nw := newNetwork(t, "plain")
	nb := nw.nodes["c"].links
	r1 := nw.nodes["r1"].id.ID
	for deadline := time.Now().Add(2 * time.Minute); nb.lookup(r1) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no link")
		}
	}
	l := nb.lookup(r1)
	nb.leave([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")})
	select {
	case <-l.Done():
		t.Fatal("a link from an address that is there was ended")
	default:
	}
	nb.leave([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
	nb.moved.raise()
	select {
	case <-l.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("the link stays")
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		if now := nb.lookup(r1); now != nil && now != l {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the neighbor was not dialled again")
		}
	}
}
