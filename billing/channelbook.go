package billing

import (
	"database/sql"
	"errors"
	"fmt"
	"math/big"

	"cuttle/billing/evm"
)

// channelRow is a channel as the ledger has it.
type channelRow struct {
	id, neighbor int64
	dir          int // 0: we pay
	pair         evm.Pair
	epoch        uint64
	signer       evm.Address // zero: not open, as believed
	at           uint64      // the block of this belief
	total, paid  *big.Int
	totalUnits   Amount
	paidUnits    Amount
	cum          *big.Int // of the last voucher of the epoch
	sig          []byte   // its signature; empty: none, or not ours to repeat
	counted      Amount   // what vouchers have moved in the ledger in this epoch
	closeAt      uint64   // at the head, Unix seconds
	key          []byte   // of the signer; dir 0
	since        int64    // when the oldest voucher that is not cashed came; dir 0: when the last one was given
	closing      bool
	target       Amount // what our deposit is to reach, if an operator has asked for more; of the epoch
}

func (r *channelRow) open() bool { return r.signer != evm.Address{} }

// ours tells whether we can sign vouchers that cost no time to explain: the key
// is there, the channel open and not on its way to be closed.
func (r *channelRow) usable() bool {
	return r.open() && !r.closing && r.closeAt == 0 && len(r.key) == 32 && evm.ChannelKey(r.key).Address() == r.signer
}

// left is what new vouchers can promise.
func (r *channelRow) left() *big.Int { return new(big.Int).Sub(r.total, r.cum) }

const channelColumns = "id, neighbor, dir, payer, payee, epoch, signer, at, total, total_units, paid, paid_units, cum, coalesce(sig, x''), counted, close_at, coalesce(key, x''), since, closing, target"

func scanChannel(rows interface{ Scan(...any) error }) (*channelRow, error) {
	var r channelRow
	var payer, payee, signer []byte
	var total, paid, cum string
	var epoch, at, closeAt int64
	if err := rows.Scan(&r.id, &r.neighbor, &r.dir, &payer, &payee, &epoch, &signer, &at, &total, &r.totalUnits, &paid, &r.paidUnits,
		&cum, &r.sig, &r.counted, &closeAt, &r.key, &r.since, &r.closing, &r.target); err != nil {
		return nil, err
	}
	if len(payer) != 20 || len(payee) != 20 || len(signer) != 20 || epoch < 0 || at < 0 || closeAt < 0 {
		return nil, errors.New("ledger holds a channel that is none")
	}
	r.pair, r.signer = evm.Pair{Payer: evm.Address(payer), Payee: evm.Address(payee)}, evm.Address(signer)
	r.epoch, r.at, r.closeAt = uint64(epoch), uint64(at), uint64(closeAt)
	var err error
	for _, n := range []struct {
		to   **big.Int
		text string
	}{{&r.total, total}, {&r.paid, paid}, {&r.cum, cum}} {
		if *n.to, err = parseInt(n.text); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

// channel reads one channel; nil if there is none.
func (x *tx) channel(p evm.Pair) (*channelRow, error) {
	r, err := scanChannel(x.QueryRowContext(x.ctx, "SELECT "+channelColumns+" FROM channel WHERE payer = ? AND payee = ?", p.Payer[:], p.Payee[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // none is a valid outcome, and every caller asks
	}
	return r, err
}

// channelTo is the channel in which we pay a neighbor: nil if it is there and was
// opened for another one, since two may name one earning address.
func (x *tx) channelTo(p *peer, pair evm.Pair) (*channelRow, error) {
	r, err := x.channel(pair)
	if r != nil && r.neighbor != p.row {
		r = nil
	}
	return r, err
}

func (x *tx) channels() (out []*channelRow, err error) {
	rows, err := x.QueryContext(x.ctx, "SELECT "+channelColumns+" FROM channel ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanChannel(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func (x *tx) putChannel(r *channelRow) error {
	return x.exec(`UPDATE channel SET neighbor = ?, epoch = ?, signer = ?, at = ?, total = ?, total_units = ?, paid = ?, paid_units = ?,
		cum = ?, sig = ?, counted = ?, close_at = ?, since = ?, closing = ?, target = ? WHERE id = ?`,
		r.neighbor, int64(r.epoch), r.signer[:], int64(r.at), r.total.String(), int64(r.totalUnits), r.paid.String(), int64(r.paidUnits), //nolint:gosec // read from the same columns
		r.cum.String(), r.sig, int64(r.counted), int64(r.closeAt), r.since, r.closing, int64(r.target), r.id) //nolint:gosec // likewise
}

// accrue books what happens often: entries of one channel and kind within the
// ledger's span are one, so that the file grows with time, not with traffic. Its
// id.
func (x *tx) accrue(kind string, r *channelRow, postings ...posting) (int64, error) {
	var id, at int64
	found, err := x.one(`SELECT id, at FROM journal WHERE kind = ? AND ref LIKE ?
		AND EXISTS (SELECT 1 FROM posting WHERE posting.journal = journal.id AND posting.neighbor = ?) ORDER BY id DESC LIMIT 1`,
		[]any{kind, fmt.Sprintf("%d/%%", r.id), postings[0].neighbor}, &id, &at)
	if err != nil {
		return 0, err
	}
	if now := x.l.now().Unix(); !found || at > now || now-at >= int64(x.l.span.Seconds()) {
		return x.entry(kind, r, postings...)
	}
	for _, p := range postings {
		var neighbor any
		if p.neighbor != 0 {
			neighbor = p.neighbor
		}
		if err := x.exec("UPDATE posting SET amount = amount + ? WHERE journal = ? AND account = ? AND neighbor IS ?", int64(p.amount), id, p.account, neighbor); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// entry books what happens to a channel.
func (x *tx) entry(kind string, r *channelRow, postings ...posting) (int64, error) {
	var n int64
	if _, err := x.one("SELECT coalesce(max(id), 0) + 1 FROM journal", nil, &n); err != nil {
		return 0, err
	}
	return x.book(kind, fmt.Sprintf("%d/%d", r.id, n), postings...)
}

// observe takes what the chain says of a channel: deep is believed, latest only
// tells of a notice. lastPaid is what the epoch before deep's paid in all, where
// deep is in a new one. Everything that has changed is booked.
func (x *tx) observe(r *channelRow, v evm.ChannelView, at uint64, lastPaid *big.Int, decimals uint8) error {
	deep := &v.Deep
	r.at, r.closeAt = at, v.CloseAt
	if deep.Epoch != r.epoch {
		if err := x.endEpoch(r, lastPaid, decimals); err != nil {
			return err
		}
		r.epoch, r.cum, r.sig, r.counted, r.since = deep.Epoch, new(big.Int), nil, 0, 0
		if r.dir == 0 {
			r.since = x.l.now().Unix() // unused from now on
		}
		r.total, r.paid, r.totalUnits, r.paidUnits = new(big.Int), new(big.Int), 0, 0
	}
	if r.open() && !deep.Open() {
		if err := x.endEpoch(r, deep.Paid, decimals); err != nil {
			return err
		}
	}
	r.signer = deep.Signer
	if deep.Open() {
		if err := x.setTotal(r, deep.Total(), decimals); err != nil {
			return err
		}
		if err := x.setPaid(r, deep.Paid, decimals); err != nil {
			return err
		}
		if err := x.settleCount(r, decimals); err != nil {
			return err
		}
	}
	if err := x.putChannel(r); err != nil {
		return err
	}
	return x.refreshRow(r.neighbor)
}

// settleCount makes the ledger agree with what the channel can pay: vouchers
// that the deposit does not cover any more count no longer, and what was paid
// out counts even if the voucher is unknown here (an older ledger was put back).
func (x *tx) settleCount(r *channelRow, decimals uint8) error {
	to := min(unitsOf(r.cum, decimals), r.totalUnits)
	if r.paid.Cmp(r.cum) > 0 {
		r.cum, r.sig = new(big.Int).Set(r.paid), nil
	}
	if err := x.recount(r, max(to, r.paidUnits)); err != nil {
		return err
	}
	if r.dir == 0 && r.paidUnits >= r.counted {
		return x.confirmVouchers(r)
	}
	return nil
}

// endEpoch books the end of a channel that has paid out paid in all: vouchers
// that were not cashed are void, so the debt is one again, on both sides; the
// rest of a deposit is the payer's.
func (x *tx) endEpoch(r *channelRow, paid *big.Int, decimals uint8) error {
	if r.epoch == 0 {
		return nil
	}
	if r.total.Cmp(paid) < 0 {
		if err := x.setTotal(r, paid, decimals); err != nil {
			return err
		}
	}
	if err := x.setPaid(r, paid, decimals); err != nil {
		return err
	}
	if r.dir == 0 {
		if err := x.confirmVouchers(r); err != nil {
			return err
		}
	}
	if err := x.recount(r, r.paidUnits); err != nil {
		return err
	}
	r.cum, r.sig, r.signer, r.closing, r.closeAt, r.target = new(big.Int).Set(paid), nil, evm.Address{}, false, 0, 0
	return x.setTotal(r, paid, decimals)
}

// setTotal books a change of our own deposit.
func (x *tx) setTotal(r *channelRow, total *big.Int, decimals uint8) error {
	units := unitsOf(total, decimals)
	d := units - r.totalUnits
	r.total, r.totalUnits = new(big.Int).Set(total), units
	if r.dir == 1 || d == 0 {
		return nil
	}
	_, err := x.entry("deposit", r, posting{accLocked, r.neighbor, d}, posting{accPaid, 0, -d})
	return err
}

// setPaid books what came out of a channel to us.
func (x *tx) setPaid(r *channelRow, paid *big.Int, decimals uint8) error {
	units := unitsOf(paid, decimals)
	d := units - r.paidUnits
	r.paid, r.paidUnits = new(big.Int).Set(paid), units
	if r.dir == 0 || d == 0 {
		return nil
	}
	_, err := x.entry("cashed", r, posting{accReceived, 0, d}, posting{accVouchers, r.neighbor, -d})
	return err
}

// recount changes what vouchers of this epoch have moved: more closes debts,
// less makes them debts again, as old as the oldest voucher.
func (x *tx) recount(r *channelRow, to Amount) error {
	d := to - r.counted
	if d == 0 {
		return nil
	}
	r.counted = to
	side, postings := sidePayable, []posting{{accPayable, r.neighbor, d}, {accLocked, r.neighbor, -d}}
	if r.dir == 1 {
		side, postings = sideReceivable, []posting{{accVouchers, r.neighbor, d}, {accReceivable, r.neighbor, -d}}
	}
	id, err := x.entry("recount", r, postings...)
	switch {
	case err != nil:
		return err
	case d < 0:
		born := x.l.ages.read(side).Unix() // the clock of ages may be behind
		if r.since > 0 {
			born = min(born, r.since)
		}
		return x.reopen(r.neighbor, side, -d, born, id)
	case side == sideReceivable:
		return x.credited(r.neighbor, d)
	}
	return x.closeLots(r.neighbor, side, d, "ASC")
}

// confirmVouchers books that the payee holds all our vouchers.
func (x *tx) confirmVouchers(r *channelRow) error {
	cum, acked, err := x.promised(r.neighbor, 0, WayVoucher)
	if err != nil || cum == acked {
		return err
	}
	a := Amount(cum - acked)
	if _, err := x.accrue("voucher held", r, posting{accTransit, r.neighbor, a}, posting{accLocked, r.neighbor, -a}); err != nil {
		return err
	}
	return x.setPromised(r.neighbor, 0, WayVoucher, cum, cum)
}

// unitsOf rounds down to ledger units, and saturates: a channel may hold more
// than a ledger can.
func unitsOf(n *big.Int, decimals uint8) Amount {
	a, err := fromToken(n, decimals)
	if err != nil {
		return maxAmount
	}
	return a
}

// verifyChannels checks that accounts and channels say the same.
func (x *tx) verifyChannels() error {
	return x.hold([]invariant{
		{"deposits less vouchers are not the locked account", `
			SELECT n.id FROM neighbor n
			WHERE (SELECT coalesce(sum(total_units - counted), 0) FROM channel WHERE neighbor = n.id AND dir = 0)
			    + (SELECT coalesce(sum(cum - acked), 0) FROM promise WHERE neighbor = n.id AND dir = 0 AND way = 3)
			   <> (SELECT coalesce(sum(amount), 0) FROM posting WHERE neighbor = n.id AND account = 'locked') LIMIT 1`},
		{"vouchers held are not the vouchers account", `
			SELECT n.id FROM neighbor n
			WHERE (SELECT coalesce(sum(counted - paid_units), 0) FROM channel WHERE neighbor = n.id AND dir = 1)
			   <> (SELECT coalesce(sum(amount), 0) FROM posting WHERE neighbor = n.id AND account = 'vouchers') LIMIT 1`},
		{"a voucher for more than the deposit was given", "SELECT id FROM channel WHERE dir = 0 AND counted > total_units LIMIT 1"},
		{"a voucher for more than the deposit is held", "SELECT id FROM channel WHERE dir = 1 AND counted > total_units LIMIT 1"},
		{"a call was sent without its bytes", "SELECT id FROM call WHERE state <> 0 AND NOT EXISTS (SELECT 1 FROM call_attempt WHERE intent = call.id) LIMIT 1"},
	})
}
