package link

import (
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// Tunables of the receive windows. The initial window is the protocol's
// (wire.InitialCredit).
const (
	defaultMaxWindow = 16384 // cells: half a second of 300 Mbit/s; or a part of the budget,
	windowParts      = 16    // one of so many,
	leastMaxWindow   = 4096  // but not less than this
	grantFraction    = 4     // a grant is announced when 1/4 of the window is due
	minTuneRTT       = 250 * time.Microsecond
	tuneTrips        = 8
)

// inflow is the receiving half of a lane's credit: what the neighbor may send.
// left counts down as cells arrive (reader); held are those cells that the
// owner has not passed on yet; due are cells passed on and not yet granted
// again (below zero while a window shrinks); window is the sum that may be on
// its way or held at one time.
type inflow struct {
	left   atomic.Int64
	held   atomic.Int64
	due    atomic.Int64
	window atomic.Int64

	// The present window, for tuning; the reader's alone.
	count int64         // cells of it that have arrived
	since time.Duration // when the last one was used up, on the link's clock; 0: never
}

func (f *inflow) init() {
	f.left.Store(wire.InitialCredit)
	f.window.Store(wire.InitialCredit)
}

// arrive books n cells and says whether they were covered by credit.
func (f *inflow) arrive(n int) bool {
	if f.left.Add(int64(-n)) < 0 {
		return false
	}
	f.held.Add(int64(n))
	return true
}

// pass books that the owner has passed on n cells and says whether enough is
// due to tell the neighbor. It never books more than are held.
func (f *inflow) pass(n int64) bool {
	for {
		held := f.held.Load()
		n = min(n, held)
		if n <= 0 {
			return false
		}
		if f.held.CompareAndSwap(held, held-n) {
			break
		}
	}
	return f.due.Add(n) >= f.window.Load()/grantFraction
}

// grant takes what is due; the neighbor may send it from now on.
func (f *inflow) grant() int64 {
	for {
		n := f.due.Load()
		if n <= 0 {
			return 0
		}
		if f.due.CompareAndSwap(n, 0) {
			f.left.Add(n)
			return n
		}
	}
}

// tune is called by the reader for n cells more. When the neighbor has used a
// whole window within some round trips, and no more than half of it waits here,
// the window is what limits it and not what comes after us: tune doubles it up
// to the most, if the budget allows. (Eight trips, not one: the measured trip is
// the least one, and every loss on the way adds another.) When most of a grown
// window waits here, what comes after us has become slower, and the window
// shrinks by a quarter: a queue adds only delay. It says whether there is a grant
// to announce. The rule is the usual one for receive buffers (compare Fisk and
// Feng: Dynamic Right-Sizing, 2001), with a way back.
func (ln *Lane) tune(n int) bool {
	f := &ln.in
	w := f.window.Load()
	if f.count += int64(n); f.count < w {
		return false
	}
	now := ln.link.now()
	spent, first := now-f.since, f.since == 0
	f.count, f.since = 0, now
	held := f.held.Load()
	if held > w/4*3 {
		ln.shrink(w)
		return false
	}
	// The first window comes at once, whatever the rate of the grants after it.
	if first || w >= ln.link.maxWindow || held > w/2 || spent > tuneTrips*max(ln.link.RTT(), minTuneRTT) {
		return false
	}
	more := min(w, ln.link.maxWindow-w)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.state != open || !ln.link.budget.reserve(more) {
		return false
	}
	f.count = -more // these come at once too
	f.window.Store(w + more)
	f.due.Add(more)
	return true
}

// shrink takes a quarter off a window that has grown: as much of what is passed
// on next is not granted again.
func (ln *Lane) shrink(w int64) {
	less := min(w/4, w-wire.InitialCredit)
	if less <= 0 {
		return
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.state != open {
		return
	}
	ln.in.window.Store(w - less)
	ln.in.due.Add(-less)
	ln.link.budget.unreserve(less)
}
