package session

import (
	"time"

	"cuttle/relay/wire"
)

// roundTripFloor is the least round trip that tuning reckons with: below it,
// scheduling and queues on the way weigh more than the path.
const roundTripFloor = 25 * time.Millisecond

const tuneTrips = 8

// window is the receiving side's account of one stream, in bytes counted from
// the stream's start. It is guarded by the stream's mutex.
//
// The window doubles when the reader has drained all of it within eight round
// trips (the least trip seen counts, and every loss on the way adds one) and keeps up (at most half a window is unread), as long as the session's
// budget allows. A round trip is measured from granting credit to the first byte
// that needed it, which is never less than the true one.
type window struct {
	size     int    // bytes the peer may be ahead of the reader
	max      int    // bytes size may grow to; 0: closed
	limit    uint64 // granted so far
	received uint64
	consumed uint64

	probe     uint64 // the limit before the last grant that is being timed; 0: none
	probeTime time.Time
	trip      time.Duration // least round trip seen; 0: none yet

	epoch      time.Time // since when consumed-epochStart bytes have been drained
	epochStart uint64
}

func newWindow(most int) window {
	return window{size: wire.StreamWindow, max: most, limit: wire.StreamWindow}
}

// open makes the window of a new stream as large as a far path needs, as the budget
// allows, and returns how much to grant for that.
func (w *window) open(size int, m *memory) (grant int) {
	grant = m.lead(min(size, w.max) - w.size)
	w.size += grant
	w.limit += uint64(grant)
	return grant
}

func (w *window) unread() int { return int(w.received - w.consumed) }

// receive counts n bytes from the peer; false if they exceed what was granted.
func (w *window) receive(n int) bool {
	if uint64(n) > w.limit-w.received {
		return false
	}
	if w.epoch.IsZero() {
		w.epoch = time.Now()
	}
	w.received += uint64(n)
	if w.probe != 0 && w.received > w.probe {
		w.probe = 0
		if d := time.Since(w.probeTime); w.trip == 0 || d < w.trip {
			w.trip = d
		}
	}
	return true
}

// consume counts n bytes as read and returns how many to grant now: nothing
// until a quarter of the window has been used up.
func (w *window) consume(n int, m *memory) (grant int) {
	w.consumed += uint64(n)
	if w.max == 0 {
		return 0
	}
	due := w.consumed + uint64(w.size) - w.limit
	if due < uint64(w.size)/4 {
		return 0
	}
	now := time.Now()
	w.tune(now, m)
	due = w.consumed + uint64(w.size) - w.limit
	if w.probe == 0 {
		w.probe, w.probeTime = w.limit, now
	}
	w.limit += due
	return int(due)
}

func (w *window) tune(now time.Time, m *memory) {
	elapsed := now.Sub(w.epoch)
	fast := elapsed <= tuneTrips*max(w.trip, roundTripFloor)
	drained := w.consumed - w.epochStart
	if fast && drained < uint64(w.size) {
		return
	}
	if fast && w.unread() <= w.size/2 {
		more := min(w.size, w.max-w.size)
		if more > 0 && m.grow(more) {
			w.size += more
		}
	}
	w.epoch, w.epochStart = now, w.consumed
}

// close gives back what the window had of the budget; nothing more is granted.
func (w *window) close(m *memory) {
	if w.max != 0 {
		m.shrink(w.size - wire.StreamWindow)
		w.max = 0
	}
}
