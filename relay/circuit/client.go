package circuit

import (
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// Circuit is the client's end of a circuit that Builder has made. It satisfies
// session.Carrier.
type Circuit struct {
	id      uint64
	hops    []wire.NodeID
	created time.Time
	lane    atomic.Pointer[link.Lane] // set once, by the Builder
	path    onion.Path
	out     outlet
	once    sync.Once  // guards the closing of out.done
	mu      sync.Mutex // guards the order of forward cells: seal, then queue

	handler atomic.Pointer[Handler]
	answers chan []byte // circuit messages for the Builder, one at a time
	waiting atomic.Bool // the Builder expects a message

	// Backward, for the link's reader alone.
	assembler wire.Assembler

	users atomic.Int32
	idle  func()        // called when users falls to zero; set by the pool before use
	turn  turn          // the pool's note of who uses it; the pool locks it
	trip  atomic.Int64  // the round trip to the last hop, ns
	built time.Duration // the same when it was built
	taken atomic.Bool   // trip has been measured since the pool looked
}

// circuits numbers circuits for people; the numbers never leave the node.
var circuits atomic.Uint64

// incoming is the circuit as the receiver of its lane.
type incoming struct{ c *Circuit }

var _ link.Receiver = incoming{}

// Attach gives the session packets of the last hop to h. Packets that come
// before it close the circuit; call it before the first Send.
func (c *Circuit) Attach(h Handler) { c.handler.Store(&h) }

// Send carries one payload of the session (1 to wire.SessionPacketSize bytes,
// copied) to the last hop; kind is wire.PayloadSession or wire.PayloadAttach. It blocks while the circuit is backed up and returns
// ErrClosed once it has ended. Any number of goroutines may call it.
func (c *Circuit) Send(kind byte, class wire.Class, packet []byte) error {
	one := [1][]byte{packet}
	return c.SendAll(kind, class, one[:])
}

// SendAll is Send for packets that follow each other; the slice stays the caller's.
func (c *Circuit) SendAll(kind byte, class wire.Class, packets [][]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.send(c.lane.Load(), kind, class, packets, c.path.Payload, func(cell *wire.Cell, n int) {
		c.path.Seal(cell, c.path.Len()-1, n)
	})
}

// control sends a circuit message to one hop.
func (c *Circuit) control(hop int, msg []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(msg) > 0 {
		cell := wire.NewCell(wire.Reliable)
		var n int
		n, msg = wire.PutFragment(c.path.Payload(cell), msg)
		c.path.Seal(cell, hop, n)
		c.lane.Load().Send(cell)
	}
}

// Close ends the circuit. What was sent and is still queued is lost.
func (c *Circuit) Close() {
	c.once.Do(func() {
		close(c.out.done)
		if lane := c.lane.Load(); lane != nil {
			lane.Close()
		}
	})
}

// Done is closed when the circuit has ended.
func (c *Circuit) Done() <-chan struct{} { return c.out.done }

// Backlog says how many cells of ours wait for the link, and how many it has
// taken so far.
func (c *Circuit) Backlog() (queued int, taken uint64) {
	lane := c.lane.Load()
	return lane.Queued(), lane.Taken()
}

// Hops returns the path, first hop first. The slice is not to be changed.
func (c *Circuit) Hops() []wire.NodeID { return c.hops }

// Exit returns the last hop.
func (c *Circuit) Exit() wire.NodeID { return c.hops[len(c.hops)-1] }

// Trip is the last measured round trip to the exit: at first that of the build's
// last step.
func (c *Circuit) Trip() time.Duration { return time.Duration(c.trip.Load()) }

// Measured notes a round trip to the exit that the session has measured.
func (c *Circuit) Measured(trip time.Duration) {
	c.trip.Store(int64(trip))
	c.taken.Store(true)
}

// Use begins n more uses of a circuit that is in use.
func (c *Circuit) Use(n int) { c.users.Add(int32(n)) }

// Release ends one use that Pool.Get or Use began; a circuit is not retired while it
// is in use.
func (c *Circuit) Release() {
	if c.users.Add(-1) == 0 && c.idle != nil {
		c.idle()
	}
}

// Status is a snapshot of a circuit of ours for people.
type Status struct {
	ID       uint64 // unique on this node until it restarts
	Hops     []wire.NodeID
	Tier     wire.Tier // what we pay our neighbor
	Open     bool
	Retiring bool // gets no new streams
	Wished   bool // to an exit of somebody's own, for flows of theirs only
	Created  time.Time
	Streams  int // uses begun and not released
	Sent     wire.Cells
	Received wire.Cells
	Trip     time.Duration // the last measured round trip to the exit
}

// Status returns a snapshot.
func (c *Circuit) Status() Status {
	lane := c.lane.Load().Status()
	s := Status{ID: c.id, Hops: c.hops, Tier: lane.Tier, Open: true, Created: c.created,
		Streams: int(c.users.Load()), Sent: lane.Sent, Received: lane.Received, Trip: c.Trip()}
	select {
	case <-c.out.done:
		s.Open = false
	default:
	}
	return s
}

// message takes an assembled circuit message; the Builder must wait for one.
func (c *Circuit) message(msg []byte) bool {
	if !c.waiting.CompareAndSwap(true, false) {
		return false
	}
	c.answers <- msg // has room: one is asked for at a time
	return true
}

// Created is the first hop's answer; it is given to the Builder as EXTENDED.
func (in incoming) Created(msg2 []byte) {
	if !in.c.message(wire.AppendExtended(nil, msg2)) {
		in.c.Close()
	}
}

// Refused is the first hop's answer too.
func (in incoming) Refused(reason wire.Reason) {
	if !in.c.message(wire.AppendExtendRefused(nil, reason)) {
		in.c.Close()
	}
}

// Closed says that the circuit is gone.
func (in incoming) Closed() { in.c.Close() }

// Cells takes cells from the circuit.
func (in incoming) Cells(cells []*wire.Cell) {
	c := in.c
	defer wire.ReleaseCells(cells)
	for _, cell := range cells {
		_, p, err := c.path.Open(cell)
		if err != nil || !c.payload(cell.Class, p) {
			c.Close()
			return
		}
	}
	c.lane.Load().Grant(len(cells))
}

// payload takes a verified payload of the last hop; false closes the circuit.
func (c *Circuit) payload(class wire.Class, p []byte) bool {
	if ofSession(p) {
		h := c.handler.Load()
		return h != nil && (*h)(p[0], class, p[1:]) == nil
	}
	if class != wire.Reliable || !c.waiting.Load() {
		return false
	}
	msg, err := c.assembler.Add(p)
	return err == nil && (msg == nil || c.message(msg))
}
