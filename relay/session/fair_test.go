package session

import (
	"context"
	"encoding/binary"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// TestReliefIsByNeighbor: when sessions keep too much, the neighbor whose sessions keep
// most together loses its largest one, however little each of them keeps.
func TestReliefIsByNeighbor(t *testing.T) {
	for _, test := range []struct {
		name string
		from []byte // the neighbor of each session
		to   []byte // the neighbor that each comes over later
		keep []int64
		want int // the session that ends
	}{
		{"many small sessions", []byte{1, 1, 1, 1, 2}, []byte{1, 1, 1, 1, 2}, []int64{1, 2, 1, 1, 4}, 1},
		{"one large session", []byte{1, 1, 2, 3}, []byte{1, 1, 2, 3}, []int64{1, 2, 5, 1}, 2},
		{"moved to the neighbor", []byte{3, 1, 4, 2}, []byte{1, 1, 1, 2}, []int64{1, 3, 1, 4}, 1},
		{"moved away", []byte{1, 1, 1, 2}, []byte{1, 3, 4, 2}, []int64{2, 2, 2, 3}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := NewExit(func(wire.NodeID) Opener { return hang() }, ExitConfig{Kept: 8 * slabSize})
				var all []*resident
				x.mu.Lock()
				for i, from := range test.from {
					all = append(all, x.admit(wire.NodeID{from}, [32]byte{byte(i)}, wire.SessionID{byte(i)}))
				}
				x.mu.Unlock()
				last := len(all) - 1
				for i, n := range test.keep {
					if i == last {
						n-- // what is too much comes after the moves
					}
					x.allow(all[i], n*slabSize, true)
				}
				x.mu.Lock()
				for i, to := range test.to {
					if to != test.from[i] {
						x.move(all[i], wire.NodeID{to})
					}
				}
				x.mu.Unlock()
				x.allow(all[last], slabSize, true)
				synctest.Wait()
				for i, r := range all {
					if ended := x.sessions[r.index] == nil; ended != (i == test.want) {
						t.Errorf("session %d of neighbor %d, which keeps %d slabs: ended %v, want session %d only", i, test.to[i], test.keep[i], ended, test.want)
					}
					x.allow(r, -r.kept, true) // as its trunk does in the end
				}
				x.Close()
			})
		})
	}
}

// newcomer is a session at an exit whose client the test plays.
type newcomer struct {
	t  *testing.T
	x  *Exit
	id byte
	c  *wireLog
	h  Handler
}

func arrive(t *testing.T, x *Exit, id, from byte, c *wireLog) *newcomer {
	n := &newcomer{t: t, x: x, id: id}
	n.attach(from, c)
	return n
}

// attach has the session come over that neighbor.
func (n *newcomer) attach(from byte, c *wireLog) {
	n.t.Helper()
	resume := n.h != nil
	n.c, n.h = c, n.x.Accept(c, wire.NodeID{from})
	n.t.Cleanup(c.Close)
	if err := n.h(wire.PayloadAttach, wire.Reliable, attachBytes(n.id, resume, 0)); err != nil {
		n.t.Fatal(err)
	}
	synctest.Wait()
}

func (n *newcomer) packet(p []byte) {
	n.t.Helper()
	if err := n.h(wire.PayloadSession, wire.Reliable, p); err != nil {
		n.t.Fatal(err)
	}
	synctest.Wait()
}

// fill opens a stream and sends so many bytes on it.
func (n *newcomer) fill(id wire.StreamID, kind wire.Kind, p []byte) {
	n.t.Helper()
	n.packet(open(id, kind))
	for len(p) > 0 {
		k := min(len(p), maxData)
		n.packet(wire.AppendData(nil, id, p[:k]))
		p = p[k:]
	}
}

// server is the session at the exit, nil if it has ended.
func (n *newcomer) server() *server {
	n.x.mu.Lock()
	defer n.x.mu.Unlock()
	if r := n.x.sessions[n.x.indexOf(&wire.SessionID{n.id})]; r != nil {
		return r.s
	}
	return nil
}

func (n *newcomer) streams() int {
	if s := n.server(); s != nil {
		return s.m.count()
	}
	return -1
}

// unread is an opener of connections that take nothing.
func unread(t *testing.T) *world {
	return &world{tcp: func(context.Context) (Conn, error) {
		near, far := memPair()
		t.Cleanup(func() { _ = far.Close() })
		return near, nil
	}}
}

// TestBudgetIsByNeighbor: when sessions hold too much of what has been received, the
// neighbor whose sessions hold most together loses streams, however little each of its
// sessions holds, and over whichever neighbor they began.
func TestBudgetIsByNeighbor(t *testing.T) {
	for _, test := range []struct {
		name   string
		from   byte // where half of the small sessions begin; they go on over neighbor 1
		honest int  // bytes of the session of neighbor 2
	}{
		{"one neighbor", 1, 200_000},
		{"moved to the neighbor", 2, 200_000},
		{"from a third", 3, 250_000},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit, small = 2 << 20, 30
				shared := NewBudget(limit)
				o := unread(t)
				x := NewExit(func(wire.NodeID) Opener { return o }, ExitConfig{Session: Config{Shared: shared}})
				honest := arrive(t, x, 200, 2, newWireLog())
				honest.fill(1, wire.KindTCP, make([]byte, test.honest))
				var all []*newcomer
				for i := range byte(small) {
					from := byte(1)
					if i%2 == 0 {
						from = test.from
					}
					n := arrive(t, x, i, from, newWireLog())
					if from != 1 {
						n.attach(1, newWireLog())
					}
					n.fill(1, wire.KindTCP, make([]byte, 80_000))
					all = append(all, n)
				}
				if honest.streams() != 1 {
					t.Error("the one session of another neighbor lost its stream")
				}
				left := 0
				for _, n := range all {
					left += n.streams()
				}
				if used := shared.Used(); left == small || used > limit+limit/8 {
					t.Errorf("%d of %d streams of many small sessions are left, %d bytes are held; want fewer streams, and at most %d bytes", left, small, used, limit+limit/8)
				}
				x.Close()
				if used := shared.Used(); used != 0 || len(shared.sessions) != 0 {
					t.Errorf("after the end %d bytes of %d sessions are counted, want none", used, len(shared.sessions))
				}
			})
		})
	}
}

// narrow is a carrier that takes so many packets and then no more.
func narrow(packets int) *wireLog {
	return &wireLog{make(chan []byte, packets), make(chan struct{})}
}

// TestDatagramsCount: datagrams that wait for a carrier that takes nothing, or for one
// at all, count; the oldest are dropped when there are too many at the exit, and
// nobody else pays for them.
func TestDatagramsCount(t *testing.T) {
	for _, test := range []struct {
		name    string
		size, n int // of datagrams, per session
		lost    bool
	}{
		{"small ones, blocked", 1200, 300, false},
		{"large ones, blocked", 40_000, 20, false},
		{"small ones, no carrier", 1200, 300, true},
		{"large ones, no carrier", 40_000, 20, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit = 1 << 20
				shared := NewBudget(limit)
				sockets := make(chan *memFlow, 1)
				o := unread(t)
				o.udp = func(context.Context) (net.Conn, error) {
					f := newMemFlow()
					sockets <- f
					return f, nil
				}
				x := NewExit(func(wire.NodeID) Opener { return o }, ExitConfig{Session: Config{Shared: shared}})
				honest := arrive(t, x, 200, 2, newWireLog())
				honest.fill(1, wire.KindTCP, make([]byte, 100_000))
				var all []*newcomer
				for i := range byte(10) {
					n := arrive(t, x, i, 1, narrow(4))
					n.packet(open(1, wire.KindUDP))
					all = append(all, n)
					far := <-sockets
					if test.lost {
						n.c.Close()
						synctest.Wait()
					}
					for range test.n {
						far.in <- make([]byte, test.size)
						synctest.Wait()
					}
				}
				waiting := 0
				for _, n := range all {
					q := &n.server().m.sending
					q.mu.Lock()
					waiting += q.queue.bytes
					q.mu.Unlock()
				}
				if used := shared.Used(); used < int64(waiting)+100_000 || used > limit+limit/8 {
					t.Errorf("%d bytes are counted while %d of datagrams wait, want no less, and at most %d", used, waiting, limit+limit/8)
				}
				for id := range wire.StreamID(8) {
					honest.fill(id+2, wire.KindTCP, make([]byte, 1))
				}
				if used := shared.Used(); used > limit {
					t.Errorf("%d bytes are held after relief, want at most %d", used, limit)
				}
				if n := honest.streams(); n != 9 {
					t.Errorf("%d of 9 streams of another neighbor are left", n)
				}
				x.Close()
				if used := shared.Used(); used != 0 {
					t.Errorf("%d bytes are counted after the end", used)
				}
			})
		})
	}
}

// question is a DNS message of so many bytes behind its length.
func question(n int) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(n)), make([]byte, n)...)
}

// TestSlowMessage: a DNS message counts while it arrives, and has 15 s for that; a
// stream on which nothing has begun has all the time.
func TestSlowMessage(t *testing.T) {
	for _, test := range []struct {
		name string
		wait time.Duration // between the halves
		want int           // streams left
	}{
		{"in time", exchangeTime - time.Second, 1},
		{"too slow", exchangeTime + time.Second, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := NewBudget(1 << 20)
				x := NewExit(func(wire.NodeID) Opener { return answering() }, ExitConfig{Session: Config{Shared: shared}})
				n := arrive(t, x, 1, 1, newWireLog())
				n.fill(1, wire.KindDNS, question(100))
				time.Sleep(10 * exchangeTime)
				whole := question(40_000)
				for p := whole[:30_000]; len(p) > 0; p = p[min(len(p), 1000):] {
					n.packet(wire.AppendData(nil, 1, p[:min(len(p), 1000)]))
				}
				if used := shared.Used(); used < 30_000 || used > 30_000+chunkSize {
					t.Errorf("%d bytes are counted of 30000", used)
				}
				time.Sleep(test.wait)
				synctest.Wait()
				if got := n.streams(); got != test.want {
					t.Errorf("%d streams after %v, want %d", got, test.wait, test.want)
				}
				for p := whole[30_000:]; len(p) > 0; p = p[min(len(p), 1000):] {
					n.packet(wire.AppendData(nil, 1, p[:min(len(p), 1000)]))
				}
				if used := shared.Used(); used != 0 || n.streams() != test.want {
					t.Errorf("%d bytes are counted of what was answered or given up, and %d streams are left; want 0 and %d", used, n.streams(), test.want)
				}
				x.Close()
			})
		})
	}
}

// TestMessagesAreShed: DNS messages that are half there, wait for the resolver, or are
// answers that the client does not take, are given up when there are too many, in
// however many sessions of a neighbor; nobody else pays for them.
func TestMessagesAreShed(t *testing.T) {
	hanging := hang().resolve
	for _, test := range []struct {
		name    string
		send    []byte // on each stream
		packets int    // that a carrier takes
	}{
		{"half messages", question(60_000)[:59_000], 1024},
		{"half messages, carrier blocked", question(60_000)[:59_000], 2},
		{"unresolved", question(60_000), 1024},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit, sessions = 2 << 20, 40
				shared := NewBudget(limit)
				o := unread(t)
				o.resolve = hanging
				x := NewExit(func(wire.NodeID) Opener { return o }, ExitConfig{Session: Config{Shared: shared}})
				honest := arrive(t, x, 200, 2, newWireLog())
				honest.fill(1, wire.KindTCP, make([]byte, 200_000))
				var all []*newcomer
				for i := range byte(sessions) {
					n := arrive(t, x, i, 1, narrow(test.packets))
					for id := range wire.StreamID(maxLines) {
						n.fill(id+1, wire.KindDNS, test.send)
					}
					all = append(all, n)
				}
				honest.fill(2, wire.KindTCP, make([]byte, 150_000))
				for range 100 {
					honest.packet(wire.AppendData(nil, 1, []byte{1}))
					time.Sleep(100 * time.Millisecond)
				}
				if n := honest.streams(); n != 2 {
					t.Errorf("%d of 2 streams of another neighbor are left", n)
				}
				if used := shared.Used(); used > limit {
					t.Errorf("%d bytes are held, want at most %d", used, limit)
				}
				for i, n := range all {
					if n.server() == nil {
						t.Errorf("session %d has ended, want streams of it only", i)
					}
				}
				x.Close()
				if used := shared.Used(); used != 0 {
					t.Errorf("%d bytes are counted after the end", used)
				}
			})
		})
	}
}

// TestStuckSessionEnds: a session that holds most, has nothing to shed and gives nothing
// back ends, and no other; not before what was shed has had time to be given back.
func TestStuckSessionEnds(t *testing.T) {
	for _, test := range []struct {
		name  string
		waits []time.Duration // between the packets of another session
		eased int             // there is room after so many of them, for one packet
		want  bool            // it ends
	}{
		{"at once", []time.Duration{0, 0, 0}, -1, false},
		{"soon", []time.Duration{0, stuckTime / 2}, -1, false},
		{"for long", []time.Duration{0, stuckTime / 2, stuckTime}, -1, true},
		{"with a pause", []time.Duration{0, stuckTime / 2, stuckTime, 0}, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit = 1 << 20
				shared := NewBudget(limit)
				o := unread(t)
				x := NewExit(func(wire.NodeID) Opener { return o }, ExitConfig{Session: Config{Shared: shared}})
				honest := arrive(t, x, 200, 2, newWireLog())
				small, large := arrive(t, x, 1, 1, newWireLog()), arrive(t, x, 2, 1, newWireLog())
				small.server().m.memory.hold(limit / 4)
				held := &large.server().m.memory
				held.hold(limit)
				for i, wait := range test.waits {
					time.Sleep(wait)
					if i == test.eased {
						held.free(limit)
					}
					honest.fill(wire.StreamID(i+1), wire.KindTCP, make([]byte, 1))
					if i == test.eased {
						held.hold(limit)
					}
				}
				if ended := large.server() == nil; ended != test.want {
					t.Errorf("the stuck session has ended: %v, want %v", ended, test.want)
				}
				if small.server() == nil || honest.streams() != len(test.waits) {
					t.Error("another session has ended or lost streams")
				}
				x.Close()
			})
		})
	}
}
