package billing

import (
	"sync/atomic"

	"cuttle/relay/wire"
)

// Direction tells which way cells crossed the link, seen from this node. The
// values are relay/link's.
type Direction uint8

// The two directions.
const (
	Sent Direction = iota
	Received
)

// Payer tells who pays for a circuit on this link. The values are relay/link's.
type Payer uint8

// The two payers.
const (
	WePay Payer = iota
	TheyPay
)

// meter counts the cells of one direction of one link. Each direction has one
// writer of its own, so the two never share a cache line for long.
type meter struct {
	total atomic.Uint64
	cells [2][MaxTier + 1]atomic.Uint64 // by payer and tier
	_     [56]byte
}

// Add counts n whole cells: two atomic adds. The link's writer calls it for
// Sent, its reader for Received. Tiers above MaxTier are not carried (Admit
// refuses them) and not counted.
func (n *Neighbor) Add(dir Direction, payer Payer, tier wire.Tier, cells wire.Cells) {
	if tier > MaxTier {
		return
	}
	m := &n.meters[dir&1]
	m.cells[payer&1][tier].Add(uint64(cells))
	m.total.Add(uint64(cells))
}

// counts are cumulative cells of one direction by payer and tier.
type counts [2][MaxTier + 1]wire.Cells

// snapshot reads the counts. Called by the direction's own goroutine it is the
// exact state at that position of the stream.
func (m *meter) snapshot() (c counts) {
	for p := range c {
		for t := range c[p] {
			c[p][t] = wire.Cells(m.cells[p][t].Load())
		}
	}
	return c
}

// flipped swaps the payers: the same counts as the neighbor names them.
func (c counts) flipped() counts { return counts{c[TheyPay], c[WePay]} }

// totals are counts of both directions.
type totals [2]counts

// flipped is the same totals as the neighbor names them.
func (t totals) flipped() totals { return totals{t[Received].flipped(), t[Sent].flipped()} }

// owed is what the payer has to pay for these totals.
func (t *totals) owed(payer Payer) Amount {
	var sum Amount
	for tier := range t[0][payer] {
		sum += Owed(t[Sent][payer][tier]+t[Received][payer][tier], wire.Tier(tier)) //nolint:gosec // at most MaxTier
	}
	return sum
}

// add adds counts to one direction; false if a total leaves its range.
func (t *totals) add(dir Direction, c *counts) bool {
	for p := range c {
		for tier := range c[p] {
			if c[p][tier] >= maxTotal || t[dir][p][tier]+c[p][tier] >= maxTotal {
				return false
			}
			t[dir][p][tier] += c[p][tier]
		}
	}
	return true
}
