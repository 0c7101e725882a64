package wire

import "sync"

// A Cell's buffer has room for every slot in front of and behind the body, so
// that layers are put on and taken off by moving an offset, never the bytes.
const (
	cellHead = MaxHops * SlotSize
	cellTail = MaxHops*SlotSize + TagSize
)

// Cell is one constant-size cell in memory: a window of BodySize bytes that
// moves inside a larger buffer. It comes from NewCell and has one owner, who
// either passes it on or calls Release. The zero value is not usable.
type Cell struct {
	Class Class
	off   int
	buf   [cellHead + BodySize + cellTail]byte
}

// maxSpare bounds the cells that are kept for later use; more go to a pool that
// the garbage collector empties.
const maxSpare = 1024

// spare are cells that nobody uses, the last one released first: it is the one
// that a processor's cache may still hold. A list for all, and not a sync.Pool,
// because a relay takes its cells in one goroutine and releases them in another,
// many at a time.
var spare struct {
	mu    sync.Mutex // guards cells
	cells []*Cell
	more  sync.Pool
}

// NewCell takes a cell from the spare ones; its window is in the middle of the
// buffer and its bytes are undefined.
func NewCell(class Class) *Cell {
	var one [1]*Cell
	NewCells(one[:])
	one[0].Reset(class)
	return one[0]
}

// NewCells fills cells with spare ones; Reset makes each usable.
func NewCells(cells []*Cell) {
	spare.mu.Lock()
	left := len(spare.cells)
	n := min(left, len(cells))
	copy(cells, spare.cells[left-n:])
	clear(spare.cells[left-n:])
	spare.cells = spare.cells[:left-n]
	spare.mu.Unlock()
	for i := n; i < len(cells); i++ {
		if c, ok := spare.more.Get().(*Cell); ok {
			cells[i] = c
		} else {
			cells[i] = new(Cell)
		}
	}
}

// Reset begins a cell's life: its window is in the middle of the buffer.
func (c *Cell) Reset(class Class) { c.Class, c.off = class, cellHead }

// Release makes the cell a spare one. The caller must not use it again.
func (c *Cell) Release() {
	one := [1]*Cell{c}
	ReleaseCells(one[:])
}

// ReleaseCells is Release for many. The slice stays the caller's.
func ReleaseCells(cells []*Cell) {
	spare.mu.Lock()
	n := min(len(cells), maxSpare-len(spare.cells))
	spare.cells = append(spare.cells, cells[:n]...)
	spare.mu.Unlock()
	for _, c := range cells[n:] {
		spare.more.Put(c)
	}
}

// Body returns the BodySize bytes a link carries.
func (c *Cell) Body() []byte { return c.buf[c.off : c.off+BodySize] }

// Payload returns the PayloadSize bytes where the innermost layer keeps its
// payload: behind the first slot of the body.
func (c *Cell) Payload() []byte {
	return c.buf[c.off+SlotSize : c.off+SlotSize+PayloadSize : c.off+SlotSize+PayloadSize]
}

// Extended returns the body and, behind it, n more bytes of the same buffer
// (an AEAD needs room for its tag there). n is at most what Move leaves room
// for: TagSize always is.
func (c *Cell) Extended(n int) []byte { return c.buf[c.off : c.off+BodySize+n] }

// Move shifts the window by delta bytes: positive when a slot is stripped in
// front, negative when one is put there. Between NewCell and the end of a
// cell's life the sum stays within MaxHops slots either way.
func (c *Cell) Move(delta int) { c.off += delta }
