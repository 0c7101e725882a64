package circuit

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// phase of a circuit at a relay. Arrows: end -> extending -> extended or refused; end ->
// serving. Nothing leaves extended, refused and serving but the close: each try costs the
// client a circuit, since it costs a neighbor of ours a handshake.
type phase = int32

const (
	end       phase = iota // the last hop so far
	extending              // the next hop has not answered yet
	extended               // cells pass through
	refused                // there was no way on; nothing more may be said
	serving                // the last hop, with a session
)

// transit is one circuit at this relay: the forwarding entry. As the receiver
// of the lane to the previous hop it takes what comes from the client; its
// other side is back.
type transit struct {
	sw   *Switch
	hop  *onion.Hop
	prev *link.Lane

	next   atomic.Pointer[link.Lane]
	share  *share      // where the circuit counts; nil: nowhere, so it is not extended
	leads  wire.NodeID // the neighbor of ours that it counts for there; zero: none; guarded by sw.mu
	phase  atomic.Int32
	closed atomic.Bool

	// Forward, for the reader of prev's link alone.
	assembler wire.Assembler
	handler   Handler

	terminal atomic.Pointer[Terminal]
	mu       sync.Mutex // guards the order of backward cells: seal, then queue
}

// back is the same circuit as the receiver of the lane to the next hop.
type back struct{ t *transit }

var (
	_ link.Receiver = (*transit)(nil)
	_ link.Receiver = back{}
)

// Cells takes cells from the client's side.
func (t *transit) Cells(cells []*wire.Cell) {
	here, through := 0, 0                // meant for this hop; cells[:through] are to be passed on
	passes := t.phase.Load() == extended // nothing leaves that phase
	for i, c := range cells {
		h, err := t.hop.Peel(c)
		switch {
		case err != nil:
		case h.Kind == onion.PassOn && passes:
			cells[through] = c
			through++
			continue
		case h.Kind == onion.PassOn:
			err = errMessage
		default:
			here++
			err = t.local(c.Class, t.hop.Payload(c)[:h.Length])
		}
		c.Release()
		if err != nil {
			wire.ReleaseCells(cells[:through])
			wire.ReleaseCells(cells[i+1:])
			t.close()
			return
		}
	}
	if through > 0 {
		t.next.Load().SendAll(cells[:through])
	}
	if here > 0 {
		t.prev.Grant(here)
	}
}

// local takes a payload that is meant for this hop. Every error closes the
// circuit.
func (t *transit) local(class wire.Class, p []byte) error {
	switch {
	case ofSession(p):
		if t.handler == nil {
			if err := t.serve(); err != nil {
				return err
			}
		}
		return t.handler(p[0], class, p[1:])
	case p[0] == wire.PayloadControl && class == wire.Reliable && t.phase.Load() == end:
		msg, err := t.assembler.Add(p)
		if err != nil || msg == nil {
			return err
		}
		m, err := wire.ParseMessage(msg)
		if err != nil {
			return err
		}
		if m.Type != wire.MessageExtend {
			return errMessage
		}
		t.extend(m)
		return nil
	}
	return errMessage
}

// from is the neighbor on the client's side.
func (t *transit) from() wire.NodeID { return t.prev.Link().Peer().ID }

// serve starts the session of a circuit that ends here.
func (t *transit) serve() error {
	cfg := &t.sw.cfg
	if cfg.Serve == nil || t.prev.Tier() < cfg.ExitPrice || !t.phase.CompareAndSwap(end, serving) {
		return errMessage
	}
	x := &Terminal{t: t, out: newOutlet()}
	t.prev.OnSent(func(int) { x.out.sent(t.prev) })
	t.terminal.Store(x)
	if t.closed.Load() {
		x.finish()
		return ErrClosed
	}
	var err error
	if t.handler, err = cfg.Serve(x); err != nil {
		return err
	}
	if t.handler == nil {
		return errMessage
	}
	return nil
}

// extend opens the circuit's next lane, or answers why not.
func (t *transit) extend(m wire.Message) {
	t.phase.Store(extending)
	if reason := t.openNext(m); reason != 0 {
		t.phase.Store(refused)
		t.reply(wire.AppendExtendRefused(nil, reason))
	}
}

// openNext returns 0 when the next hop has been asked.
func (t *transit) openNext(m wire.Message) wire.Reason {
	cfg := &t.sw.cfg
	switch {
	case !cfg.Relay:
		return wire.ReasonNotServed
	case int(t.prev.Tier()) < int(m.Tier)+int(cfg.RelayPrice):
		return wire.ReasonTierTooLow
	case m.Next == cfg.ID || m.Next == t.from():
		return wire.ReasonNotServed // no circuit goes straight back
	}
	l := cfg.Links(m.Next)
	if l == nil {
		return wire.ReasonNotConnected
	}
	if !t.sw.mayExtend(t, l, time.Now()) {
		return wire.ReasonBusy
	}
	// The answer waits on mu until the lane is in its place.
	t.mu.Lock()
	defer t.mu.Unlock()
	lane, err := l.Open(m.Tier, m.Handshake, back{t})
	switch {
	case errors.Is(err, link.ErrTooMany):
		return wire.ReasonBusy
	case err != nil:
		return wire.ReasonNotConnected
	}
	lane.OnSent(t.prev.Grant)
	t.prev.OnSent(lane.Grant)
	t.next.Store(lane)
	t.sw.leads(t, m.Next)
	if t.closed.Load() {
		lane.Close()
	}
	return 0
}

// reply sends a circuit message to the client.
func (t *transit) reply(msg []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(msg) > 0 {
		c := wire.NewCell(wire.Reliable)
		var n int
		n, msg = wire.PutFragment(t.hop.Payload(c), msg)
		t.hop.Originate(c, n)
		t.prev.Send(c)
	}
}

// Created and Refused are answers to lanes that we open; prev was opened by the
// neighbor.
func (t *transit) Created([]byte)      { t.close() }
func (t *transit) Refused(wire.Reason) { t.close() }

// Closed says that the client's side has closed.
func (t *transit) Closed() { t.close() }

// close ends the circuit on both sides, for every cause in the same way.
func (t *transit) close() {
	if !t.closed.CompareAndSwap(false, true) {
		return
	}
	t.sw.closed(t)
	t.prev.Close()
	if next := t.next.Load(); next != nil {
		next.Close()
	}
	if x := t.terminal.Load(); x != nil {
		x.finish()
	}
}

// Created reports to the client that the next hop has answered.
func (b back) Created(msg2 []byte) {
	b.t.mu.Lock()
	ok := b.t.phase.CompareAndSwap(extending, extended)
	b.t.mu.Unlock()
	if !ok {
		b.t.close()
		return
	}
	b.t.reply(wire.AppendExtended(nil, msg2))
}

// Refused reports why the next hop would not.
func (b back) Refused(reason wire.Reason) { b.failed(reason) }

// Closed ends the circuit, or the attempt to extend it.
func (b back) Closed() {
	if !b.failed(wire.ReasonNotConnected) {
		b.t.close()
	}
}

// failed ends an attempt to extend; false if there is none.
func (b back) failed(reason wire.Reason) bool {
	b.t.mu.Lock()
	waiting := b.t.phase.Load() == extending
	if waiting {
		b.t.next.Store(nil)
		b.t.phase.Store(refused)
	}
	b.t.mu.Unlock()
	if waiting {
		b.t.sw.leadsNoMore(b.t)
		b.t.reply(wire.AppendExtendRefused(nil, reason))
	}
	return waiting
}

// Cells takes cells from the exit's side.
func (b back) Cells(cells []*wire.Cell) {
	t := b.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range cells {
		t.hop.Wrap(c)
	}
	t.prev.SendAll(cells)
}
