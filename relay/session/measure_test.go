package session

import (
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
