package session

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/session/sessiontest"
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

// TestFarStreamsStartLarge: over a path that is known to be far what a destination has
// to say at once comes in one trip, over one that is not known in several.
func TestFarStreamsStartLarge(t *testing.T) {
	const trip, size = 150 * time.Millisecond, 1500 << 10
	for name, test := range map[string]struct {
		line        func(c *sessiontest.Carrier) Line
		least, most time.Duration
	}{
		"known":   {func(c *sessiontest.Carrier) Line { return &measuring{Carrier: c} }, trip, trip * 5 / 4},
		"unknown": {func(c *sessiontest.Carrier) Line { return c }, 3 * trip, 6 * trip},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up, down := sessiontest.Pipe(1 << 14)
				up.Delay, down.Delay = trip/2, trip/2
				s := newServer(serving(t, func(c *memConn) { _, _ = c.Write(make([]byte, size)) }), Config{})
				down.Attach(answerAttach(s.m, down))
				sessiontest.Join(up, down)
				c := NewClient(test.line(up), nil, Config{})
				time.Sleep(2 * trip) // ATTACH is answered
				begun := time.Now()
				st, err := c.OpenTCP(somewhere)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, st); n != size || err != nil {
					t.Errorf("%d bytes, %v; want %d", n, err, size)
				}
				if took := time.Since(begun); took < test.least || took > test.most {
					t.Errorf("%d bytes came after %v, want %v to %v", size, took, test.least, test.most)
				}
				_ = st.Close()
				c.Close()
				s.Close()
				up.Wait()
			})
		})
	}
}

// TestLeadLeavesRoom: streams that are given large windows at first leave most of what
// windows may grow by to those that show that they need it.
func TestLeadLeavesRoom(t *testing.T) {
	shared := NewBudget(40 << 20)
	m := memory{limit: 64 << 20, shared: shared}
	sum, before := 0, 4<<20
	for i := range 100 {
		n := m.lead(4 << 20)
		if n > before {
			t.Fatalf("stream %d got %d bytes, the one before %d", i, n, before)
		}
		sum, before = sum+n, n
	}
	if left := shared.limit/2 - shared.extra.Load(); sum < 16<<20 || left <= 0 || int64(sum) != m.extra.Load() {
		t.Errorf("a hundred streams got %d bytes, %d are left", sum, left)
	}
	if first := (&memory{limit: 64 << 20}).lead(1 << 20); first != 1<<20 {
		t.Errorf("the first stream got %d bytes of 1 MiB", first)
	}
}
