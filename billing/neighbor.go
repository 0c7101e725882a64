package billing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// maxStrikes is how many disputes a neighbor may have before only a human
// brings it back.
const maxStrikes = 3

// Neighbor is a neighbor's account on one link: the link's Account. Add is
// lock-free; the rest is the marker protocol of docs/protocol.md section 7.2.
type Neighbor struct {
	meters [2]meter // by Direction
	due    atomic.Bool
	marked atomic.Uint64 // meters[Sent].total at the last marker

	book *Book
	peer *peer
	out  Outbox

	mu       sync.Mutex
	ended    bool
	changed  chan struct{} // closed and replaced at every step, for Flush
	mine     totals        // agreed at the start, as our ledger has them
	base     *totals       // agreed at the start by both; nil before the neighbor's HELLO
	agreed   totals        // agreed on this link, durable
	claimed  counts        // what the neighbor's last marker says it has sent
	nextMark time.Duration // by Config.Up
	nextUrge time.Duration // not before this do we look again whether to pay at once

	// Our markers: at most one waits for its answer.
	seq     uint32
	waiting *tally // sent, not yet agreed and durable here
	acked   uint32 // seq of the last one that was answered
	force   bool   // a marker even if nothing was sent
	reply   bool   // ask for one back

	// The neighbor's markers: at most one is being written.
	writing bool
	seen    uint32 // seq of the last one that is durable
	echoed  uint32 // the neighbor's seen, from its last durable one

	disputed bool
	told     state // what we announced last
	late     late  // likewise, of our payments
	rate     int   // cells a second that the link carries of the neighbor's; 0: as many as it can

	// Writes to the ledger, in order, the first one under way while busy. At most
	// three (HELLO, the neighbor's marker, the answer to ours), what Linked reads,
	// and maxPays.
	writes []write
	busy   bool
	pays   int // PAY messages among writes

	vouchers voucherLink // of the way of that name
}

type write struct {
	do   func(*tx) error
	then func()
}

// Admit says whether the neighbor may open a circuit that it pays for: nil, or
// ErrTier, ErrFull, ErrDisputed, ErrNoSettlement or ErrDue.
func (n *Neighbor) Admit(tier wire.Tier) error {
	if tier > MaxTier {
		return ErrTier
	}
	if tier == 0 {
		return nil
	}
	if n.book.ledger.full.Load() {
		return ErrFull
	}
	standing, reason := n.judge()
	switch {
	case standing == Active, standing == Warned, standing == Throttled:
		return nil
	case standing == Disputed:
		return ErrDisputed
	case reason == ReasonNoSettlement:
		return ErrNoSettlement
	}
	return ErrDue
}

// Marker is asked by the link's writer between batches.
func (n *Neighbor) Marker() []byte {
	sent := n.meters[Sent].total.Load()
	if !n.due.Load() && sent-n.marked.Load() < uint64(n.book.cfg.MarkerCells) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended || n.disputed || n.base == nil || n.waiting != nil {
		return nil // asked again when that ends
	}
	n.due.Store(false)
	if sent == n.marked.Load() && !n.force {
		return nil
	}
	n.seq++
	n.waiting = &tally{reply: n.reply, seq: n.seq, seen: n.seen, sent: n.meters[Sent].snapshot()}
	n.force, n.reply = false, false
	n.marked.Store(sent)
	n.nextMark = n.book.cfg.Up() + jitter(n.book.cfg.MarkerEvery)
	n.step()
	return n.waiting.append(make([]byte, 0, 256))
}

// step tells who waits that something has moved. n.mu is held.
func (n *Neighbor) step() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// tick is called about once a second.
func (n *Neighbor) tick(now time.Duration) {
	n.mu.Lock()
	mark := !n.ended && n.waiting == nil && now >= n.nextMark && n.meters[Sent].total.Load() != n.marked.Load()
	n.mu.Unlock()
	n.pump()
	if mark {
		n.due.Store(true)
		n.out.Wake()
	}
	n.judge()
	n.book.settler.Moved(n, n.book.cfg.Now())
	n.hurry(now)
}

// hurry has a debt looked at before the next scan when the neighbor warns us. A
// debt that is small by our own measure waits: nobody makes us pay fees for dust.
func (n *Neighbor) hurry(now time.Duration) {
	c := &n.book.cfg
	n.peer.mu.Lock()
	asked := n.peer.told.reason.paid()
	n.peer.mu.Unlock()
	if !asked || Amount(n.peer.payable.Load()) < c.urgent() {
		return
	}
	n.mu.Lock()
	due := now >= n.nextUrge
	if due {
		n.nextUrge = now + c.PollEvery
	}
	n.mu.Unlock()
	if due {
		n.book.urge()
	}
}

// Message takes a BILL frame's body; everything the link received before it has
// been counted. An error ends the link.
func (n *Neighbor) Message(b []byte) error {
	if len(b) == 0 {
		return ErrMessage
	}
	n.mu.Lock()
	ended, hello := n.ended, n.base != nil
	n.mu.Unlock()
	switch {
	case ended:
		return ErrReplaced
	case hello == (b[0] == kindHello):
		return fmt.Errorf("%w: hello is the first message and comes once", ErrMessage)
	}
	switch b[0] {
	case kindHello:
		return n.onHello(b)
	case kindTally:
		return n.onTally(b)
	case kindAck:
		return n.onAck(b)
	case kindState:
		s, err := parseState(b)
		if err != nil {
			return err
		}
		n.peer.mu.Lock()
		n.peer.told = *s
		n.peer.mu.Unlock()
		return nil
	case kindPay:
		if len(b) >= 2 && Way(b[1]) == WayDirect && n.book.onChain() != nil {
			return n.onLate(b[2:])
		}
		if len(b) < 2 || !n.book.settler.Takes(Way(b[1])) {
			return fmt.Errorf("%w: pay of another way", ErrMessage)
		}
		return n.book.settler.Message(n, b[2:])
	}
	return fmt.Errorf("%w: kind %d", ErrMessage, b[0])
}

// persist has the writer goroutine run do and, when it is durable, then. If the
// ledger cannot write (a full disk, its reserve used up) it is tried again at the next tick, what
// comes after it waits, the neighbor gets no answer, and credit runs out.
func (n *Neighbor) persist(do func(*tx) error, then func()) {
	n.mu.Lock()
	n.writes = append(n.writes, write{do, then})
	n.mu.Unlock()
	n.pump()
}

// pump gives the first write to the writer goroutine. A link that has ended
// writes nothing more.
func (n *Neighbor) pump() {
	n.mu.Lock()
	if n.busy || n.ended || len(n.writes) == 0 {
		n.mu.Unlock()
		return
	}
	n.busy = true
	w := n.writes[0]
	n.mu.Unlock()
	n.book.ledger.enqueue(func(tx *tx) error {
		n.mu.Lock()
		ended := n.ended
		n.mu.Unlock()
		if ended {
			return ErrReplaced
		}
		return w.do(tx)
	}, func(err error) {
		n.mu.Lock()
		n.busy = false
		if err == nil {
			n.writes = n.writes[1:]
		}
		n.mu.Unlock()
		switch {
		case err == nil:
			w.then()
			n.pump()
		case errors.Is(err, ErrMessage):
			n.out.Close()
		case !errors.Is(err, ErrReplaced) && !errors.Is(err, ErrClosed):
			n.book.cfg.Log.Error("billing ledger does not take counts", "err", err)
		}
	})
}

// fallOut disputes: credit stops, what was agreed stays owed.
func (n *Neighbor) fallOut(text string) {
	n.quarrel(text)
	n.book.ledger.enqueue(func(tx *tx) error { return tx.dispute(n.peer.row, text) }, func(error) {})
	n.judge()
}

// quarrel marks the dispute in memory.
func (n *Neighbor) quarrel(text string) {
	n.mu.Lock()
	n.disputed = true
	n.step()
	n.mu.Unlock()
	n.peer.mu.Lock()
	n.peer.strikes++
	n.peer.settle(state{standing: Disputed, reason: ReasonCounts}, n.book.cfg.Now())
	n.peer.dispute = text
	n.peer.mu.Unlock()
	n.book.cfg.Log.Warn("billing counts are disputed", "strikes", n.peer.strikes)
}

func (x *tx) dispute(neighbor int64, text string) error {
	return x.exec("UPDATE neighbor SET strikes = strikes + 1, dispute = ? WHERE id = ?", text, neighbor)
}

// Down says that the link has ended.
func (n *Neighbor) Down() {
	n.replace()
	n.peer.live.CompareAndSwap(n, nil)
}

// replace ends the account; jobs of it that are still waiting do nothing. What
// the neighbor was served and will now never agree to is remembered until it
// pays something, or it could have a credit's worth with every new link.
func (n *Neighbor) replace() {
	_, pending, _ := n.exposure()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ended {
		n.ended = true
		n.peer.lost.Store(int64(pending))
		n.step()
	}
}

// errEnded is what Flush reports for a link that ends under it.
var errEnded = errors.New("link ended before the counts were agreed")

// flush sends a marker now, asks for one back, and waits until both are agreed.
func (n *Neighbor) flush(ctx context.Context) error {
	n.mu.Lock()
	n.force, n.reply = true, true
	n.due.Store(true)
	want := n.seq + 1 // a marker that is out already has no reply flag
	n.mu.Unlock()
	n.out.Wake()
	for {
		n.mu.Lock()
		ended, disputed, changed := n.ended, n.disputed, n.changed
		// Ours is agreed, and one of theirs that was made after seeing ours.
		ok := n.seq >= want && n.acked >= want && n.echoed >= want && (n.waiting == nil || n.waiting.seq > want)
		n.mu.Unlock()
		switch {
		case disputed:
			return ErrDisputed
		case ok:
			return nil
		case ended:
			return errEnded
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("agree on counts: %w", ctx.Err())
		}
	}
}

// maxPays is how many PAY messages of a neighbor may wait for the ledger. One that
// keeps to the protocol has two at most.
const maxPays = 8

// persistPay is persist for a PAY message; an error ends the link.
func (n *Neighbor) persistPay(do func(*tx) error, then func()) error {
	n.mu.Lock()
	n.pays++
	over := n.pays > maxPays
	n.mu.Unlock()
	if over {
		return fmt.Errorf("%w: too many pay messages at a time", ErrMessage)
	}
	n.persist(do, func() {
		n.mu.Lock()
		n.pays--
		n.mu.Unlock()
		then()
	})
	return nil
}

// pay sends a PAY message of a way. Before the HELLOs and after the link's end
// there is none: Linked, of this link or the next, says it.
func (n *Neighbor) pay(way Way, body []byte) {
	n.mu.Lock()
	open := !n.ended && n.base != nil
	n.mu.Unlock()
	if open {
		_ = n.out.Bill(append([]byte{kindPay, byte(way)}, body...))
	}
}

// urge asks for a look at debts soon; more than one at a time are one.
func (b *Book) urge() {
	select {
	case b.urged <- struct{}{}:
	default:
	}
}
