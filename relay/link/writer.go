package link

import (
	"slices"

	"cuttle/relay/wire"
)

// wake tells the writer that there is something to send.
func (l *Link) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

// control queues a control frame. A neighbor that makes us answer faster than
// it reads ends the link.
func (l *Link) control(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.controlLocked(frame)
}

func (l *Link) controlLocked(frame []byte) {
	if l.ended {
		return
	}
	waiting, most := len(l.frames)-l.partings, maxControl
	if parting(frame) {
		waiting, most = l.partings, maxControl+2*(l.maxLanes+spareLanes)
		l.partings++
	}
	if waiting >= most || l.bytes+len(frame) > maxControlBytes {
		l.fail(errOverflow)
		return
	}
	l.frames = append(l.frames, frame)
	l.bytes += len(frame)
	l.wake()
}

// parting tells whether a control frame is the last word on a lane. Every lane
// may come to its end at the same moment, when the link that their other halves
// are on breaks: that is no fault of this neighbor's and must not cost its link.
func parting(frame []byte) bool {
	t := wire.FrameType(frame[0])
	return t == wire.FrameClose || t == wire.FrameRefuse
}

// crowded tells whether so much waits that what others ask us to open has to be
// refused: the rest of the queue is for answers to the neighbor. Called with mu
// held.
func (l *Link) crowded() bool {
	return len(l.frames)-l.partings >= maxControl/2 || l.bytes >= maxControlBytes/2
}

// grant lists a lane whose due credit is to be announced.
func (l *Link) grant(ln *Lane) {
	l.mu.Lock()
	l.grants = append(l.grants, ln)
	l.mu.Unlock()
	l.wake()
}

// sendBuffer is how much of what was sent the kernel may keep, in bytes, on a link
// that is fast and far; it takes twice as much for its own needs. What came behind a loss is
// kept until that is repaired, which may be more than the kernel's usual limit of 4 MB.
// It counts against the budget as so many cells.
const (
	sendBuffer = 8 << 20
	wideCells  = 2 * sendBuffer / cellMemory
)

// write is the link's one writer: it pulls a batch, seals it where it stands
// and writes it with one call, until the link is done.
func (l *Link) write() error {
	buf := make([]byte, wire.RecordHead+wire.MaxRecord+wire.RecordTail)
	wide := false
	defer func() {
		if wide {
			l.budget.unreserve(wideCells)
		}
	}()
	for {
		n := len(l.fill(buf[wire.RecordHead:wire.RecordHead]))
		if n == 0 {
			select {
			case <-l.wakeup:
				continue
			case <-l.done:
				return nil
			}
		}
		if _, err := l.conn.Write(l.sealer.Seal(buf, n)); err != nil {
			return scrub("write", err)
		}
		if l.pacer.look(l.now()) && !wide && l.budget.reserve(wideCells) {
			wide = true
			widenSending(l.pacer.socket)
		}
	}
}

// fill makes the plaintext of one record in batch, which is empty: control
// first, then credit, the account's marker, and cells.
func (l *Link) fill(batch []byte) []byte {
	batch = l.fillControl(batch)
	batch = l.fillGrants(batch)
	if len(batch)+billOverhead+wire.MaxBill <= wire.MaxRecord {
		if m := l.account.Marker(); m != nil {
			batch = wire.AppendBill(batch, m)
		}
	}
	return l.fillCells(batch)
}

const (
	billOverhead    = 3
	creditFrameSize = 9
)

// fillControl appends whole control frames in their order as far as they fit.
func (l *Link) fillControl(batch []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, f := range l.frames {
		if len(batch)+len(f) > wire.MaxRecord {
			break
		}
		batch = append(batch, f...)
		l.bytes -= len(f)
		if parting(f) {
			l.partings--
		}
		n++
	}
	l.frames = slices.Delete(l.frames, 0, n)
	return batch
}

// fillGrants appends CREDIT for lanes that have some to announce. A lane is
// asked under its own lock, so that no CREDIT follows its CLOSE.
func (l *Link) fillGrants(batch []byte) []byte {
	for len(batch)+creditFrameSize <= wire.MaxRecord {
		ln := l.nextGrant()
		if ln == nil {
			return batch
		}
		if !l.mayGrant(ln) {
			continue
		}
		ln.granting.Store(false) // before the amount is read: what comes later lists the lane again
		ln.mu.Lock()
		if ln.state == open {
			if n := ln.in.grant(); n > 0 {
				batch = wire.AppendCredit(batch, ln.id, uint32(n))
				l.granted(ln, wire.Cells(n))
			}
		}
		ln.mu.Unlock()
	}
	return batch
}

func (l *Link) nextGrant() *Lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.grants) == 0 {
		return nil
	}
	ln := l.grants[len(l.grants)-1]
	l.grants[len(l.grants)-1] = nil
	l.grants = l.grants[:len(l.grants)-1]
	return ln
}
