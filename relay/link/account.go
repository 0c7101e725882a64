package link

import (
	"errors"
	"sync/atomic"

	"cuttle/relay/wire"
)

// Direction tells which way cells crossed the link, seen from this node.
type Direction uint8

// The two directions.
const (
	Sent Direction = iota
	Received
)

// Payer tells who pays for a circuit on this link: whoever opened it there
// (docs/protocol.md section 7).
type Payer uint8

// The two payers.
const (
	WePay Payer = iota
	TheyPay
)

// Account is what a link needs of billing. billing.Neighbor implements it, and
// Counter does where nobody bills.
//
// Add is on the hot path and must not block; the writer calls it for Sent, the
// reader for Received, each before the next Marker or Message that comes after
// those cells in the stream. So both ends of a link hold equal counts at every
// BILL frame.
type Account interface {
	// Add counts n whole cells of circuits of one tier.
	Add(dir Direction, payer Payer, tier wire.Tier, n wire.Cells)
	// Admit says whether the neighbor may open a circuit that it pays for. An error
	// that is ErrBusy lies with us, others with the neighbor.
	Admit(tier wire.Tier) error
	// Marker is asked by the writer between batches for a message to put here in
	// the stream (1 to 4096 bytes); nil means nothing to say.
	Marker() []byte
	// Message takes the body of a BILL frame; the slice is valid during the call.
	// An error ends the link.
	Message(b []byte) error
	// Down says that the link has ended; nothing is called after it.
	Down()
}

// ErrBusy says that a circuit is refused for want of something of ours.
var ErrBusy = errors.New("busy")

// Counter counts cells and does nothing else. It is the Account of links
// without billing and what every link's status is read from.
type Counter struct {
	cells [2][2]atomic.Uint64
}

var _ Account = (*Counter)(nil)

// Add counts n cells; tiers are not told apart.
func (c *Counter) Add(dir Direction, payer Payer, _ wire.Tier, n wire.Cells) {
	c.cells[dir][payer].Add(uint64(n))
}

// Cells returns how many cells were counted in one direction for one payer.
func (c *Counter) Cells(dir Direction, payer Payer) wire.Cells {
	return wire.Cells(c.cells[dir][payer].Load())
}

// Admit lets everything in.
func (c *Counter) Admit(wire.Tier) error { return nil }

// Marker has nothing to say.
func (c *Counter) Marker() []byte { return nil }

// Message refuses: a neighbor that bills must not believe that it is heard.
func (c *Counter) Message([]byte) error { return errors.New("bill frame on a link without billing") }

// Down does nothing.
func (c *Counter) Down() {}
