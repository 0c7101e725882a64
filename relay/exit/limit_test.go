package exit

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

var strangers atomic.Uint32

// someone makes the opener of a session that is alone on its neighbor.
func someone(e *Exit) *Circuit {
	var from wire.NodeID
	binary.BigEndian.PutUint32(from[:], strangers.Add(1))
	return e.Circuit(from)
}

func TestLimits(t *testing.T) {
	dst := listen(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)) })
	e := newExit(t, Config{Limits: Limits{Connections: 16, PerSession: 3}})
	a, b := someone(e), someone(e)
	var conns []session.Conn
	open := func(c *Circuit, want wire.Code) {
		t.Helper()
		conn, err := c.OpenTCP(t.Context(), dst)
		codeWanted(t, "open", err, want)
		if err == nil {
			conns = append(conns, conn)
		}
	}
	for range 3 {
		open(a, 0)
	}
	open(a, wire.CodeResources) // the session's limit
	for range 3 {
		open(b, 0)
	}
	_ = conns[0].Close()
	_ = conns[0].Close() // counts once
	open(a, 0)
	for e.places.count() < 8 {
		open(someone(e), 0)
	}
	for e.places.count() < 13 {
		open(someone(e), 0)
	}
	c := someone(e)
	open(c, 0)
	open(c, 0) // one is left
	open(c, wire.CodeResources)
	for e.places.count() < 16 {
		open(someone(e), 0)
	}
	open(someone(e), wire.CodeResources) // of all
	for _, c := range conns {
		c.Abort()
	}
	if got := e.Counts(); got.Limited != 3 || got.Open != 0 || got.Opened != 17 {
		t.Errorf("counts: %+v, want 17 opened, 3 limited, 0 open", got)
	}
}

// TestShareLeavesSome: beside those who have taken all they can get, another still
// gets something.
func TestShareLeavesSome(t *testing.T) {
	for greedy, want := range map[int]int{1: 650, 2: 520, 5: 250, 10: 80, 20: 8} {
		s := share{total: 4096, each: 1024, part: 4}
		for range greedy {
			for h := new(holder); s.take(h); {
			}
		}
		h := new(holder)
		for s.take(h) {
		}
		if h.used < want {
			t.Errorf("beside %d that take all they can: got %d of 4096, want %d", greedy, h.used, want)
		}
	}
}

// TestRates: a session may open so many at once, and all together.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newBareExit(t, Config{Limits: Limits{Rate: 10, Burst: 30, TotalRate: 20, TotalBurst: 50}})
		opened := func(c *Circuit) (n int) {
			for range 100 {
				if c.enter() {
					n++
				}
			}
			return n
		}
		a, b, c := someone(e), someone(e), someone(e)
		if x, y := opened(a), opened(b); x != 30 || y != 20 {
			t.Errorf("at once: %d of one session and %d of the next, want 30 and 20", x, y)
		}
		time.Sleep(time.Second) // of the bubble
		if x, y := opened(a), opened(c); x != 10 || y != 10 {
			t.Errorf("a second later: %d of one session and %d of another, want 10 and 10", x, y)
		}
	})
}

// newBareExit is newExit without sockets, for bubbles.
func newBareExit(t testing.TB, cfg Config) *Exit {
	t.Helper()
	cfg.Policy, cfg.Resolvers = policy(t, "allow 127.0.0.0/8"), at(netip.MustParseAddrPort("127.0.0.1:9"))
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestShareTurns: those with the fewest places come first, those who give up leave
// nothing behind.
func TestShareTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share{total: 8, each: 4, part: 4}
		a, b := new(holder), new(holder)
		for range 2 {
			if !s.take(a) {
				t.Fatal("no place of four")
			}
		}
		got := make(chan string, 8)
		wait := func(name string, h *holder) {
			go func() { // ends with a place
				if err := s.wait(t.Context(), h); err != nil {
					t.Error(err)
				}
				got <- name
			}()
			synctest.Wait()
		}
		wait("a", a) // has more than a quarter of what is left
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.wait(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a place that never comes: got %v, want the deadline", err)
		}
		wait("b", b)
		if len(got) != 1 || <-got != "b" {
			t.Fatal("one without places had to wait")
		}
		s.give(a)
		synctest.Wait()
		if len(got) != 1 || <-got != "a" {
			t.Fatal("a place that was given back reached nobody")
		}
		for _, h := range []*holder{a, a, b} {
			s.give(h)
		}
		if s.count() != 0 || a.used != 0 || b.used != 0 || len(s.waiting) != 0 {
			t.Errorf("at the end: %d places taken, %d and %d, %d wait; want none", s.count(), a.used, b.used, len(s.waiting))
		}
		s.total, s.each = 1, 0
		for range maxTurns {
			s.waiting = append(s.waiting, &turn{by: a})
		}
		if err := s.wait(t.Context(), b); !errors.Is(err, errTurns) {
			t.Errorf("behind too many: got %v, want an error", err)
		}
	})
}

// TestSlowNames: a session whose names are never answered does not keep others from
// having theirs.
func TestSlowNames(t *testing.T) {
	asked := make(chan struct{}, 100)
	e := newExit(t, Config{
		Limits: Limits{Queries: 8},
		Resolvers: at(resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
			if q.Question[0].Name == "slow.lab." {
				asked <- struct{}{}
				return
			}
			says("192.0.2.1")(w, q)
		}, silent)),
	})
	greedy := someone(e)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	for range 64 {
		go func() { // ends with cancel
			_, _ = greedy.Resolve(ctx, ask(t, "slow.lab.", dns.TypeA))
			ended <- struct{}{}
		}()
	}
	for range 2 { // of 8 places
		<-asked
	}
	for range 20 {
		b, err := someone(e).Resolve(t.Context(), ask(t, "web.lab.", dns.TypeA))
		if err != nil || unpacked(t, b).Rcode != 0 {
			t.Fatalf("beside a session with slow names: got %x, %v; want an answer", b, err)
		}
	}
	cancel()
	for range 64 {
		<-ended
	}
	if got := e.queries.count(); got != 0 {
		t.Errorf("%d places taken at the end, want 0", got)
	}
}

// TestQueryRate: questions beyond the rate get SERVFAIL, and reach no resolver.
func TestQueryRate(t *testing.T) {
	e := newExit(t, Config{
		Resolvers: at(resolver(t, says("192.0.2.1"), silent)),
	})
	c := someone(e)
	c.asking = bucket{burst: 2} // no token comes back on a slow machine
	for i, want := range []int{0, 0, dns.RcodeServerFailure} {
		b, err := c.Resolve(t.Context(), ask(t, "web.lab.", dns.TypeA))
		if err != nil || unpacked(t, b).Rcode != want {
			t.Errorf("question %d: got %x, %v; want code %d", i, b, err, want)
		}
	}
	if got := e.Counts(); got.Limited != 1 {
		t.Errorf("counts: %+v, want one limited", got)
	}
}
