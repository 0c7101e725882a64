package stack

import (
	"context"
	"io"
	"net/netip"
	"slices"
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
			f, fresh := table.get(t.Context(), k, k.dst)
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
		if _, fresh := table.get(t.Context(), key(1, 1), key(1, 1).dst); fresh {
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
			f, _ := table.get(context.Background(), key(1, 1), key(1, 1).dst)
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

// sink notes what is written to it, up to the datagram "end", with which it fails.
type sink struct{ got []string }

func (s *sink) Read([]byte) (int, error) { return 0, io.EOF }
func (s *sink) Close() error             { return nil }
func (s *sink) Write(p []byte) (int, error) {
	s.got = append(s.got, string(p))
	if string(p) == "end" {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// TestLateDatagrams: what has waited for its PacketConn for too long is dropped, what
// came later is carried.
func TestLateDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Stack{udp: newUDPTable(4, 4), link: &link{}}
		f, _ := s.udp.get(t.Context(), key(1, 1), key(1, 1).dst)
		wait := func(text string) {
			d := datagrams.Get().(*datagram)
			d.b, d.at = append(d.b, text...), s.udp.now()
			f.queue <- d
		}
		wait("late")
		time.Sleep(time.Millisecond)
		wait("in time")
		time.Sleep(udpLate)
		wait("end")
		var c sink
		s.questions(f, NewFlow(f.key.src, f.key.dst), &c)
		if want := []string{"in time", "end"}; !slices.Equal(c.got, want) || s.link.dropped.Load() != 1 {
			t.Errorf("carried %q, %d dropped; want %q and 1", c.got, s.link.dropped.Load(), want)
		}
		s.udp.remove(f)
	})
}
