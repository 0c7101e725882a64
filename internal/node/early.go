package node

import (
	"net/netip"
	"sync"
	"time"

	"cuttle/relay/circuit"
	"cuttle/relay/wire"
)

// When a program's connection is accepted before the exit has connected the
// destination (config.Client.Early). What the program then sends travels with
// the OPEN: a round trip through the circuit less until its first byte. A
// destination that refuses after all looks like one that accepts and resets.
const (
	earlyOff    = "off"
	earlyRecent = "recent" // destinations that have answered lately
	earlyAll    = "all"
)

const (
	recentTime = 10 * time.Minute // how long an answer counts
	recentMost = 1024             // destinations remembered
)

// answered remembers which destinations have accepted a connection lately. It
// stays in memory and is forgotten when the client goes off. Its methods may be
// called by any goroutine.
type answered struct {
	mode string

	mu   sync.Mutex // guards when
	when map[answer]time.Time
}

// answer is a destination, through the exit that has reached it (another may be
// refused), for flows of one isolation key: an exit sees who does not wait, and must
// not learn from it that two keys are one client's.
type answer struct {
	key  circuit.Key
	dst  netip.AddrPort
	exit wire.NodeID
}

// early tells whether a connection is accepted at once.
func (a *answered) early(to answer) bool {
	switch a.mode {
	case earlyAll:
		return true
	case earlyRecent:
		a.mu.Lock()
		defer a.mu.Unlock()
		at, ok := a.when[to]
		return ok && time.Since(at) < recentTime
	}
	return false
}

// note remembers how a connection has gone.
func (a *answered) note(to answer, accepted bool) {
	if a.mode != earlyRecent {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !accepted {
		delete(a.when, to)
		return
	}
	if a.when == nil {
		a.when = make(map[answer]time.Time)
	}
	if _, known := a.when[to]; !known && len(a.when) >= recentMost {
		a.dropOldest()
	}
	a.when[to] = time.Now()
}

// dropOldest makes room for one. Called with mu held.
func (a *answered) dropOldest() {
	var oldest answer
	var at time.Time
	for dst, t := range a.when {
		if at.IsZero() || t.Before(at) {
			oldest, at = dst, t
		}
	}
	delete(a.when, oldest)
}

// forget drops everything.
func (a *answered) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.when = nil
}
