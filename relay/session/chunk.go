package session

import (
	"sync"
	"sync/atomic"
)

const (
	chunkSize = 16 << 10
	leadPart  = 4 // one of so many parts of what there is for first windows
)

// memory counts what one session holds against its budget, and against the one it
// shares with others.
type memory struct {
	limit  int64
	used   atomic.Int64 // bytes of chunks, datagrams and DNS messages held
	extra  atomic.Int64 // bytes of windows granted beyond the first wire.StreamWindow
	shared *Budget      // nil: none
}

// hold counts n more bytes and tells whether that is within the budgets. The
// bytes count either way. What passes the shared one by little is taken: then
// whoever holds most has to give (Budget.relieve), not who comes last.
func (m *memory) hold(n int) bool {
	within := m.used.Add(int64(n)) <= m.limit
	if m.shared != nil {
		within = m.shared.used.Add(int64(n)) <= m.shared.limit+m.shared.limit/8 && within
	}
	return within
}

func (m *memory) free(n int) {
	m.used.Add(int64(-n))
	if m.shared != nil {
		m.shared.used.Add(int64(-n))
	}
}

// lead asks for up to n bytes of window for a stream that has not shown yet that it
// needs them, and returns how many it got: a part of what is left of the first half of
// what windows may grow by, so that streams which stay idle keep no other from growing.
func (m *memory) lead(n int) int {
	left := m.limit/4 - m.extra.Load()
	if m.shared != nil {
		left = min(left, m.shared.limit/4-m.shared.extra.Load())
	}
	if n = min(n, int(left/leadPart)); n <= 0 || !m.grow(n) {
		return 0
	}
	return n
}

// grow asks for n more bytes of window. Growth may use half of a budget, so
// that every stream's first window keeps room.
func (m *memory) grow(n int) bool {
	within := m.extra.Add(int64(n)) <= m.limit/2
	if m.shared != nil {
		within = m.shared.extra.Add(int64(n)) <= m.shared.limit/2 && within
	}
	if !within {
		m.shrink(n)
	}
	return within
}

func (m *memory) shrink(n int) {
	m.extra.Add(int64(-n))
	if m.shared != nil {
		m.shared.extra.Add(int64(-n))
	}
}

// chunk is a piece of receive buffer: bytes r to w of buf are unread.
type chunk struct {
	next *chunk
	r, w int
	buf  [chunkSize]byte
}

var chunkPool = sync.Pool{New: func() any { return new(chunk) }}

// chunks is a queue of bytes. Whoever holds it owns its chunks.
type chunks struct{ head, tail *chunk }

func (q *chunks) empty() bool { return q.head == nil }

// write appends p and tells whether the session's memory is still within its
// budget.
func (q *chunks) write(m *memory, p []byte) bool {
	within := true
	for len(p) > 0 {
		if q.tail == nil || q.tail.w == chunkSize {
			c := chunkPool.Get().(*chunk)
			c.next, c.r, c.w = nil, 0, 0
			if q.tail == nil {
				q.head = c
			} else {
				q.tail.next = c
			}
			q.tail = c
			within = m.hold(chunkSize) && within
		}
		n := copy(q.tail.buf[q.tail.w:], p)
		q.tail.w += n
		p = p[n:]
	}
	return within
}

// read moves bytes to p and frees the chunks that it has emptied.
func (q *chunks) read(m *memory, p []byte) (n int) {
	for n < len(p) && q.head != nil {
		k := copy(p[n:], q.head.buf[q.head.r:q.head.w])
		n += k
		q.skip(m, k)
	}
	return n
}

// vector appends the unread bytes of up to most chunks to v, as slices that
// stay valid until skip.
func (q *chunks) vector(v [][]byte, most int) [][]byte {
	for c := q.head; c != nil && most > 0; c, most = c.next, most-1 {
		v = append(v, c.buf[c.r:c.w])
	}
	return v
}

// skip drops n bytes, of those that are there.
func (q *chunks) skip(m *memory, n int) {
	for q.head != nil {
		c := q.head
		k := min(n, c.w-c.r)
		c.r += k
		n -= k
		if c.r < c.w {
			return
		}
		if q.head = c.next; q.head == nil {
			q.tail = nil
		}
		chunkPool.Put(c)
		m.free(chunkSize)
	}
}

// drop frees everything and returns how many bytes were unread.
func (q *chunks) drop(m *memory) (n int) {
	for c := q.head; c != nil; {
		next := c.next
		n += c.w - c.r
		chunkPool.Put(c)
		m.free(chunkSize)
		c = next
	}
	*q = chunks{}
	return n
}

// buffer is what bytes between a socket and a stream pass through.
type buffer [64 << 10]byte

var bufferPool = sync.Pool{New: func() any { return new(buffer) }}
