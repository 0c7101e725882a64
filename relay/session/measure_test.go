package session

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// measuring is a carrier that wants to know round trips.
type measuring struct {
	*sessiontest.Carrier
	mu    sync.Mutex // guards trips
	trips []time.Duration
}

func (m *measuring) Measured(trip time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trips = append(m.trips, trip)
}

// TestTripsAreMeasured: the carrier is told how long ATTACH took to be answered, and
// each PING that the session has to send.
func TestTripsAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, down := sessiontest.Pipe(128)
		up.Delay, down.Delay = 30*time.Millisecond, 50*time.Millisecond
		line := &measuring{Carrier: up}
		c, s := NewClient(line, nil, Config{}), newServer(hang(), Config{})
		down.Attach(answerAttach(s.m, down))
		sessiontest.Join(up, down)
		if _, err := c.OpenTCP(somewhere); err != nil { // is not answered, so that the client asks
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		line.mu.Lock()
		trips := line.trips
		line.mu.Unlock()
		if len(trips) < 2 {
			t.Errorf("%d round trips were measured, want that of ATTACH and at least one PING", len(trips))
		}
		for i, trip := range trips {
			if trip != 80*time.Millisecond {
				t.Errorf("round trip %d took %v, want 80ms", i, trip)
			}
		}
		c.Close()
		s.Close()
		up.Wait()
	})
}

// Trip makes it a carrier that knows its path.
func (m *measuring) Trip() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.trips) == 0 {
		return 0
	}
	return m.trips[len(m.trips)-1]
}

// farSession is a session over a carrier with such a trip, each of whose streams is
// served by far; end ends it.
func farSession(t *testing.T, trip time.Duration, line func(*sessiontest.Carrier) Line, far func(*memConn)) (c *Client, end func()) {
	t.Helper()
	up, down := sessiontest.Pipe(1 << 14)
	up.Delay, down.Delay = trip/2, trip/2
	s := newServer(serving(t, far), Config{})
	down.Attach(answerAttach(s.m, down))
	sessiontest.Join(up, down)
	c = NewClient(line(up), nil, Config{})
	time.Sleep(2 * trip) // ATTACH is answered
	return c, func() {
		c.Close()
		s.Close()
		up.Wait()
	}
}

// known has the session know the trip, unknown not.
func known(c *sessiontest.Carrier) Line   { return &measuring{Carrier: c} }
func unknown(c *sessiontest.Carrier) Line { return c }

// fetch reads size bytes from a new stream until its end, and tells how long it took.
func fetch(t *testing.T, c *Client, size int64) time.Duration {
	t.Helper()
	begun := time.Now()
	st, err := c.OpenTCP(somewhere)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, st); n != size || err != nil {
		t.Errorf("%d bytes, %v; want %d", n, err, size)
	}
	return time.Since(begun)
}

// TestFarStreamsStartLarge: over a path that is known to be far what a destination has
// to say at once comes in one trip, over one that is not known in several.
func TestFarStreamsStartLarge(t *testing.T) {
	const trip, size = 150 * time.Millisecond, 1500 << 10
	for name, test := range map[string]struct {
		line        func(c *sessiontest.Carrier) Line
		least, most time.Duration
	}{
		"known":   {known, trip, trip * 5 / 4},
		"unknown": {unknown, 3 * trip, 6 * trip},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, end := farSession(t, trip, test.line, func(c *memConn) { _, _ = c.Write(make([]byte, size)) })
				defer end()
				if took := fetch(t, c, size); took < test.least || took > test.most {
					t.Errorf("%d bytes came after %v, want %v to %v", size, took, test.least, test.most)
				}
			})
		})
	}
}

// TestIdleStreamsLeaveRoom: a download over a far path is as fast beside streams that
// were opened and carry nothing, which have been given large windows as well.
func TestIdleStreamsLeaveRoom(t *testing.T) {
	const trip, size, idle = 150 * time.Millisecond, 40 << 20, 60
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Int32
		c, end := farSession(t, trip, known, func(c *memConn) {
			if opened.Add(1) <= idle { // they are opened one after the other
				_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
				return
			}
			_, _ = c.Write(make([]byte, size))
		})
		defer end()
		for range idle {
			if _, err := c.OpenTCP(somewhere); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * trip)
		}
		if took := fetch(t, c, size); took > 25*trip {
			t.Errorf("%d bytes came after %v, want at most %v", size, took, 25*trip)
		}
	})
}

// TestLeadLeavesRoom: large first windows take half of what windows may grow by at most,
// of a session's budget and of the one that it shares.
func TestLeadLeavesRoom(t *testing.T) {
	for name, m := range map[string]*memory{
		"own":    {limit: 64 << 20},
		"shared": {limit: 1 << 40, shared: NewBudget(64 << 20)},
	} {
		if first := m.lead(1 << 20); first != 1<<20 {
			t.Errorf("%s: the first stream got %d bytes of 1 MiB", name, first)
		}
		before := 4 << 20
		for range 100 {
			n := m.lead(4 << 20)
			if n > before {
				t.Errorf("%s: a stream got %d bytes, the one before %d", name, n, before)
			}
			before = n
		}
		if used := m.extra.Load(); used < 15<<20 || used > 16<<20 {
			t.Errorf("%s: a hundred streams got %d bytes, want nearly 16 MiB", name, used)
		}
		if !m.grow(16 << 20) {
			t.Errorf("%s: a stream that needs its window finds no room", name)
		}
	}
}

// TestFirstWindowTellsThePath: the window of a new stream says what to have under way, as
// long as nothing was sent; credit for what was read does not.
func TestFirstWindowTellsThePath(t *testing.T) {
	m := muxOn(newRecorder(1<<10), Config{})
	s := newStream(m, 1)
	for i, step := range []struct {
		credit, want int
	}{{1000 * maxData, wire.StreamWindow/maxData + 1000}, {3000 * maxData, wire.StreamWindow/maxData + 1000}} {
		if err := s.credit(uint32(step.credit)); err != nil {
			t.Fatal(err)
		}
		if got := int(m.trunk.flight.bound()); got < step.want-1 || got > step.want+1 {
			t.Errorf("after WINDOW %d: %d packets may be under way, want %d", i+1, got, step.want)
		}
	}
	used := newStream(m, 3)
	used.credits -= 1000
	before := m.trunk.flight.bound()
	if err := used.credit(4096 * maxData); err != nil || m.trunk.flight.bound() != before {
		t.Errorf("credit of a stream that has sent changes what may be under way from %d to %d packets (%v)", before, m.trunk.flight.bound(), err)
	}
	m.close()
}

// TestCarrierTellsThePath: what may be under way on a new carrier goes by the least trip
// that it was found to take.
func TestCarrierTellsThePath(t *testing.T) {
	up, _ := sessiontest.Pipe(1)
	line := &measuring{Carrier: up, trips: []time.Duration{150 * time.Millisecond}}
	m := newMux(Config{})
	if _, err := m.trunk.adopt(&attachment{carrier: line}, 0); err != nil {
		t.Fatal(err)
	}
	if got := m.trunk.flight.bound(); got != 1800 {
		t.Errorf("%d packets may be under way at first, want 1800", got)
	}
	for _, step := range []struct {
		trip time.Duration
		want int
	}{{5 * time.Second, 1800}, {100 * time.Millisecond, 1200}, {150 * time.Millisecond, 1200}} {
		line.Measured(step.trip)
		if got := m.trunk.lead(); got != step.want*maxData {
			t.Errorf("after a trip of %v the peer is to be granted %d bytes, want %d packets", step.trip, got, step.want)
		}
	}
	m.trunk.close()
}
