package link

import (
	"time"

	"cuttle/relay/wire"
)

// ring is a growing queue of cells and the times at which they came, on the link's
// clock. Its owner bounds its length and locks it.
type ring struct {
	cells []queued // length is zero or a power of two
	head  int
	n     int
}

type queued struct {
	*wire.Cell
	at time.Duration
}

const ringStart = 16

func (r *ring) push(c *wire.Cell, now time.Duration) {
	if r.n == len(r.cells) {
		r.grow()
	}
	r.cells[(r.head+r.n)&(len(r.cells)-1)] = queued{c, now}
	r.n++
}

// pop takes the oldest cell; the ring must not be empty.
func (r *ring) pop() *wire.Cell {
	c := r.cells[r.head].Cell
	r.cells[r.head] = queued{}
	r.head = (r.head + 1) & (len(r.cells) - 1)
	r.n--
	return c
}

// oldest is when the oldest cell came; the ring must not be empty.
func (r *ring) oldest() time.Duration { return r.cells[r.head].at }

func (r *ring) grow() {
	cells := make([]queued, max(ringStart, 2*len(r.cells)))
	for i := range r.n {
		cells[i] = r.cells[(r.head+i)&(len(r.cells)-1)]
	}
	r.cells, r.head = cells, 0
}

// drop releases every cell and the memory, and returns how many there were.
func (r *ring) drop() int {
	n := r.n
	for r.n > 0 {
		r.pop().Release()
	}
	r.cells, r.head = nil, 0
	return n
}
