package circuit

import (
	"sync"

	"cuttle/relay/wire"
)

// Terminal is the exit's end of a circuit. It satisfies session.Carrier.
type Terminal struct {
	t    *transit
	out  outlet
	once sync.Once // guards the closing of out.done
}

// Send carries one payload of the session (1 to wire.SessionPacketSize bytes,
// copied) to the client; kind is wire.PayloadSession or wire.PayloadAttach. It blocks while the circuit is backed up and returns ErrClosed
// once it has ended. Any number of goroutines may call it.
func (x *Terminal) Send(kind byte, class wire.Class, packet []byte) error {
	one := [1][]byte{packet}
	return x.SendAll(kind, class, one[:])
}

// SendAll is Send for packets that follow each other; the slice stays the caller's.
func (x *Terminal) SendAll(kind byte, class wire.Class, packets [][]byte) error {
	t := x.t
	t.mu.Lock()
	defer t.mu.Unlock()
	return x.out.send(t.prev, kind, class, packets, t.hop.Payload, t.hop.Originate)
}

// Neighbor returns the node that the circuit comes over: the one before us.
func (x *Terminal) Neighbor() wire.NodeID { return x.t.prev.Link().Peer().ID }

// Tier returns what the client pays per cell.
func (x *Terminal) Tier() wire.Tier { return x.t.prev.Tier() }

// Close ends the circuit. What was sent and is still queued is lost.
func (x *Terminal) Close() { x.t.close() }

// Done is closed when the circuit has ended.
func (x *Terminal) Done() <-chan struct{} { return x.out.done }

func (x *Terminal) finish() { x.once.Do(func() { close(x.out.done) }) }
