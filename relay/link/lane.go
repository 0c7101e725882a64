package link

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// ErrClosed is returned for a lane or link that has ended.
var ErrClosed = errors.New("closed")

// Receiver is the owner of a lane: what comes out of it. The link's one reader
// makes all calls but Closed, one at a time, and the methods must not block.
type Receiver interface {
	// Created answers Link.Open: the neighbor accepted. msg2 is valid during the
	// call.
	Created(msg2 []byte)
	// Refused answers Link.Open too; nothing is called after it.
	Refused(reason wire.Reason)
	// Cells takes cells that came one after another, at least one, and owns them;
	// the slice is valid during the call. What was passed on is to be granted back
	// with Lane.Grant.
	Cells(cells []*wire.Cell)
	// Closed says that the lane ended without a Close of ours. It is called at
	// most once, possibly by Run's own goroutine and beside Cells.
	Closed()
}

// state of a lane. Arrows: offered (theirs) or opening (ours) -> open ->
// closing (we sent CLOSE or REFUSE and wait for theirs) -> gone. Every state
// may go to closing or gone.
type state uint8

const (
	offered state = iota // the neighbor's CREATE is not answered yet
	opening              // our CREATE is not answered yet
	open
	closing
	gone
)

// Lane is one circuit's place on one link. Send, Grant, Close and the getters
// may be called by any goroutine.
type Lane struct {
	link *Link
	id   wire.CircuitID
	tier wire.Tier
	ours bool // we opened it and pay

	mu       sync.Mutex // guards the fields up to listed
	state    state
	answered bool // CREATED went over the link, either way
	recv     Receiver
	onSent   func(n int)
	queue    ring
	stamp    time.Duration // when a cell was taken last, or the queue began: the time of those that come; saves reading the clock for each
	credit   int64         // cells we may still send
	listed   bool          // in the scheduler's lists, or being served

	queued   atomic.Int32 // length of queue
	oldest   atomic.Int64 // when the oldest cell was queued, on the link's clock
	in       inflow
	granting atomic.Bool // in the link's list of grants
	sent     atomic.Uint64
	received atomic.Uint64

	next    *Lane // in the scheduler's list; guarded by link.mu
	deficit int   // cells left of its turn; the writer's alone
}

func newLane(l *Link, id wire.CircuitID, tier wire.Tier, ours bool, r Receiver) *Lane {
	ln := &Lane{link: l, id: id, tier: tier, ours: ours, recv: r, credit: wire.InitialCredit}
	if ours {
		ln.state = opening
	}
	ln.in.init()
	l.budget.open()
	return ln
}

// Link returns the link that the lane is on.
func (ln *Lane) Link() *Link { return ln.link }

// Tier returns what the opener pays per cell.
func (ln *Lane) Tier() wire.Tier { return ln.tier }

// Ours tells whether this node opened the lane.
func (ln *Lane) Ours() bool { return ln.ours }

// Queued returns how many cells wait to be sent.
func (ln *Lane) Queued() int { return int(ln.queued.Load()) }

// Taken returns how many cells have been taken off to be sent so far.
func (ln *Lane) Taken() uint64 { return ln.sent.Load() }

func (ln *Lane) payer() Payer {
	if ln.ours {
		return WePay
	}
	return TheyPay
}

// OnSent sets what the link's writer calls after it has taken n cells off the
// queue. It must not block. A relay grants there what the cells cost on the
// other side.
func (ln *Lane) OnSent(f func(n int)) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.onSent = f
}

// Created accepts a lane that the neighbor opened: it queues CREATED with msg2
// (wire.HopMsg2Size bytes, copied) and gives everything that follows to r. It
// returns ErrClosed, and r is never called, if the lane has ended meanwhile.
func (ln *Lane) Created(msg2 []byte, r Receiver) error {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.state != offered {
		return ErrClosed
	}
	ln.state, ln.recv, ln.answered = open, r, true
	ln.link.control(wire.AppendCreated(nil, ln.id, msg2))
	return nil
}

// Refuse turns down a lane that the neighbor opened. REFUSE stands for our
// CLOSE; the neighbor answers with its own.
func (ln *Lane) Refuse(reason wire.Reason) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.state != offered {
		return
	}
	ln.endLocked(closing)
	ln.link.control(wire.AppendRefuse(nil, ln.id, reason))
}

// Send queues a cell and owns it; see SendAll.
func (ln *Lane) Send(c *wire.Cell) {
	one := [1]*wire.Cell{c}
	ln.SendAll(one[:])
}

// SendAll queues cells in their order and owns them, not the slice. On a lane that
// is not open they are dropped. The caller bounds the queue, by credit granted
// elsewhere or by Queued; a lane that holds twice the largest window all the same
// is closed.
func (ln *Lane) SendAll(cells []*wire.Cell) {
	l := ln.link
	ln.mu.Lock()
	if ln.state != open {
		ln.mu.Unlock()
		wire.ReleaseCells(cells)
		return
	}
	if ln.queue.n == 0 {
		ln.stamp = l.now()
		ln.oldest.Store(int64(ln.stamp))
	}
	for _, c := range cells {
		ln.queue.push(c, ln.stamp)
	}
	n := ln.queue.n
	ln.queued.Store(int32(n))
	activate := !ln.listed && ln.credit > 0
	if activate {
		ln.listed = true
		ln.deficit = quantum
		l.activate(ln, false)
	}
	ln.mu.Unlock()
	if activate {
		l.wake()
	}
	if total := l.queued.Add(int64(len(cells))); total>>6 != (total-int64(len(cells)))>>6 {
		l.budget.relieve()
	}
	if int64(n) > 2*l.maxWindow {
		ln.evict()
	}
}

// Grant tells that n cells which came from this lane have been passed on, so
// that the neighbor may send as many more. It is told in batches.
func (ln *Lane) Grant(n int) {
	if ln.in.pass(int64(n)) {
		ln.announce()
	}
}

func (ln *Lane) announce() {
	if ln.granting.CompareAndSwap(false, true) {
		ln.link.grant(ln)
	}
}

// Close ends the lane: what is queued is dropped, the neighbor gets a CLOSE.
// The Receiver is not called again, except for calls already under way.
func (ln *Lane) Close() { ln.shut() }

// evict is Close for a reason of the link's own: the Receiver is told. Whoever
// called Send may hold locks of the Receiver's, so another goroutine tells it.
func (ln *Lane) evict() {
	if r := ln.shut(); r != nil {
		ln.link.bereave(r)
	}
}

// shut does Close and returns the receiver if this call ended the lane.
func (ln *Lane) shut() Receiver {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.state >= closing {
		return nil
	}
	r := ln.recv
	ln.endLocked(closing)
	ln.link.control(wire.AppendClose(nil, ln.id))
	return r
}

// theirClose takes the neighbor's CLOSE, or the end of the link, and returns
// the receiver to tell and whether a CLOSE of ours is due.
func (ln *Lane) theirClose() (r Receiver, answer bool) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.state >= closing {
		ln.state = gone
		return nil, false
	}
	r = ln.recv
	ln.endLocked(gone)
	return r, true
}

// endLocked leaves the states in which cells are queued.
func (ln *Lane) endLocked(s state) {
	ln.state = s
	ln.recv, ln.onSent = nil, nil
	n := ln.queue.drop()
	ln.queued.Store(0)
	ln.link.queued.Add(int64(-n))
	ln.link.budget.giveBack(ln.in.window.Load())
}

// take moves up to most cells (at most turn) into the writer's batch as frames and
// returns the batch, how many they were, and whether the lane could send more.
func (ln *Lane) take(batch []byte, most int) (_ []byte, n int, more bool) {
	var cells [turn]*wire.Cell
	ln.mu.Lock()
	n = int(min(int64(min(most, ln.queue.n)), ln.credit))
	for i := range n {
		cells[i] = ln.queue.pop()
	}
	ln.credit -= int64(n)
	ln.queued.Store(int32(ln.queue.n))
	if n > 0 && ln.queue.n > 0 {
		ln.stamp = ln.link.now()
		ln.oldest.Store(int64(ln.queue.oldest()))
	}
	more = ln.queue.n > 0 && ln.credit > 0
	f := ln.onSent
	ln.mu.Unlock()
	if n == 0 {
		return batch, n, more
	}
	for _, c := range cells[:n] {
		batch = wire.AppendCell(batch, c.Class, ln.id, c.Body())
	}
	wire.ReleaseCells(cells[:n])
	ln.sent.Add(uint64(n))
	ln.link.queued.Add(int64(-n))
	if f != nil {
		f(n)
	}
	return batch, n, more
}

// unlist takes the lane out of the scheduler unless it could send again by now.
func (ln *Lane) unlist() {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.queue.n > 0 && ln.credit > 0 {
		ln.link.activate(ln, true)
		return
	}
	ln.listed = false
}

// addCredit takes a CREDIT of the neighbor's; false if it is out of place.
func (ln *Lane) addCredit(n uint32) bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	switch ln.state {
	case open:
	case closing:
		return ln.answered // it crossed our CLOSE
	default:
		return false
	}
	if ln.credit += int64(n); ln.credit > maxCredit {
		return false
	}
	if !ln.listed && ln.queue.n > 0 {
		ln.listed = true
		ln.link.activate(ln, true)
		ln.link.wake()
	}
	return true
}
