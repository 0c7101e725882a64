package session

import "sync"

// turnPackets is what a stream sends in one turn, at most, about 32 kB. They go to
// the carrier together; a slab has room for them.
const turnPackets = slabSize / slotSize

// turns puts the streams of a session that have something to send in a row, as
// RFC 8290 (FQ-CoDel) section 4.2 does with flows: one that had nothing to send
// lately goes before those that always have, for one turn; these go round robin.
// So a short request or answer does not wait for bulk, and many small ones do not
// wait for a stream that fills every turn. mu guards all fields, and those of
// places but ready.
type turns struct {
	mu         sync.Mutex
	taken      bool // somebody has the turn
	round      uint64
	fresh, old places
}

// place is a stream's in turns; it is used by one goroutine at a time.
type place struct {
	ready chan struct{} // capacity 1: the turn is its own
	next  *place
	asked uint64 // the round in which it began to wait
	last  uint64 // the round of its last turn, from 1; 0: none yet
}

// places is a queue, linked by place.next.
type places struct{ head, tail *place }

func (q *places) push(p *place) {
	p.next = nil
	if q.tail == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
}

func (q *places) pop() *place {
	p := q.head
	if p == nil {
		return nil
	}
	if q.head = p.next; q.head == nil {
		q.tail = nil
	}
	p.next = nil
	return p
}

// enter waits for a turn; leave ends it.
func (t *turns) enter(p *place) {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.begin(p)
		t.mu.Unlock()
		return
	}
	p.asked = t.round
	if p.last == 0 || p.last+1 < t.round {
		t.fresh.push(p)
	} else {
		t.old.push(p)
	}
	t.mu.Unlock()
	<-p.ready // whoever has the turn leaves
}

// begin notes a turn. Called with mu held.
func (t *turns) begin(p *place) {
	if t.round == 0 {
		t.round = 1
	}
	p.last = t.round
}

// leave gives the turn to the next.
func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.fresh.pop()
	if p == nil {
		if p = t.old.pop(); p == nil {
			t.taken = false
			return
		}
		if p.asked == t.round { // all that waited before this round have had theirs
			t.round++
		}
	}
	t.begin(p)
	p.ready <- struct{}{}
}

// waited tells whether others wait for a turn.
func (t *turns) waited() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fresh.head != nil || t.old.head != nil
}
