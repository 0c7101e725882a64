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

func TestRelayMemory(t *testing.T) {
	for _, tc := range []struct {
		configured int
		machine    uint64
		want       int64
	}{
		{16, 1 << 40, 16 << 20}, {0, 0, memoryLeast}, {0, 512 << 20, 64 << 20}, {0, 1 << 40, memoryMost},
	} {
		if got := relayMemory(tc.configured, tc.machine); got != tc.want {
			t.Errorf("relayMemory(%d, %d) = %d, want %d", tc.configured, tc.machine, got, tc.want)
		}
	}
	if machineMemory() == 0 {
		t.Error("this machine's memory is not known")
	}
}
