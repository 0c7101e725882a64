package link

import (
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// A throttled link carries the cells of circuits that the neighbor has opened, and
// so pays for, at a bounded rate each way; everything else on it goes on as
// always. What may not be sent yet waits outside the scheduler's lists: its lanes
// keep what is queued, so that it backs up to whoever sends it. What the neighbor
// sends is bounded by granting late. A clock runs while the link is throttled,
// in the goroutine that watches it, and in no other case.

// throttleTick is how often a throttled link gives out what may move.
const throttleTick = 100 * time.Millisecond

// throttle is a link's. Guarded by Link.mu but for rate.
type throttle struct {
	rate    atomic.Int64 // cells a second, each way; 0: not throttled
	out, in int64        // cells that may be sent, and granted, until the next tick
	lanes   laneList     // that could send and may not
	grants  []*Lane      // that have credit to announce and may not
}

// Throttle bounds the cells of the neighbor's own circuits, in cells a second each
// way; 0 ends the bound, at once. It does not block.
func (l *Link) Throttle(cells int) {
	l.mu.Lock()
	l.slow.rate.Store(int64(max(cells, 0)))
	l.refill()
	l.mu.Unlock()
	l.wake()
	select {
	case l.pace <- struct{}{}:
	default:
	}
}

// refill begins another tick: what waits goes back to the scheduler. Called with
// mu held.
func (l *Link) refill() {
	s := &l.slow
	share := s.rate.Load() * int64(throttleTick) / int64(time.Second)
	// A grant may be larger than a tick's share; then the next ones pay for it.
	s.out, s.in = max(share, 1), min(s.in+max(share, 1), max(share, 1))
	if s.rate.Load() == 0 {
		s.in = 0
	}
	for ln := s.lanes.pop(); ln != nil; ln = s.lanes.pop() {
		l.old.push(ln)
	}
	l.grants = append(l.grants, s.grants...)
	clear(s.grants)
	s.grants = s.grants[:0]
}

// refillAndWake is refill for the watching goroutine.
func (l *Link) refillAndWake() {
	l.mu.Lock()
	l.refill()
	l.mu.Unlock()
	l.wake()
}

// allow says how many of n cells a lane may send now; a lane that may send none
// waits for the next tick.
func (l *Link) allow(ln *Lane, n int) int {
	if ln.ours || l.slow.rate.Load() == 0 {
		return n
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slow.rate.Load() == 0 {
		return n
	}
	if l.slow.out == 0 {
		ln.deficit = 0
		l.slow.lanes.push(ln)
		return 0
	}
	return int(min(int64(n), l.slow.out))
}

// spend books cells that a lane has sent.
func (l *Link) spend(ln *Lane, n int) {
	if ln.ours || l.slow.rate.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow.out = max(0, l.slow.out-int64(n))
}

// mayGrant tells whether credit may be announced on a lane now; if not it waits
// for the next tick.
func (l *Link) mayGrant(ln *Lane) bool {
	if ln.ours || l.slow.rate.Load() == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slow.rate.Load() == 0 || l.slow.in > 0 {
		return true
	}
	l.slow.grants = append(l.slow.grants, ln)
	return false
}

// granted books credit that was announced on a lane.
func (l *Link) granted(ln *Lane, n wire.Cells) {
	if ln.ours || l.slow.rate.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow.in -= int64(n)
}
