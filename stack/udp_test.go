package stack

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func key(host, port int) udpKey {
	return udpKey{
		src: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(host)}), uint16(port)),
		dst: netip.MustParseAddrPort("192.0.2.1:443"),
	}
}

func TestUDPTableEvictsLongestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newUDPTable(4, 3)
		flows := map[udpKey]*udpFlow{}
		open := func(k udpKey) {
			time.Sleep(time.Second) // of the bubble
			f, fresh := table.get(t.Context(), k)
			if !fresh {
				t.Fatalf("flow %v is there already", k)
			}
			flows[k] = f
		}
		ended := func(k udpKey) bool { return flows[k].ctx.Err() != nil }
		open(key(1, 1))
		open(key(1, 2))
		open(key(1, 3))
		time.Sleep(time.Second)
		if _, fresh := table.get(t.Context(), key(1, 1)); fresh {
			t.Fatal("flow is gone without a reason")
		}
		open(key(1, 4)) // over the source's limit: the second is the longest idle
		if !ended(key(1, 2)) || ended(key(1, 1)) || ended(key(1, 3)) {
			t.Fatal("a source at its limit lost another flow than its longest idle one")
		}
		open(key(2, 1))
		open(key(3, 1)) // over the limit of all: 1:3
		if !ended(key(1, 3)) || ended(key(2, 1)) || table.len() != 4 {
			t.Fatal("a full table lost another flow than its longest idle one")
		}
		for _, f := range flows {
			table.remove(f)
		}
		if table.len() != 0 || len(table.sources) != 0 {
			t.Fatalf("%d flows of %d sources are left, want none", table.len(), len(table.sources))
		}
	})
}

func TestUDPTableIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newUDPTable(4, 4)
		life := func(replied bool, refresh time.Duration) time.Duration {
			f, _ := table.get(context.Background(), key(1, 1))
			f.replied.Store(replied)
			start := time.Now()
			time.AfterFunc(refresh, func() { table.touch(f) })
			table.watch(f)
			return time.Since(start)
		}
		if got := life(false, 0); got != udpUnreplied {
			t.Errorf("unreplied flow lived %v, want %v", got, udpUnreplied)
		}
		if got := life(true, 0); got != udpIdle {
			t.Errorf("replied flow lived %v, want %v", got, udpIdle)
		}
		if got := life(true, time.Minute); got != udpIdle+time.Minute {
			t.Errorf("refreshed flow lived %v, want %v", got, udpIdle+time.Minute)
		}
	})
}
