package exit

import (
	"sync"
	"time"
)

// The times after which a TCP connection on which nothing moves is reset: RFC 5382
// REQ-5 asks for no less than 2 h 4 min, and 4 min where one side has finished.
const (
	tcpIdle    = 2*time.Hour + 4*time.Minute
	halfClosed = 15 * time.Minute
)

// quiet looks now and then whether a connection still carries anything.
type quiet struct {
	open, half time.Duration         // how long it may be silent, and with one side finished
	moved      func() (uint64, bool) // bytes so far; false: not known any more
	expire     func()

	mu       sync.Mutex // guards the rest
	timer    *time.Timer
	stopped  bool
	finished bool
	last     uint64
	since    time.Time // last is as it is
}

// checks is how often a connection is looked at within its time.
const checks = 8

func (q *quiet) start() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.since = time.Now()
	q.timer = time.AfterFunc(q.limit()/checks, func() {
		if q.over() {
			q.expire()
		}
	})
}

// limit is called with mu held.
func (q *quiet) limit() time.Duration {
	if q.finished {
		return q.half
	}
	return q.open
}

// over tells whether the time is over; it looks again later if not.
func (q *quiet) over() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return false
	}
	n, ok := q.moved()
	if !ok {
		return false
	}
	now := time.Now()
	if n != q.last {
		q.last, q.since = n, now
	}
	left := q.limit() - now.Sub(q.since)
	if left <= 0 {
		q.stopped = true
		return true
	}
	q.timer.Reset(min(left, q.limit()/checks))
	return false
}

// finish notes that one side has finished.
func (q *quiet) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished || q.stopped {
		return
	}
	q.finished = true
	q.timer.Reset(q.limit() / checks)
}

func (q *quiet) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.timer.Stop()
}
