package link

import "cuttle/relay/wire"

// The scheduler decides whose cells come next, after RFC 8290 (FQ-CoDel)
// section 4.2: a lane that had nothing to send goes to the list of new lanes,
// which are served first, for one quantum; after it they are old lanes, served
// round robin. So a lane with a short queue does not wait behind bulk. A lane
// that empties while new goes through the old list once, lest it be new for
// ever. Lanes without credit are in no list; credit brings them back as old.

// quantum is what a lane may send in one turn, cells (about 11 kB), while others
// wait; turn is what it may send when nobody does: a whole batch.
const (
	quantum = 8
	turn    = wire.MaxRecord / wire.CellFrameSize
)

// laneList is a queue of lanes, linked by Lane.next. Guarded by Link.mu.
type laneList struct{ head, tail *Lane }

func (q *laneList) push(ln *Lane) {
	ln.next = nil
	if q.tail == nil {
		q.head = ln
	} else {
		q.tail.next = ln
	}
	q.tail = ln
}

func (q *laneList) pushFront(ln *Lane) {
	ln.next = q.head
	q.head = ln
	if q.tail == nil {
		q.tail = ln
	}
}

func (q *laneList) pop() *Lane {
	ln := q.head
	if ln == nil {
		return nil
	}
	if q.head = ln.next; q.head == nil {
		q.tail = nil
	}
	ln.next = nil
	return ln
}

// activate puts a lane that can send into the scheduler: as a new one, or as
// old. The caller holds the lane's lock and has marked it listed.
func (l *Link) activate(ln *Lane, old bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old {
		l.old.push(ln)
	} else {
		l.fresh.push(ln)
	}
}

// nextLane takes the lane whose turn it is; fresh tells from which list, alone
// that no other waits.
func (l *Link) nextLane() (ln *Lane, fresh, alone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln = l.fresh.pop(); ln == nil {
		ln = l.old.pop()
	} else {
		fresh = true
	}
	return ln, fresh, l.fresh.head == nil && l.old.head == nil
}

// putBack returns a lane after its turn, or in front when the batch was full
// before its turn was over.
func (l *Link) putBack(ln *Lane, fresh, front bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case front && fresh:
		l.fresh.pushFront(ln)
	case front:
		l.old.pushFront(ln)
	default:
		l.old.push(ln)
	}
}

// fillCells appends cells to the batch until it is full, or has as many as go into a
// record now, or nobody can send.
func (l *Link) fillCells(batch []byte) []byte {
	full := wire.MaxRecord
	if n := l.pacer.cells; n > 0 {
		full = min(full, len(batch)+n*wire.CellFrameSize)
	}
	for {
		room := (full - len(batch)) / wire.CellFrameSize
		if room == 0 {
			return batch
		}
		ln, fresh, alone := l.nextLane()
		if ln == nil {
			return batch
		}
		if ln.deficit <= 0 {
			ln.deficit = quantum
		}
		if alone {
			ln.deficit = max(ln.deficit, room)
		} else {
			ln.deficit = min(ln.deficit, quantum)
		}
		most := l.allow(ln, min(room, ln.deficit))
		if most == 0 {
			continue // it waits elsewhere
		}
		var n int
		var more bool
		batch, n, more = ln.take(batch, most)
		ln.deficit -= n
		if n > 0 {
			l.count(Sent, ln, n)
			l.spend(ln, n)
		}
		switch {
		case more && ln.deficit > 0:
			l.putBack(ln, fresh, true) // the batch is full, or the link is throttled
		case more || fresh:
			l.putBack(ln, false, false)
		default:
			ln.deficit = 0
			ln.unlist()
		}
	}
}
