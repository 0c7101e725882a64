// Package circuit carries circuits over links (docs/protocol.md sections 4 and
// 7). Switch is the relay's part: it answers circuits that neighbors open,
// strips or adds one onion layer per cell and passes it on, and hands the end of
// a circuit to the exit as a Terminal. Builder makes circuits of our own, hop by
// hop, and Pool keeps some ready and replaces them in time.
//
// It does not read what circuits carry: session packets go to the handler of
// relay/session as they are. It opens no connections (links are found by a
// function that internal/node gives) and chooses no paths (relay/netmap does).
// It is called by relay/link with cells and by internal/node with everything
// else.
//
// Locks: each circuit has one mutex, for the order in which cells are sealed and
// sent; it is held while a lane's lock is taken, never the other way round. No
// lock is shared by circuits on the way of a cell; the switch's mutex guards the
// neighbors' creation budgets alone, the pool's its list.
package circuit

import (
	"errors"
	"fmt"

	"cuttle/relay/link"
	"cuttle/relay/wire"
)

// ErrClosed is returned by Send on a circuit that has ended.
var ErrClosed = errors.New("circuit closed")

// Links finds the link to a neighbor, nil if there is none now. It must not
// block.
type Links func(wire.NodeID) *link.Link

// Handler takes the payloads of one circuit that belong to its session: kind is
// the payload's first byte (wire.PayloadSession or wire.PayloadAttach), p what
// follows it. It is called by a link's reader, must not block and must not keep
// p; an error closes the circuit.
type Handler = func(kind byte, class wire.Class, p []byte) error

// How many cells of our own may wait on a lane before Send blocks, and how many
// must be left before it goes on.
const (
	sendHigh = 64
	sendLow  = 32
)

var (
	errPacket  = errors.New("session packet of a wrong size")
	errMessage = errors.New("circuit message out of place")
)

// outlet sends what this node itself says on a circuit, in order, and blocks
// while too much of it waits.
type outlet struct {
	room chan struct{} // capacity 1: there may be room
	done chan struct{}
}

func newOutlet() outlet {
	return outlet{room: make(chan struct{}, 1), done: make(chan struct{})}
}

// sent is the lane's OnSent: it wakes a waiting sender.
func (o *outlet) sent(lane *link.Lane) {
	if lane.Queued() > sendLow {
		return
	}
	select {
	case o.room <- struct{}{}:
	default:
	}
}

// wait blocks until the lane has room. One goroutine at a time.
func (o *outlet) wait(lane *link.Lane) error {
	for lane.Queued() >= sendHigh {
		select {
		case <-o.room:
		case <-o.done:
			return ErrClosed
		}
	}
	select {
	case <-o.done:
		return ErrClosed
	default:
		return nil
	}
}

// ofSession tells whether a payload is the session's.
func ofSession(p []byte) bool {
	return len(p) > 1 && (p[0] == wire.PayloadSession || p[0] == wire.PayloadAttach)
}

// sendBatch is how many cells are sealed and queued at a time.
const sendBatch = 32

// send puts packets of the session into cells, has them sealed and queues them on
// the lane, waiting for room. The caller holds what keeps the order.
func (o *outlet) send(lane *link.Lane, kind byte, class wire.Class, packets [][]byte, payload func(*wire.Cell) []byte, seal func(*wire.Cell, int)) error {
	for _, p := range packets {
		if len(p) == 0 || len(p) > wire.SessionPacketSize {
			return fmt.Errorf("%w: %d bytes", errPacket, len(p))
		}
	}
	var buf [sendBatch]*wire.Cell
	for len(packets) > 0 {
		if err := o.wait(lane); err != nil {
			return err
		}
		cells := buf[:min(len(packets), sendBatch)]
		wire.NewCells(cells)
		for i, c := range cells {
			c.Reset(class)
			b := payload(c)
			b[0] = kind
			seal(c, 1+copy(b[1:], packets[i]))
		}
		lane.SendAll(cells)
		packets = packets[len(cells):]
	}
	return nil
}
