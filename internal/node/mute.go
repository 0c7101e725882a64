package node

import (
	"maps"
	"slices"
	"sync"
	"time"

	"cuttle/relay/circuit"
	"cuttle/relay/wire"
)

// mute remembers exits that have gone silent, until they are heard again or for
// shunTime: new flows are given to others meanwhile. That one session has gone silent
// may be any relay's doing, so it counts for flows of that session's key only; for
// all of them when the exit has not answered over another path either.
type mute struct {
	mu    sync.Mutex // guards since
	since map[muted]time.Time
}

// muted is what has gone silent: an exit for one key, or for all.
type muted struct {
	exit wire.NodeID
	key  circuit.Key
	all  bool // key is the zero value
}

func (m *mute) note(what muted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since == nil {
		m.since = make(map[muted]time.Time)
	}
	now := time.Now()
	maps.DeleteFunc(m.since, func(_ muted, since time.Time) bool { return now.Sub(since) >= shunTime })
	m.since[what] = now
}

// heard notes that the exit has answered a session of that key.
func (m *mute) heard(exit wire.NodeID, key circuit.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.since, muted{exit: exit, key: key})
	delete(m.since, muted{exit: exit, all: true})
}

func (m *mute) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.since)
}

// exits lists those that flows of a key should not be given to.
func (m *mute) exits(key circuit.Key) (out []wire.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for what, since := range m.since {
		if time.Since(since) < shunTime && (what.all || what.key == key) && !slices.Contains(out, what.exit) {
			out = append(out, what.exit)
		}
	}
	return out
}

// line is a circuit whose session tells when it has gone silent, and when its exit
// has answered.
type line struct {
	*circuit.Circuit
	key  circuit.Key
	mute *mute
}

// Silent notes that nothing comes any more.
func (l line) Silent() { l.mute.note(muted{exit: l.Exit(), key: l.key}) }

// Measured notes a round trip to the exit.
func (l line) Measured(trip time.Duration) {
	l.Circuit.Measured(trip)
	l.mute.heard(l.Exit(), l.key)
}
