package session

import (
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

const (
	maxFragment = wire.SessionPacketSize - wire.DatagramOverhead // bytes of a datagram of OPEN's destination that goes in one frame
	maxDatagram = 65535                                          // bytes of one datagram, fragments together

	sendBytes = 512 << 10              // datagrams that wait to be sent, per session
	sendAge   = 250 * time.Millisecond // those that have waited longer are dropped
	flowBytes = 256 << 10              // datagrams that wait to be read, per flow
	flowCount = 512                    // the same, in datagrams

	smallDatagram = 2048 // capacity of the buffers that are kept for reuse
)

// datagram is one UDP payload in a buffer of its own. It has one owner, who
// passes it on or calls release.
type datagram struct {
	flow *Flow            // sending: whose it is
	at   time.Time        // sending: since when it waits
	peer wire.Destination // to or from whom, if it is not OPEN's destination
	b    []byte
}

var datagramPool = sync.Pool{New: func() any { return &datagram{b: make([]byte, 0, smallDatagram)} }}

// newDatagram gives an empty one; its buffer grows beyond smallDatagram by append.
func newDatagram() *datagram { return datagramPool.Get().(*datagram) }

func (d *datagram) release() {
	if cap(d.b) > smallDatagram {
		return
	}
	d.flow, d.peer, d.b = nil, wire.Destination{}, d.b[:0]
	datagramPool.Put(d)
}

// ring is a queue of datagrams, bounded by its user.
type ring struct {
	items []*datagram
	head  int
	bytes int // capacity of all buffers
}

func (r *ring) len() int { return len(r.items) - r.head }

func (r *ring) push(d *datagram) {
	if r.head > 0 && len(r.items) == cap(r.items) {
		n := copy(r.items, r.items[r.head:])
		clear(r.items[n:])
		r.items, r.head = r.items[:n], 0
	}
	r.items = append(r.items, d)
	r.bytes += cap(d.b)
}

// pop takes the oldest, nil if there is none.
func (r *ring) pop() *datagram {
	if r.len() == 0 {
		return nil
	}
	d := r.items[r.head]
	r.items[r.head] = nil
	if r.head++; r.head == len(r.items) {
		r.items, r.head = r.items[:0], 0
	}
	r.bytes -= cap(d.b)
	return d
}

// datagrams is the session's queue towards the carrier. When the carrier is
// blocked, or the session's memory used up, the oldest are dropped: UDP senders see
// loss, not backpressure. What waits, and the one that is being sent, counts in the
// session's memory.
type datagrams struct {
	mu      sync.Mutex
	queue   ring
	closed  bool
	wake    chan struct{} // holds one token when the queue may not be empty
	dropped atomic.Uint64 // datagrams
}

// push takes d over.
func (q *datagrams) push(d *datagram) {
	d.at = time.Now()
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		d.release()
		return
	}
	memory := &d.flow.m.memory
	q.queue.push(d)
	within := memory.hold(cap(d.b))
	for q.queue.len() > 0 && (!within || q.queue.bytes > sendBytes) {
		q.lose(q.queue.pop())
		within = memory.hold(0)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop gives the oldest datagram that has not waited too long; it counts until the
// caller discards it.
func (q *datagrams) pop() *datagram {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		d := q.queue.pop()
		if d == nil || time.Since(d.at) <= sendAge {
			return d
		}
		q.lose(d)
	}
}

func (q *datagrams) lose(d *datagram) {
	d.flow.discard(d)
	q.dropped.Add(1)
}

// shed drops all datagrams if they hold more than so many bytes, and tells whether
// they did.
func (q *datagrams) shed(most int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.bytes <= most {
		return false
	}
	for q.queue.len() > 0 {
		q.lose(q.queue.pop())
	}
	return true
}

func (q *datagrams) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for d := q.queue.pop(); d != nil; d = q.queue.pop() {
		d.flow.discard(d)
	}
}

// datagramLoop sends datagrams: large ones in fragments, small ones several to
// a packet as long as more are waiting. It ends with the session.
func (m *mux) datagramLoop() {
	packet := make([]byte, 0, wire.SessionPacketSize)
	send := func() { // without a carrier they are lost, as on any network
		if len(packet) > 0 && m.trunk.datagram(packet, nil) == nil {
			m.sending.dropped.Add(1)
		}
		packet = packet[:0]
	}
	for {
		select {
		case <-m.sending.wake:
		case <-m.done:
			return
		}
		for d := m.sending.pop(); d != nil; d = m.sending.pop() {
			if d.flow.over() {
				d.flow.discard(d)
				continue
			}
			size := wire.DatagramOverhead + peerSize(d.peer) + len(d.b)
			if len(packet)+size > wire.SessionPacketSize {
				send()
			}
			if size > wire.SessionPacketSize {
				m.sendFragments(packet, d)
			} else {
				packet = wire.AppendDatagram(packet, d.flow.id, wire.Fragment{}, d.peer, d.b)
			}
			d.flow.discard(d)
		}
		send()
	}
}

// sendFragments sends a datagram that is larger than a packet; buf is empty.
func (m *mux) sendFragments(buf []byte, d *datagram) {
	f := d.flow
	part := wire.Fragment{Part: true, Number: f.number}
	f.number++
	var on *attachment
	for rest, peer := d.b, d.peer; len(rest) > 0; part.Place++ {
		n := min(len(rest), wire.SessionPacketSize-wire.DatagramOverhead-wire.PlaceSize-peerSize(peer))
		part.Last = n == len(rest)
		if on = m.trunk.datagram(wire.AppendDatagram(buf, f.id, part, peer, rest[:n]), on); on == nil {
			m.sending.dropped.Add(1)
			return
		}
		rest, peer = rest[n:], wire.Destination{}
	}
}

// peerSize is the most that a peer takes in a frame.
func peerSize(peer wire.Destination) int {
	if peer.IsZero() {
		return 0
	}
	return wire.MaxPeerSize
}

// forgetFragments drops half datagrams of all flows: the rest was on a carrier that
// is no longer the session's.
func (m *mux) forgetFragments() {
	m.mu.Lock()
	var flows []*Flow
	for _, e := range m.ends {
		if f, ok := e.(*Flow); ok {
			flows = append(flows, f)
		}
	}
	m.mu.Unlock()
	for _, f := range flows {
		f.mu.Lock()
		if f.partial != nil {
			f.dropPartial()
			m.lost.Add(1)
		}
		f.mu.Unlock()
	}
}
