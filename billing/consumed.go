package billing

import (
	"context"
	"slices"

	"cuttle/relay/wire"
)

// Consumed are cells of this node's own circuits over one neighbor, at one tier,
// on one day: what a user's spending limits are measured by. What was carried for
// others is not in it.
type Consumed struct {
	Node  wire.NodeID
	Tier  wire.Tier
	Cells wire.Cells
}

// ConsumedOn reads what was consumed on a day, which is any text that names it.
func (b *Book) ConsumedOn(ctx context.Context, day string) (out []Consumed, err error) {
	rows, err := b.ledger.read.QueryContext(ctx, "SELECT node, tier, cells FROM consumed JOIN neighbor ON neighbor.id = neighbor WHERE day = ? ORDER BY node, tier", day)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c Consumed
		var node []byte
		if err := rows.Scan(&node, &c.Tier, &c.Cells); err != nil {
			return nil, err
		}
		c.Node = wire.NodeID(node)
		out = append(out, c)
	}
	return out, rows.Err()
}

// Consume adds to what was consumed on a day and forgets days before the one
// named as the oldest (days sort as text).
func (b *Book) Consume(ctx context.Context, day, oldest string, more []Consumed) error {
	return b.ledger.update(ctx, func(tx *tx) error {
		for _, c := range more {
			if err := tx.exec(`INSERT INTO consumed SELECT ?, id, ?, ? FROM neighbor WHERE node = ?
				ON CONFLICT DO UPDATE SET cells = cells + excluded.cells`, day, int(c.Tier), int64(c.Cells), c.Node[:]); err != nil { //nolint:gosec // far below 2^63
				return err
			}
		}
		return tx.exec("DELETE FROM consumed WHERE day < ?", oldest)
	})
}

// Demand is how a neighbor says that it treats us.
type Demand struct {
	Node     wire.NodeID
	Standing Standing
	Reason   Reason
	Owed     Amount // by us, as the neighbor sees it
	Limit    Amount
	Pay      Amount // restores; 0: no payment helps
}

// Demands lists the neighbors that do not serve us as they would; those that
// only warn are paid in time and not listed.
func (b *Book) Demands() (out []Demand) {
	for _, p := range b.known() {
		p.mu.Lock()
		d := Demand{p.id, p.told.standing, p.told.reason, p.told.owed, p.told.limit, p.told.pay}
		p.mu.Unlock()
		if d.Standing == Throttled || d.Standing == Cut || d.Standing == Disputed {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b Demand) int { return slices.Compare(a.Node[:], b.Node[:]) })
	return out
}

// Known lists the addresses of all neighbors that there is an account with.
func (b *Book) Known() (out []wire.NodeID) {
	for _, p := range b.known() {
		out = append(out, p.id)
	}
	return out
}
