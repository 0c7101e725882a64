package node

import (
	"sync"
	"time"

	"cuttle/relay/circuit"
	"cuttle/relay/wire"
)

// mute remembers exits whose sessions have gone silent, whatever on the path the
// cause is, until they are heard again or for shunTime: new flows are given to
// others meanwhile.
type mute struct {
	mu    sync.Mutex // guards since
	since map[wire.NodeID]time.Time
}

func (m *mute) note(exit wire.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since == nil {
		m.since = make(map[wire.NodeID]time.Time)
	}
	m.since[exit] = time.Now()
}

func (m *mute) heard(exit wire.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.since, exit)
}

func (m *mute) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.since)
}

// exits lists them.
func (m *mute) exits() (out []wire.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for exit, since := range m.since {
		if time.Since(since) < shunTime {
			out = append(out, exit)
		} else {
			delete(m.since, exit)
		}
	}
	return out
}

// line is a circuit whose session tells when it has gone silent, and when its exit
// has answered.
type line struct {
	*circuit.Circuit
	mute *mute
}

// Silent notes that nothing comes any more.
func (l line) Silent() { l.mute.note(l.Exit()) }

// Measured notes a round trip to the exit.
func (l line) Measured(trip time.Duration) {
	l.Circuit.Measured(trip)
	l.mute.heard(l.Exit())
}
