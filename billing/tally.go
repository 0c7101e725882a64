package billing

import (
	"fmt"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// The marker protocol, docs/protocol.md section 7.2, in the order of a link's
// life: HELLO, the neighbor's markers, the answers to ours.

// onHello takes the neighbor's settlement details and settles the counts that
// both start from: the lower of the two totals, place by place.
func (n *Neighbor) onHello(b []byte) error {
	h, err := parseHello(b)
	if err != nil {
		return err
	}
	if err := n.book.verifyBinding(n.peer.id, h); err != nil {
		return err
	}
	theirs := h.totals.flipped()
	n.mu.Lock()
	base := n.mine
	for dir := range base {
		for p := range base[dir] {
			for t := range base[dir][p] {
				base[dir][p][t] = min(base[dir][p][t], theirs[dir][p][t])
			}
		}
	}
	n.base = &base
	n.mu.Unlock()
	n.peer.mu.Lock()
	n.peer.theirs = h
	n.peer.mu.Unlock()

	lost := "" // set by the job
	n.persist(func(tx *tx) error {
		proven, err := tx.readTotals(n.peer.row, "proven")
		if err != nil {
			return err
		}
		if lost = firstBelow(&theirs, &proven); lost != "" {
			return tx.dispute(n.peer.row, lost)
		}
		if err := tx.setTotals(n.peer, &base); err != nil {
			return err
		}
		return tx.bind(n.peer, h)
	}, func() {
		if lost != "" {
			n.quarrel(lost)
		}
		n.out.Wake() // a marker may have waited for this
		n.judge()
		n.book.settler.Linked(n)
		if n.book.onChain() != nil && n.book.unseen(n.peer) {
			n.book.urge()
		}
	})
	return nil
}

// firstBelow names a total that the neighbor once showed to hold and now denies.
func firstBelow(theirs, proven *totals) string {
	for dir := range proven {
		for p := range proven[dir] {
			for t, had := range proven[dir][p] {
				if theirs[dir][p][t] < had {
					return fmt.Sprintf("the neighbor had agreed to %d cells (tier %d) and now knows of %d", had, t, theirs[dir][p][t])
				}
			}
		}
	}
	return ""
}

// onTally compares the neighbor's marker with what we have received up to it.
func (n *Neighbor) onTally(b []byte) error {
	t, err := parseTally(b)
	if err != nil {
		return err
	}
	claimed := t.sent.flipped()
	got := n.meters[Received].snapshot() // exact: this is the reader's goroutine
	n.mu.Lock()
	switch {
	case n.disputed:
		n.mu.Unlock()
		return nil
	case n.writing || t.seq != n.seen+1 || t.seen > n.seq:
		n.mu.Unlock()
		return fmt.Errorf("%w: tally out of turn", ErrMessage)
	}
	n.claimed = claimed
	if p, tier, ok := firstDifference(&claimed, &got); !ok {
		n.mu.Unlock()
		n.fallOut(fmt.Sprintf("the neighbor says that it sent %d cells (tier %d) on this link, we received %d", claimed[p][tier], tier, got[p][tier]))
		answer := ack{seq: t.seq, differs: true, payer: 1 - p, tier: tier, cells: got[p][tier]}
		_ = n.out.Bill(answer.append(nil)) // a link that has ended has nothing left to dispute
		return nil
	}
	before := n.agreed[Received] // the neighbor holds what it sent up to its marker before this one
	n.writing = true
	n.mu.Unlock()
	n.persist(func(tx *tx) error {
		if err := n.agree(tx, Received, &got); err != nil {
			return err
		}
		return n.prove(tx, Received, &before)
	}, func() {
		n.mu.Lock()
		n.seen, n.echoed, n.writing = t.seq, t.seen, false
		if t.reply {
			n.force = true
			n.due.Store(true)
		}
		n.step()
		n.mu.Unlock()
		_ = n.out.Bill((&ack{seq: t.seq}).append(nil)) // if the link has ended the next HELLO says it
		n.out.Wake()
		n.book.settler.Moved(n, n.book.cfg.Now())
	})
	return nil
}

func firstDifference(a, b *counts) (Payer, wire.Tier, bool) {
	for p := range a {
		for t := range a[p] {
			if a[p][t] != b[p][t] {
				return Payer(p), wire.Tier(t), false //nolint:gosec // both small
			}
		}
	}
	return 0, 0, true
}

// onAck takes the answer to our marker.
func (n *Neighbor) onAck(b []byte) error {
	a, err := parseAck(b)
	if err != nil {
		return err
	}
	n.mu.Lock()
	w := n.waiting
	switch {
	case n.disputed:
		n.mu.Unlock()
		return nil
	case w == nil || w.seq != a.seq || n.acked+1 != a.seq:
		n.mu.Unlock()
		return fmt.Errorf("%w: ack of nothing", ErrMessage)
	}
	n.mu.Unlock()
	if a.differs {
		n.fallOut(fmt.Sprintf("we sent %d cells (tier %d) on this link, the neighbor says that it received %d", w.sent[a.payer][a.tier], a.tier, a.cells))
		return nil
	}
	n.mu.Lock()
	n.acked = a.seq // a second ack of it is out of turn
	n.mu.Unlock()
	n.persist(func(tx *tx) error {
		if err := n.agree(tx, Sent, &w.sent); err != nil {
			return err
		}
		return n.prove(tx, Sent, &w.sent)
	}, func() {
		n.mu.Lock()
		n.waiting = nil
		more := n.force || n.meters[Sent].total.Load()-n.marked.Load() >= uint64(n.book.cfg.MarkerCells)
		n.due.Store(n.due.Load() || more)
		n.step()
		n.mu.Unlock()
		if more {
			n.out.Wake()
		}
		n.book.settler.Moved(n, n.book.cfg.Now())
	})
	return nil
}

// agree writes one direction's agreed counts, with what they cost. Jobs of one
// neighbor run one after the other, so the other direction is what the ledger
// has.
func (n *Neighbor) agree(tx *tx, dir Direction, c *counts) error {
	t, err := tx.totals(n.peer.row)
	if err != nil {
		return err
	}
	t[dir] = n.base[dir]
	if !t.add(dir, c) {
		return fmt.Errorf("%w: total out of range", ErrMessage)
	}
	tx.with = func(publish func()) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.agreed[dir] = *c
		publish()
	}
	return tx.setTotals(n.peer, &t)
}

func (n *Neighbor) prove(tx *tx, dir Direction, c *counts) error {
	t := *n.base
	t.add(dir, c)
	return tx.prove(n.peer.row, dir, &t[dir])
}

// hello makes our first message.
func (b *Book) hello(mine totals) ([]byte, error) {
	h := hello{ways: []Way{b.settler.Way()}, totals: mine}
	if err := b.settler.introduce(&h, b.cfg.Self, b.cfg.Now()); err != nil {
		return nil, err
	}
	return h.append(nil), nil
}

// verifyBinding checks the signature by which a neighbor's wallet names it.
func (b *Book) verifyBinding(id wire.NodeID, h *hello) error {
	if !h.bound {
		return nil
	}
	now := b.cfg.Now()
	if h.expiry <= uint64(max(now.Unix(), 0)) || h.expiry > uint64(max(now.Add(maxBindingLife).Unix(), 0)) { //nolint:gosec // not negative
		return fmt.Errorf("%w: binding has expired or holds too long", ErrMessage)
	}
	if err := (evm.Binding{ChainID: h.chainID, Token: h.token, Node: id, Wallet: h.wallet, Expiry: h.expiry}).Verify(h.sig); err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return nil
}
