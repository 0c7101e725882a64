package onion

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"cuttle/relay/wire"
)

// Path is the client's end of one circuit: the layers it shares with each hop,
// first hop first. Seal belongs to one goroutine and Open to one; the two may run
// at the same time. Add may run beside both, but not beside another Add; cells
// see the new hop when Add has returned. Nothing is allocated per cell.
type Path struct {
	n    atomic.Int32 // hops; the first n of hops are in use
	hops [wire.MaxHops]pathHop

	pad      filler // of cells, where neither payload nor a known tail stands
	padNonce [nonceSize]byte
	sealed   uint64 // cells; of Seal

	sealTail   [maxTail]byte // scratch of Seal
	openTail   [maxTail]byte // scratch of Open
	openFailed bool          // of Open
}

type pathHop struct {
	forward, backward layer
	filler            filler
}

// Add appends a hop and uses up the keys that HopInitiator.Finish returned.
func (p *Path) Add(keys *HopKeys) error {
	n := p.n.Load()
	if n == wire.MaxHops {
		return fmt.Errorf("add hop: a path has at most %d", wire.MaxHops)
	}
	k, err := keys.take()
	if err != nil {
		return fmt.Errorf("add hop: %w", err)
	}
	if n == 0 {
		var key secret
		_, _ = rand.Read(key[:]) // never fails
		p.pad = newFiller(k.suite, key)
	}
	p.hops[n] = pathHop{
		forward:  newLayer(k.suite, k.forward, true),
		backward: newLayer(k.suite, k.backward, true),
		filler:   newFiller(k.suite, k.filler),
	}
	p.n.Store(n + 1)
	return nil
}

// Len returns the number of hops.
func (p *Path) Len() int { return int(p.n.Load()) }

// Payload returns the wire.PayloadSize bytes of c where Seal takes the payload
// from.
func (p *Path) Payload(c *wire.Cell) []byte { return c.Payload() }

// Seal makes c a cell for the given hop (0 is the first) with the first n bytes
// (1 to wire.PayloadSize) of Payload(c); what stands behind them does not matter.
// Cells must be sent in the order in which they were sealed.
func (p *Path) Seal(c *wire.Cell, hop, n int) {
	checkLength(n)
	if hop < 0 || hop >= p.Len() {
		panic(fmt.Sprintf("onion: seal for hop %d of %d", hop, p.Len()))
	}
	class := c.Class
	// What hop i finds in the last bytes of its cell was put there by the hops
	// before it, one slot each; each opened it together with the cell.
	tail := p.sealTail[:hop*wire.SlotSize]
	for i := range hop {
		l := p.hops[i].forward.of(class)
		known := tail[:i*wire.SlotSize]
		l.xorTail(known)
		p.hops[i].filler.put(tail[len(known):][:wire.SlotSize], &l.nonce)
	}
	// The last hop's plaintext ends with what seals to just those bytes.
	last := p.hops[hop].forward.of(class)
	last.xorTail(tail)
	body := c.Body()
	behind := body[wire.SlotSize+wire.PayloadSize:]
	clear(body[wire.SlotSize+n : wire.SlotSize+wire.PayloadSize])
	// The tail looks random to the hop; so must what stands before it, or its length tells
	// the hop its place.
	binary.BigEndian.PutUint64(p.padNonce[4:], p.sealed)
	p.sealed++
	p.pad.put(behind[:len(behind)-len(tail)], &p.padNonce)
	copy(behind[len(behind)-len(tail):], tail)
	last.seal(c, Header{Here, n})
	last.advance()
	for i := hop - 1; i >= 0; i-- {
		l := p.hops[i].forward.of(class)
		c.Move(-wire.SlotSize)
		l.seal(c, Header{Kind: PassOn})
		l.advance()
	}
}

// Open verifies and takes off all layers of a cell that the last hop originated,
// and returns that hop (0-based) and the payload, a slice of c's buffer. A cell
// from any other hop is refused. After an error the circuit is to be closed;
// every further Open fails.
func (p *Path) Open(c *wire.Cell) (hop int, payload []byte, err error) {
	last := p.Len() - 1
	class := c.Class
	if last < 0 || p.openFailed {
		return 0, nil, errCell
	}
	// Each hop but the last dropped the last slot's length of what the next one
	// sent. The last hop's cell ends with zeros, so those bytes are keystream.
	tail := p.openTail[:last*wire.SlotSize]
	clear(tail)
	for i := 1; i <= last; i++ {
		p.hops[i].backward.of(class).xorTail(tail[:i*wire.SlotSize])
	}
	for i := 0; ; i++ {
		l := p.hops[i].backward.of(class)
		header, ok := l.open(c)
		if !ok || (header.Kind == Here) != (i == last) {
			p.openFailed = true
			return 0, nil, errCell
		}
		l.advance()
		if i == last {
			if !isZero(c.Body()[wire.SlotSize+header.Length:]) {
				p.openFailed = true
				return 0, nil, errCell
			}
			return last, c.Payload()[:header.Length:header.Length], nil
		}
		copy(c.Extended(wire.SlotSize)[wire.BodySize:], tail[i*wire.SlotSize:])
		c.Move(wire.SlotSize)
	}
}
