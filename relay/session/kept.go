package session

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"cuttle/relay/wire"
)

const (
	slabSize  = 32 << 10
	slotSize  = 2 + wire.SessionPacketSize // u16 length || packet
	slabsBase = wire.LeastWindow / slabSize
)

// slab holds packets one behind the other, the oldest first: those with the
// numbers first to end-1, each behind its length, in buf[:w].
type slab struct {
	next       *slab
	first, end wire.Number // end counts while it is not the tail
	w          int
	buf        [slabSize]byte
}

var slabPool = sync.Pool{New: func() any { return new(slab) }}

// kept is what has been sent and not been acknowledged. The tail belongs to
// whoever holds trunk.sending and is never freed by an acknowledgement, so that
// packets are written and sent without trunk.mu; the list is guarded by
// trunk.mu.
type kept struct {
	head, tail *slab
	slabs      int
}

// room tells whether the tail takes another packet of any size.
func (k *kept) room() bool { return k.tail != nil && k.tail.w+slotSize <= slabSize }

// grow puts a new tail behind the list; next is the number of its first packet.
func (k *kept) grow(next wire.Number) {
	s := slabPool.Get().(*slab)
	s.next, s.first, s.end, s.w = nil, next, 0, 0
	if k.tail == nil {
		k.head = s
	} else {
		k.tail.end, k.tail.next = next, s
	}
	k.tail = s
	k.slabs++
}

// slot gives an empty slice in the tail for the next packet.
func (k *kept) slot() []byte {
	at := k.tail.w + 2
	return k.tail.buf[at:at:min(at+wire.SessionPacketSize, slabSize)]
}

// fill makes packet, which was appended to slot, part of the tail.
func (k *kept) fill(packet []byte) {
	binary.BigEndian.PutUint16(k.tail.buf[k.tail.w:], uint16(len(packet)))
	k.tail.w += 2 + len(packet)
}

// acknowledge frees the slabs of which every packet is below acked, but the
// tail, and returns how many they were.
func (k *kept) acknowledge(acked wire.Number) (freed int) {
	for k.head != k.tail && k.head.end <= acked {
		s := k.head
		k.head = s.next
		slabPool.Put(s)
		freed++
	}
	k.slabs -= freed
	return freed
}

// drop frees everything and returns how many slabs that were.
func (k *kept) drop() (freed int) {
	for s := k.head; s != nil; {
		next := s.next
		slabPool.Put(s)
		s = next
	}
	freed = k.slabs
	*k = kept{}
	return freed
}

// Kept bounds the packets that the sessions of a client keep together until they are
// acknowledged. Beyond its least window none keeps more when it is used up, and waits
// for its exit. All methods may be called by any number of goroutines.
type Kept struct {
	limit int64
	used  atomic.Int64
}

// NewKept makes a bound of so many bytes.
func NewKept(bytes int64) *Kept { return &Kept{limit: bytes} }

// allow is trunk.allow. Sessions that have no carrier use half of it at most: they leave
// room to those that have one.
func (k *Kept) allow(slabs int, must, carried bool) bool {
	n, limit := int64(slabs)*slabSize, k.limit
	if !carried {
		limit /= 2
	}
	if k.used.Add(n) <= limit || n <= 0 || must {
		return true
	}
	k.used.Add(-n)
	return false
}

// cursor walks over kept packets in order.
type cursor struct {
	s      *slab
	at     int
	number wire.Number // of the packet at s.buf[at:]
}

// seek puts the cursor at packet number n, which is kept.
func (k *kept) seek(n wire.Number) cursor {
	s := k.head
	for s != k.tail && s.end <= n {
		s = s.next
	}
	c := cursor{s: s, number: s.first}
	for c.number < n {
		c.at += 2 + int(binary.BigEndian.Uint16(s.buf[c.at:]))
		c.number++
	}
	return c
}

// copy appends the cursor's packet to b and moves on.
func (c *cursor) copy(k *kept, b []byte) []byte {
	if c.s != k.tail && c.number == c.s.end {
		*c = cursor{s: c.s.next, number: c.number}
	}
	n := int(binary.BigEndian.Uint16(c.s.buf[c.at:]))
	b = append(b, c.s.buf[c.at+2:c.at+2+n]...)
	c.at += 2 + n
	c.number++
	return b
}
