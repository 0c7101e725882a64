package billing

import (
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cuttle/relay/wire"
)

// Accounts of the ledger. A posting's positive amount is a debit.
const (
	accReceivable  = "receivable"  // what a neighbor owes; negative: it has paid ahead
	accPayable     = "payable"     // minus what we owe a neighbor
	accTransit     = "transit"     // minus what is on its way to a neighbor
	accPaid        = "paid"        // minus what has left the consuming wallet
	accReceived    = "received"    // what has come to the earning wallet
	accEarned      = "earned"      // minus what we have charged
	accSpent       = "spent"       // what neighbors have charged
	accUnallocated = "unallocated" // minus what came from unknown wallets
	accLocked      = "locked"      // our deposits in the hub that vouchers have not given away
	accVouchers    = "vouchers"    // a neighbor's vouchers that are not cashed
)

// sides of a lot.
const (
	sidePayable    = 0
	sideReceivable = 1
)

type posting struct {
	account  string
	neighbor int64
	amount   Amount
}

// errSum is a broken invariant of our own.
var errSum = errors.New("postings do not sum to zero")

// book writes one journal entry; its id. (kind, ref) is unique, so the same
// event is never booked twice.
func (x *tx) book(kind, ref string, postings ...posting) (int64, error) {
	var sum Amount
	for _, p := range postings {
		sum += p.amount
	}
	if sum != 0 {
		return 0, fmt.Errorf("%s %s: %w", kind, ref, errSum)
	}
	res, err := x.ExecContext(x.ctx, "INSERT INTO journal (at, kind, ref) VALUES (?, ?, ?)", x.l.now().Unix(), kind, ref)
	if err != nil {
		return 0, fmt.Errorf("book %s %s: %w", kind, ref, err)
	}
	id, err := res.LastInsertId()
	if err != nil {
		return 0, err
	}
	for _, p := range postings {
		var neighbor any
		if p.neighbor != 0 {
			neighbor = p.neighbor
		}
		if err := x.exec("INSERT INTO posting VALUES (?, ?, ?, ?)", id, p.account, neighbor, int64(p.amount)); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// balance is what is owed on one side, negative if more than that was paid.
func (x *tx) balance(neighbor int64, side int) (Amount, error) {
	account, sign := accReceivable, Amount(1)
	if side == sidePayable {
		account, sign = accPayable, -1
	}
	var sum int64
	_, err := x.one("SELECT coalesce(sum(amount), 0) FROM posting WHERE neighbor = ? AND account = ?", []any{neighbor, account}, &sum)
	return sign * Amount(sum), err
}

// refresh reads the balances that the rest of the program sees after commit.
func (x *tx) refresh(p *peer) error {
	r, err := x.balance(p.row, sideReceivable)
	if err != nil {
		return err
	}
	o, err := x.balance(p.row, sidePayable)
	if err != nil {
		return err
	}
	// What was charged to the neighbor and is no longer owed, it has paid.
	var earned int64
	if _, err := x.one("SELECT coalesce(-sum(amount), 0) FROM posting WHERE neighbor = ? AND account = 'earned'", []any{p.row}, &earned); err != nil {
		return err
	}
	born, found, err := x.oldest(p.row, sideReceivable)
	if err != nil {
		return err
	}
	is := balances{payable: o, receivable: r, repaid: min(Amount(earned), Amount(earned)-r)}
	if found {
		is.oldest = born.Unix()
	}
	// The oldest debts are paid first, so what is left was not let pass.
	var pardoned int64
	if _, err := x.one("SELECT pardoned FROM neighbor WHERE id = ?", []any{p.row}, &pardoned); err != nil {
		return err
	}
	if is.pardoned = min(Amount(pardoned), max(r, 0)); is.pardoned < Amount(pardoned) {
		if err := x.exec("UPDATE neighbor SET pardoned = ? WHERE id = ?", int64(is.pardoned), p.row); err != nil {
			return err
		}
	}
	x.balances[p] = is
	return nil
}

func (x *tx) refreshRow(neighbor int64) (err error) {
	x.l.peer(neighbor, func(p *peer) { err = x.refresh(p) })
	return err
}

func chargePostings(neighbor int64, side int, a Amount) []posting {
	if side == sideReceivable {
		return []posting{{accReceivable, neighbor, a}, {accEarned, neighbor, -a}}
	}
	return []posting{{accSpent, neighbor, a}, {accPayable, neighbor, -a}}
}

// charge adds a debt. Charges of one side within the ledger's span share a lot
// and its journal entry, so that the file grows with time, not with traffic.
func (x *tx) charge(neighbor int64, side int, a Amount) error {
	if a == 0 {
		return nil
	}
	before, err := x.balance(neighbor, side)
	if err != nil {
		return err
	}
	open := min(a, max(0, before+a)) // what was paid ahead is used first
	now := x.l.ages.read(side)
	var lot, journal, born int64
	found, err := x.one(`SELECT lot.id, lot.journal, lot.born FROM lot JOIN journal ON journal.id = lot.journal
		WHERE neighbor = ? AND side = ? AND kind = 'charge' ORDER BY lot.id DESC LIMIT 1`, []any{neighbor, side}, &lot, &journal, &born)
	if err != nil {
		return err
	}
	if found && now.Sub(time.Unix(born, 0)) < x.l.span && born <= now.Unix() {
		if err := x.exec("UPDATE lot SET amount = amount + ?, open = open + ? WHERE id = ?", int64(a), int64(open), lot); err != nil {
			return err
		}
		for _, p := range chargePostings(neighbor, side, a) {
			if err := x.exec("UPDATE posting SET amount = amount + ? WHERE journal = ? AND account = ?", int64(p.amount), journal, p.account); err != nil {
				return err
			}
		}
		return nil
	}
	if journal, err = x.book("charge", fmt.Sprintf("%d/%d/%d", neighbor, side, lot+1), chargePostings(neighbor, side, a)...); err != nil {
		return err
	}
	return x.exec("INSERT INTO lot (neighbor, side, born, amount, open, journal) VALUES (?, ?, ?, ?, ?, ?)", neighbor, side, now.Unix(), int64(a), int64(open), journal)
}

// writeOff takes back a charge: the newest lots shrink first.
func (x *tx) writeOff(neighbor int64, side int, a Amount) error {
	if a == 0 {
		return nil
	}
	var n int64
	if _, err := x.one("SELECT count(*) FROM journal WHERE kind = 'writeoff'", nil, &n); err != nil {
		return err
	}
	if _, err := x.book("writeoff", strconv.FormatInt(n+1, 10), chargePostings(neighbor, side, -a)...); err != nil {
		return err
	}
	return x.closeLots(neighbor, side, a, "DESC")
}

// closeLots takes a off the open lots, the oldest first ("ASC") or the newest.
// What is left over has been paid ahead.
func (x *tx) closeLots(neighbor int64, side int, a Amount, order string) error {
	for a > 0 {
		var lot, open int64
		found, err := x.one("SELECT id, open FROM lot WHERE neighbor = ? AND side = ? AND open > 0 ORDER BY born "+order+", id "+order+" LIMIT 1", []any{neighbor, side}, &lot, &open)
		if err != nil || !found {
			return err
		}
		take := min(a, Amount(open))
		if err := x.exec("UPDATE lot SET open = open - ? WHERE id = ?", int64(take), lot); err != nil {
			return err
		}
		a -= take
	}
	return nil
}

// reopen makes a debt again of a payment that did not hold, with its old birth
// date; journal is the entry that says so. What is covered by money paid ahead
// stays closed.
func (x *tx) reopen(neighbor int64, side int, a Amount, born, journal int64) error {
	after, err := x.balance(neighbor, side)
	if err != nil {
		return err
	}
	open := min(a, max(0, after))
	return x.exec("INSERT INTO lot (neighbor, side, born, amount, open, journal) VALUES (?, ?, ?, ?, ?, ?)", neighbor, side, born, int64(a), int64(open), journal)
}

// oldest is the birth of the oldest open lot; found is false if nothing is open.
func (x *tx) oldest(neighbor int64, side int) (born time.Time, found bool, err error) {
	var at sql.NullInt64
	if _, err = x.one("SELECT min(born) FROM lot WHERE neighbor = ? AND side = ? AND open > 0", []any{neighbor, side}, &at); err != nil {
		return born, false, err
	}
	return time.Unix(at.Int64, 0), at.Valid, nil
}

// totals reads the agreed counts.
func (x *tx) totals(neighbor int64) (t totals, err error) {
	return x.readTotals(neighbor, "cells")
}

func (x *tx) readTotals(neighbor int64, column string) (t totals, err error) {
	rows, err := x.QueryContext(x.ctx, "SELECT dir, payer, tier, "+column+" FROM total WHERE neighbor = ?", neighbor)
	if err != nil {
		return t, err
	}
	defer rows.Close()
	for rows.Next() {
		var dir, payer, tier int
		var cells int64
		if err := rows.Scan(&dir, &payer, &tier, &cells); err != nil {
			return t, err
		}
		if dir < 0 || dir > 1 || payer < 0 || payer > 1 || tier < 0 || tier > int(MaxTier) || cells < 0 {
			return t, errors.New("a total is out of range")
		}
		t[dir][payer][tier] = wire.Cells(cells)
	}
	return t, rows.Err()
}

// setTotals moves the agreed counts to t and charges, or writes off, the
// difference of what they cost: both in this transaction, so they never part.
func (x *tx) setTotals(p *peer, t *totals) error {
	old, err := x.totals(p.row)
	if err != nil {
		return err
	}
	for dir := range t {
		for payer := range t[dir] {
			for tier, cells := range t[dir][payer] {
				if cells == old[dir][payer][tier] {
					continue
				}
				if err := x.exec(`INSERT INTO total (neighbor, dir, payer, tier, cells) VALUES (?1, ?2, ?3, ?4, ?5)
					ON CONFLICT DO UPDATE SET cells = ?5, proven = min(proven, ?5)`, p.row, dir, payer, tier, int64(cells)); err != nil { //nolint:gosec // below maxTotal
					return err
				}
			}
		}
	}
	for payer, side := range [2]int{WePay: sidePayable, TheyPay: sideReceivable} {
		was, is := old.owed(Payer(payer)), t.owed(Payer(payer)) //nolint:gosec // 0 or 1
		if is >= was {
			err = x.charge(p.row, side, is-was)
		} else {
			err = x.writeOff(p.row, side, was-is)
		}
		if err != nil {
			return err
		}
	}
	return x.refresh(p)
}

// prove notes that the neighbor holds the direction's counts up to now durably.
func (x *tx) prove(neighbor int64, dir Direction, c *counts) error {
	for payer := range c {
		for tier, cells := range c[payer] {
			if cells == 0 {
				continue
			}
			if err := x.exec("UPDATE total SET proven = min(cells, ?) WHERE neighbor = ? AND dir = ? AND payer = ? AND tier = ? AND proven < ?",
				int64(cells), neighbor, int(dir), payer, tier, int64(cells)); err != nil { //nolint:gosec // below maxTotal
				return err
			}
		}
	}
	return nil
}

// verify checks what must always hold. It is run when a ledger is opened.
func (x *tx) verify() error {
	if err := x.hold(soundness); err != nil {
		return err
	}
	return x.consistent()
}

// consistent is verify for a file that is known to be sound.
func (x *tx) consistent() error {
	err := x.hold([]invariant{
		{"a journal entry's postings do not sum to zero", "SELECT journal FROM posting GROUP BY journal HAVING sum(amount) <> 0 LIMIT 1"},
		{"open lots do not sum to what is owed", `
			SELECT n.id FROM neighbor n, (SELECT 0 AS side UNION SELECT 1) s
			WHERE (SELECT coalesce(sum(open), 0) FROM lot WHERE neighbor = n.id AND lot.side = s.side)
			   <> max(0, (SELECT coalesce(sum(CASE account WHEN 'payable' THEN -amount ELSE amount END), 0) FROM posting
			              WHERE neighbor = n.id AND account = CASE s.side WHEN 0 THEN 'payable' ELSE 'receivable' END)) LIMIT 1`},
		{"payments under way do not sum to the transit account", `
			SELECT n.id FROM neighbor n
			WHERE (SELECT coalesce(sum(amount), 0) FROM intent WHERE neighbor = n.id AND state <= 3)
			    + (SELECT coalesce(sum(cum - acked), 0) FROM promise WHERE neighbor = n.id AND dir = 0)
			   <> (SELECT coalesce(-sum(amount), 0) FROM posting WHERE neighbor = n.id AND account = 'transit') LIMIT 1`},
		{"a payment was sent without its bytes", "SELECT id FROM intent WHERE state <> 0 AND NOT EXISTS (SELECT 1 FROM attempt WHERE intent = intent.id) LIMIT 1"},
	})
	if err != nil {
		return err
	}
	return errors.Join(x.verifyCharges(), x.verifyChannels())
}

// verifyCharges checks that what was charged is the price of the agreed counts.
func (x *tx) verifyCharges() error {
	rows, err := x.QueryContext(x.ctx, "SELECT id FROM neighbor")
	if err != nil {
		return err
	}
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return errors.Join(err, rows.Close())
		}
		ids = append(ids, id)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, id := range ids {
		t, err := x.totals(id)
		if err != nil {
			return err
		}
		var spent, earned int64
		if _, err := x.one("SELECT coalesce(sum(amount), 0) FROM posting WHERE neighbor = ? AND account = 'spent'", []any{id}, &spent); err != nil {
			return err
		}
		if _, err := x.one("SELECT coalesce(-sum(amount), 0) FROM posting WHERE neighbor = ? AND account = 'earned'", []any{id}, &earned); err != nil {
			return err
		}
		if Amount(spent) != t.owed(WePay) || Amount(earned) != t.owed(TheyPay) {
			return fmt.Errorf("ledger is damaged: charges of neighbor %d are not the price of its cells: nothing will be charged or paid from it; put back a backup", id)
		}
	}
	return nil
}
