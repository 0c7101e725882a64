package link

import (
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// receiver is the reader's own state.
type receiver struct {
	opener     *onion.Opener
	sw         Switch
	lane       *Lane        // of the last cell, to save looking it up
	run        []*wire.Cell // of that lane, not handed over yet
	spare      []*wire.Cell // for cells to come
	lastTheirs wire.CircuitID
}

// maxRun is how many cells are handed over at a time: those of a full record.
const maxRun = turn

// read is the link's one reader: large reads, records opened where they stand.
// It ends when the connection does.
func (l *Link) read() error {
	buf := make([]byte, readBuffer)
	from, to := 0, 0 // what has arrived and was not opened yet
	body := 0        // sealed bytes of the record whose head was opened; 0: a head comes next
	defer func() {
		wire.ReleaseCells(l.recv.run)
		wire.ReleaseCells(l.recv.spare)
	}()
	for {
		n, err := l.conn.Read(buf[to:])
		if n > 0 {
			l.arrived.Store(int64(l.now()))
		}
		to += n
		used, openErr := l.records(buf[from:to], &body)
		if openErr != nil {
			return openErr
		}
		if err != nil {
			return scrub("read", err)
		}
		if from += used; from == to {
			from, to = 0, 0
		} else if len(buf)-from < wire.RecordHead+wire.MaxRecord+wire.RecordTail {
			to = copy(buf, buf[from:to])
			from = 0
		}
	}
}

// records opens every whole record of b and returns how many bytes they took.
func (l *Link) records(b []byte, body *int) (used int, err error) {
	o := l.recv.opener
	for {
		if *body == 0 {
			if len(b)-used < wire.RecordHead {
				return used, nil
			}
			n, err := o.Length(b[used : used+wire.RecordHead])
			if err != nil {
				return used, err
			}
			used += wire.RecordHead
			*body = n + wire.RecordTail
		}
		if len(b)-used < *body {
			return used, nil
		}
		plain, err := o.Open(b[used : used+*body])
		if err != nil {
			return used, err
		}
		used += *body
		*body = 0
		if err := l.record(plain); err != nil {
			return used, err
		}
	}
}

// record handles the frames of one plaintext. Every error ends the link.
func (l *Link) record(plain []byte) error {
	for len(plain) > 0 {
		f, rest, err := wire.NextFrame(plain)
		if err != nil {
			return err
		}
		if f.Type == wire.FrameCell || f.Type == wire.FrameDatagramCell {
			err = l.cell(&f)
		} else if err = l.handOver(); err == nil { // in their order
			err = l.frame(&f)
		}
		if err != nil {
			return err
		}
		plain = rest
	}
	return l.handOver()
}

func (l *Link) frame(f *wire.Frame) error {
	switch f.Type {
	case wire.FramePad:
		return nil
	case wire.FramePing:
		l.control(wire.AppendPong(nil, f.Token))
		return nil
	case wire.FramePong:
		if !l.pong(f.Token) {
			return errState
		}
		return nil
	case wire.FrameBill:
		return l.account.Message(f.Body)
	case wire.FrameCreate:
		return l.create(f)
	default:
		return l.laneFrame(f)
	}
}

// laneFrame takes the frames that belong to a lane that is there.
func (l *Link) laneFrame(f *wire.Frame) error {
	ln := l.lookup(f.Circuit)
	if ln == nil {
		return errCircuit
	}
	switch f.Type { //nolint:exhaustive // frame took the others
	case wire.FrameCredit:
		if !ln.addCredit(f.Credit) {
			return errState
		}
		return nil
	case wire.FrameCreated:
		return ln.wasCreated(f.Body)
	case wire.FrameRefuse:
		return ln.wasRefused(f.Reason)
	case wire.FrameClose:
		l.remove(ln)
		r, answer := ln.theirClose()
		if answer {
			l.control(wire.AppendClose(nil, ln.id))
		}
		if r != nil {
			r.Closed()
		}
		return nil
	}
	return errState
}

func (l *Link) lookup(id wire.CircuitID) *Lane {
	if ln := l.recv.lane; ln != nil && ln.id == id {
		return ln
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lanes[id]
}

// cell puts one cell to the run of its lane.
func (l *Link) cell(f *wire.Frame) error {
	ln := l.lookup(f.Circuit)
	if ln == nil {
		return errCircuit
	}
	if ln != l.recv.lane || len(l.recv.run) == maxRun {
		if err := l.handOver(); err != nil {
			return err
		}
		l.recv.lane = ln
	}
	if len(l.recv.spare) == 0 {
		l.recv.spare = l.recv.spare[:maxRun]
		wire.NewCells(l.recv.spare)
	}
	last := len(l.recv.spare) - 1
	c := l.recv.spare[last]
	l.recv.spare = l.recv.spare[:last]
	c.Reset(f.Class)
	copy(c.Body(), f.Body)
	l.recv.run = append(l.recv.run, c)
	return nil
}

// handOver gives the run to the lane's owner. Its cells must be covered by
// credit, and they count even when the lane is closing.
func (l *Link) handOver() error {
	n := len(l.recv.run)
	if n == 0 {
		return nil
	}
	run, ln := l.recv.run, l.recv.lane
	ln.mu.Lock()
	st, r, answered := ln.state, ln.recv, ln.answered
	ln.mu.Unlock()
	if st != open && (st != closing || !answered) {
		return errState
	}
	if !ln.in.arrive(n) {
		return errOverrun
	}
	l.recv.run = run[:0]
	ln.received.Add(uint64(n))
	l.count(Received, ln, n)
	if st == closing {
		wire.ReleaseCells(run)
		return nil
	}
	if ln.tune(n) {
		ln.announce()
	}
	r.Cells(run)
	return nil
}

// count tells the account, and the counter that the status is read from.
func (l *Link) count(dir Direction, ln *Lane, n int) {
	l.counter.Add(dir, ln.payer(), ln.tier, wire.Cells(n))
	if l.account != Account(&l.counter) {
		l.account.Add(dir, ln.payer(), ln.tier, wire.Cells(n))
	}
}

// create takes the neighbor's CREATE. Beyond the agreed number of circuits it
// is refused, and far beyond (refusals need an answer too) the link ends.
func (l *Link) create(f *wire.Frame) error {
	fromInitiator := f.Circuit&acceptorBit == 0
	if fromInitiator == l.initiator || f.Circuit <= l.recv.lastTheirs || f.Circuit&^acceptorBit == 0 {
		return errNumber
	}
	l.recv.lastTheirs = f.Circuit
	ln := newLane(l, f.Circuit, f.Tier, false, nil)
	l.mu.Lock()
	l.lanes[ln.id] = ln
	l.theirs++
	theirs := l.theirs
	l.mu.Unlock()
	switch {
	case theirs > l.maxLanes+spareLanes:
		return errLanes
	case theirs > l.maxLanes:
		ln.Refuse(wire.ReasonBusy)
	default:
		l.recv.sw.Create(ln, f.Body)
	}
	return nil
}

// remove takes a lane that is over out of the table. Reader only.
func (l *Link) remove(ln *Lane) {
	if l.recv.lane == ln {
		l.recv.lane = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ln.ours {
		l.theirs--
	}
	delete(l.lanes, ln.id)
}

// wasCreated takes the neighbor's CREATED.
func (ln *Lane) wasCreated(msg2 []byte) error {
	ln.mu.Lock()
	if !ln.ours || ln.answered {
		ln.mu.Unlock()
		return errState
	}
	ln.answered = true
	r := ln.recv
	if ln.state == opening {
		ln.state = open
	}
	ln.mu.Unlock()
	if r != nil {
		r.Created(msg2)
	}
	return nil
}

// wasRefused takes the neighbor's REFUSE, which stands for its CLOSE; ours
// answers it if we have not sent one.
func (ln *Lane) wasRefused(reason wire.Reason) error {
	ln.mu.Lock()
	if !ln.ours || ln.answered {
		ln.mu.Unlock()
		return errState
	}
	ln.mu.Unlock()
	ln.link.remove(ln)
	r, answer := ln.theirClose()
	if answer {
		ln.link.control(wire.AppendClose(nil, ln.id))
	}
	if r != nil {
		r.Refused(reason)
	}
	return nil
}
