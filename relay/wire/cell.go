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

var cells = sync.Pool{New: func() any { return new(Cell) }}

// NewCell takes a cell from the pool; its window is in the middle of the buffer
// and its bytes are undefined.
func NewCell(class Class) *Cell {
	c := cells.Get().(*Cell)
	c.Class, c.off = class, cellHead
	return c
}

// Release gives the cell back to the pool. The caller must not use it again.
func (c *Cell) Release() { cells.Put(c) }

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
