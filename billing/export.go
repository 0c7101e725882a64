package billing

import (
	"context"
	"database/sql"
	"fmt"
	"math/big"
	"time"

	"cuttle/relay/wire"
)

// Movement is one posting of the journal with what it belongs to.
type Movement struct {
	Entry    int64       `json:"entry"` // postings of one entry sum to zero
	Time     time.Time   `json:"time"`  // UTC
	Kind     string      `json:"kind"`  // charge, writeoff, plan, final, receipt ...
	Ref      string      `json:"ref"`   // with Kind unique
	Account  string      `json:"account"`
	Neighbor wire.NodeID `json:"-"`        // zero: none
	Node     string      `json:"neighbor"` // its address, "" for none
	Units    int64       `json:"units"`    // positive is a debit; 1e-9 token, and 1e-9 of the chain's coin in accounts of fees
	Amount   string      `json:"amount"`   // the same, decimal
}

// History gives the whole journal, the oldest first, to row; an error of row
// ends it. neighbor, if not zero, keeps to the entries that concern it.
func (f *File) History(ctx context.Context, neighbor wire.NodeID, row func(Movement) error) error {
	return f.view(ctx, func(tx *tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT j.id, j.at, j.kind, j.ref, p.account, n.node, p.amount
			FROM journal j JOIN posting p ON p.journal = j.id LEFT JOIN neighbor n ON n.id = p.neighbor
			WHERE ?1 = zeroblob(32) OR j.id IN (SELECT q.journal FROM posting q JOIN neighbor m ON m.id = q.neighbor WHERE m.node = ?1)
			ORDER BY j.id, p.rowid`, neighbor[:])
		if err != nil {
			return fmt.Errorf("read ledger %s: %w", f.path, err)
		}
		defer rows.Close()
		for rows.Next() {
			var m Movement
			var at int64
			var node []byte
			if err := rows.Scan(&m.Entry, &at, &m.Kind, &m.Ref, &m.Account, &node, &m.Units); err != nil {
				return fmt.Errorf("read ledger %s: %w", f.path, err)
			}
			m.Time, m.Amount = time.Unix(at, 0).UTC(), Amount(m.Units).String()
			if len(node) == len(m.Neighbor) {
				m.Neighbor = wire.NodeID(node)
				m.Node = m.Neighbor.String()
			}
			if err := row(m); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// Position is where the account with one neighbor stands.
type Position struct {
	Node          string `json:"node"`
	OwedUnits     int64  `json:"owed_units"` // we owe; negative: paid ahead
	Owed          string `json:"owed"`
	DueUnits      int64  `json:"due_units"` // the neighbor owes
	Due           string `json:"due"`
	TransitUnits  int64  `json:"transit_units"` // of ours, on its way
	Transit       string `json:"transit"`
	SpentUnits    int64  `json:"spent_units"` // charged to us since the beginning
	Spent         string `json:"spent"`
	EarnedUnits   int64  `json:"earned_units"`
	Earned        string `json:"earned"`
	CellsWePay    uint64 `json:"cells_we_pay"` // agreed, both directions
	CellsTheyPay  uint64 `json:"cells_they_pay"`
	SpentPerGB    string `json:"spent_per_gb"`  // token for 10^9 bytes of payload, "" without any
	EarnedPerGB   string `json:"earned_per_gb"` // likewise
	OldestOwed    int64  `json:"oldest_owed"`   // Unix seconds, of the oldest open part; 0: none
	OldestDue     int64  `json:"oldest_due"`
	Disputes      int    `json:"disputes"`
	LastDisputeIs string `json:"last_dispute"`
}

// Positions gives the account with each neighbor, in the order in which they were
// first seen.
func (f *File) Positions(ctx context.Context) (out []Position, err error) {
	err = f.view(ctx, func(tx *tx) error {
		ids, err := tx.neighbors()
		if err != nil {
			return err
		}
		for _, id := range ids {
			p, err := tx.position(id)
			if err != nil {
				return fmt.Errorf("read ledger %s: %w", f.path, err)
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

func (x *tx) neighbors() (ids []int64, err error) {
	rows, err := x.QueryContext(x.ctx, "SELECT id FROM neighbor ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func (x *tx) position(id int64) (p Position, err error) {
	var node []byte
	if _, err := x.one("SELECT node, strikes, dispute FROM neighbor WHERE id = ?", []any{id}, &node, &p.Disputes, &p.LastDisputeIs); err != nil {
		return p, err
	}
	p.Node = wire.NodeID(node).String()
	if _, err := x.one(`SELECT coalesce(-sum(amount) FILTER (WHERE account = 'payable'), 0), coalesce(sum(amount) FILTER (WHERE account = 'receivable'), 0),
		coalesce(-sum(amount) FILTER (WHERE account = 'transit'), 0), coalesce(sum(amount) FILTER (WHERE account = 'spent'), 0),
		coalesce(-sum(amount) FILTER (WHERE account = 'earned'), 0) FROM posting WHERE neighbor = ?`, []any{id},
		&p.OwedUnits, &p.DueUnits, &p.TransitUnits, &p.SpentUnits, &p.EarnedUnits); err != nil {
		return p, err
	}
	t, err := x.totals(id)
	if err != nil {
		return p, err
	}
	p.CellsWePay, p.CellsTheyPay = uint64(t.cells(WePay)), uint64(t.cells(TheyPay))
	for side, into := range map[int]*int64{sidePayable: &p.OldestOwed, sideReceivable: &p.OldestDue} {
		var at sql.NullInt64
		if _, err := x.one("SELECT min(born) FROM lot WHERE neighbor = ? AND side = ? AND open > 0", []any{id, side}, &at); err != nil {
			return p, err
		}
		*into = at.Int64
	}
	p.Owed, p.Due, p.Transit = Amount(p.OwedUnits).String(), Amount(p.DueUnits).String(), Amount(p.TransitUnits).String()
	p.Spent, p.Earned = Amount(p.SpentUnits).String(), Amount(p.EarnedUnits).String()
	p.SpentPerGB, p.EarnedPerGB = PerGB(Amount(p.SpentUnits), t.cells(WePay)), PerGB(Amount(p.EarnedUnits), t.cells(TheyPay))
	return p, nil
}

// cells adds up what one payer pays for, both directions, all tiers.
func (t *totals) cells(payer Payer) (n wire.Cells) {
	for dir := range t {
		for _, c := range t[dir][payer] {
			n += c
		}
	}
	return n
}

// PerGB is what 10^9 bytes of payload have cost, in token, rounded down to ledger
// units; "" without any cells.
func PerGB(a Amount, cells wire.Cells) string {
	if cells == 0 {
		return ""
	}
	n := new(big.Int).Mul(big.NewInt(int64(a)), big.NewInt(1_000_000_000))
	n.Quo(n, new(big.Int).Mul(new(big.Int).SetUint64(uint64(cells)), big.NewInt(wire.PayloadSize)))
	if !n.IsInt64() {
		return ""
	}
	return Amount(n.Int64()).String()
}
