package onion

import (
	"fmt"

	"cuttle/relay/wire"
)

// Hop is a relay's end of one circuit. Forward calls (Peel) belong to one
// goroutine and backward calls (Wrap, Originate) to one; the two may run at the
// same time. Nothing is allocated per cell.
type Hop struct {
	forward  layer
	backward layer
	filler   filler
	failed   bool // of Peel
}

// NewHop uses up the keys that AcceptHop returned.
func NewHop(keys *HopKeys) (*Hop, error) {
	k, err := keys.take()
	if err != nil {
		return nil, err
	}
	return &Hop{
		forward:  newLayer(k.suite, k.forward, false),
		backward: newLayer(k.suite, k.backward, false),
		filler:   newFiller(k.suite, k.filler),
	}, nil
}

// Peel verifies and takes off this hop's layer of a cell that came from the
// client's side. If the header says PassOn, c is ready for the next hop; if it
// says Here, the message is the first Length bytes of Payload(c). After an error
// the circuit is to be closed; every further Peel fails.
func (h *Hop) Peel(c *wire.Cell) (Header, error) {
	l := h.forward.of(c.Class)
	if h.failed {
		return Header{}, errCell
	}
	header, ok := l.open(c)
	if ok && header.Kind == Here {
		ok = isZero(c.Payload()[header.Length:])
	}
	if !ok {
		h.failed = true
		return Header{}, errCell
	}
	if header.Kind == PassOn {
		h.filler.put(c.Extended(wire.SlotSize)[wire.BodySize:][:wire.SlotSize], &l.nonce)
		c.Move(wire.SlotSize)
	}
	l.advance()
	return header, nil
}

// Wrap puts this hop's layer on a cell that came from the next hop.
func (h *Hop) Wrap(c *wire.Cell) {
	l := h.backward.of(c.Class)
	c.Move(-wire.SlotSize)
	l.seal(c, Header{Kind: PassOn})
	l.advance()
}

// Payload returns the wire.PayloadSize bytes of c where Originate takes the
// payload from and Peel leaves it.
func (h *Hop) Payload(c *wire.Cell) []byte { return c.Payload() }

// Originate makes c a cell from this hop to the client with the first n bytes (1
// to wire.PayloadSize) of Payload(c); what stands behind them does not matter.
// Only the last hop of a circuit may originate cells.
func (h *Hop) Originate(c *wire.Cell, n int) {
	checkLength(n)
	l := h.backward.of(c.Class)
	clear(c.Body()[wire.SlotSize+n:])
	l.seal(c, Header{Here, n})
	l.advance()
}

// checkLength panics if our own caller gives a length that no header may have.
func checkLength(n int) {
	if n < 1 || n > wire.PayloadSize {
		panic(fmt.Sprintf("onion: payload of %d bytes", n))
	}
}

var zeros [wire.BodySize]byte

// isZero tells whether all bytes are zero. b is at most a body.
func isZero(b []byte) bool { return string(b) == string(zeros[:len(b)]) }
