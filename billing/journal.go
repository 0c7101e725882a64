package billing

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"

	"cuttle/billing/evm"
)

// journal keeps one wallet's payments in the ledger for evm.Payments.
type journal struct {
	l      *ledger
	wallet evm.Address
}

var _ evm.Journal = (*journal)(nil)

// openIntents counts what the chain has to be asked about: payments, calls, and
// what operators want of channels and is not on its way yet.
func (l *ledger) openIntents(ctx context.Context) (n int, err error) {
	err = l.read.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM intent WHERE state <= ?1) + (SELECT count(*) FROM call WHERE state <= ?1)
		+ (SELECT count(*) FROM channel WHERE dir = 0 AND (target > total_units OR closing AND close_at = 0))`, int(evm.Mined)).Scan(&n)
	return n, err
}

// checkWallet refuses a wallet while payments of another one are open: their
// nonces are the other's, and only it can raise their fees.
func (l *ledger) checkWallet(wallet evm.Address) error {
	return l.update(context.Background(), func(tx *tx) error {
		var other []byte
		found, err := tx.one("SELECT wallet FROM intent WHERE state <= ?1 AND wallet <> ?2 UNION SELECT wallet FROM call WHERE state BETWEEN 1 AND ?1 AND wallet <> ?2 LIMIT 1", []any{int(evm.Mined), wallet[:]}, &other)
		if err != nil || !found {
			return err
		}
		return fmt.Errorf("ledger %s has payments under way from wallet %s, configured is %s: put the old wallet back until they are final", l.path, evm.Address(other), wallet)
	})
}

// OpenIntents implements evm.Journal. Calls of the hub have negative ids.
func (j *journal) OpenIntents(ctx context.Context) (open []evm.Intent, next uint64, err error) {
	err = j.l.update(ctx, func(tx *tx) error {
		var n int64
		if _, err := tx.one("SELECT max((SELECT coalesce(max(nonce) + 1, 0) FROM intent WHERE wallet = ?1), (SELECT coalesce(max(nonce) + 1, 0) FROM call WHERE wallet = ?1))", []any{j.wallet[:]}, &n); err != nil {
			return err
		}
		next = uint64(n) //nolint:gosec // never negative
		open, err = tx.openIntents(j.wallet)
		return err
	})
	return open, next, err
}

// openIntents reads what is not over: by nonce, what has none yet last.
func (x *tx) openIntents(wallet evm.Address) (open []evm.Intent, err error) {
	for _, query := range []string{
		`SELECT id, payee, token_amount, x'', x'', 0, state, coalesce(nonce, 0), coalesce(tx, x''), coalesce(block, 0), coalesce(block_hash, x''), confirmations
		 FROM intent WHERE wallet = ? AND (state <= ? OR (state = ? AND NOT looked_at)) ORDER BY nonce IS NULL, nonce, id`,
		`SELECT -id, x'', token_amount, target, data, urgent, state, coalesce(nonce, 0), coalesce(tx, x''), coalesce(block, 0), coalesce(block_hash, x''), confirmations
		 FROM call WHERE wallet = ? AND (state <= ? OR (state = ? AND NOT looked_at)) ORDER BY nonce IS NULL, nonce, id`,
	} {
		in, err := x.intents(query, wallet[:], int(evm.Mined), int(evm.Superseded))
		if err != nil {
			return nil, err
		}
		open = append(open, in...)
	}
	for i := range open {
		if open[i].Attempts, err = x.attempts(open[i].ID); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(open, byNonce)
	return open, nil
}

// Settled implements evm.Journal.
func (j *journal) Settled(ctx context.Context, since uint64) ([]evm.Intent, error) {
	return j.done(ctx, "block >= ? ORDER BY id DESC", since)
}

// Unused implements evm.Journal.
func (j *journal) Unused(ctx context.Context, nonce, upTo uint64) ([]evm.Intent, error) {
	done, err := j.done(ctx, "nonce >= ? AND block <= ? ORDER BY nonce", nonce, upTo)
	slices.SortFunc(done, byNonce)
	return done, err
}

// done reads payments and calls that are final or reverted.
func (j *journal) done(ctx context.Context, where string, args ...uint64) (done []evm.Intent, err error) {
	err = j.l.update(ctx, func(tx *tx) error {
		done = nil
		bound := []any{j.wallet[:], int(evm.Final), int(evm.Reverted)}
		for _, a := range args {
			bound = append(bound, int64(min(a, math.MaxInt64))) //nolint:gosec // bounded here
		}
		for _, query := range []string{
			`SELECT id, payee, token_amount, x'', x'', 0, state, nonce, coalesce(tx, x''), block, coalesce(block_hash, x''), confirmations FROM intent`,
			`SELECT -id, x'', token_amount, target, data, urgent, state, nonce, coalesce(tx, x''), block, coalesce(block_hash, x''), confirmations FROM call`,
		} {
			in, err := tx.intents(query+" WHERE wallet = ? AND state IN (?, ?) AND "+where+" LIMIT ?", append(bound, mostWatched)...)
			if err != nil {
				return err
			}
			done = append(done, in...)
		}
		for i := range done {
			if done[i].Attempts, err = tx.attempts(done[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// mostWatched bounds how many payments that are done are looked after at once.
const mostWatched = 100

func byNonce(a, b evm.Intent) int {
	if p, q := a.State == evm.Planned, b.State == evm.Planned; p || q {
		switch {
		case p && q:
			return 0
		case p:
			return 1
		}
		return -1
	}
	return cmp.Compare(a.Nonce, b.Nonce)
}

func (x *tx) intents(query string, args ...any) (out []evm.Intent, err error) {
	rows, err := x.QueryContext(x.ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var in evm.Intent
		var payee, hash, blockHash, target, data []byte
		var amount string
		var urgent bool
		if err := rows.Scan(&in.ID, &payee, &amount, &target, &data, &urgent, &in.State, &in.Nonce, &hash, &in.Included.Block.Number, &blockHash, &in.Included.Confirmations); err != nil {
			return nil, err
		}
		if len(target) > 0 {
			in.Call = &evm.Call{To: evm.Address(target), Data: data, Urgent: urgent}
		} else {
			in.Payee = evm.Address(payee)
		}
		if in.Amount, err = parseInt(amount); err != nil {
			return nil, err
		}
		if in.State >= evm.Mined && len(hash) == 32 && len(blockHash) == 32 {
			in.Included.Tx, in.Included.Block.Hash = evm.Hash(hash), evm.Hash(blockHash)
		}
		out = append(out, in)
	}
	return out, rows.Err()
}

// tables says where a payment is kept, under which number.
func tables(id int64) (intent, attempt string, row int64) {
	if id < 0 {
		return "call", "call_attempt", -id
	}
	return "intent", "attempt", id
}

func (x *tx) attempts(id int64) (out []evm.Attempt, err error) {
	_, table, row := tables(id)
	rows, err := x.QueryContext(x.ctx, "SELECT hash, raw, tip, cap, gas, at FROM "+table+" WHERE intent = ? ORDER BY n", row)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a evm.Attempt
		var hash []byte
		var tip, limit string
		var at int64
		if err := rows.Scan(&hash, &a.Raw, &tip, &limit, &a.Gas, &at); err != nil {
			return nil, err
		}
		a.Hash, a.At = evm.Hash(hash), time.Unix(at, 0)
		if a.TipCap, err = parseInt(tip); err != nil {
			return nil, err
		}
		if a.FeeCap, err = parseInt(limit); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

func parseInt(s string) (*big.Int, error) {
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, errors.New("ledger holds a number that is none")
	}
	return n, nil
}

// Sign implements evm.Journal. It returns when the bytes are on the disk.
func (j *journal) Sign(ctx context.Context, id int64, nonce uint64, a evm.Attempt) error {
	return j.l.update(ctx, func(tx *tx) error {
		if err := tx.renew(); err != nil {
			return err
		}
		intent, attempt, row := tables(id)
		other, _, _ := tables(-id)
		var state evm.State
		var had, taken int64
		found, err := tx.one("SELECT state, coalesce(nonce, -1) FROM "+intent+" WHERE id = ? AND wallet = ?", []any{row, j.wallet[:]}, &state, &had)
		if err != nil {
			return err
		}
		if !found || !state.Open() || nonce > 1<<62 || (had >= 0 && had != int64(nonce)) { //nolint:gosec // bounded here
			return fmt.Errorf("payment %d is %s with nonce %d: cannot sign it with nonce %d", id, state, had, nonce)
		}
		if _, err := tx.one("SELECT count(*) FROM "+other+" WHERE wallet = ? AND nonce = ?", []any{j.wallet[:], int64(nonce)}, &taken); err != nil {
			return err
		}
		if taken > 0 {
			return fmt.Errorf("payment %d: nonce %d has been given away", id, nonce)
		}
		if had < 0 {
			if err := tx.skip(j.wallet, int64(nonce)); err != nil { //nolint:gosec // bounded above
				return err
			}
		}
		if err := tx.exec("UPDATE "+intent+" SET nonce = ?, state = ? WHERE id = ?", int64(nonce), int(evm.Signed), row); err != nil {
			return err
		}
		return tx.exec("INSERT INTO "+attempt+" SELECT ?1, count(*), ?2, ?3, ?4, ?5, ?6, ?7 FROM "+attempt+" WHERE intent = ?1",
			row, a.Hash[:], a.Raw, a.TipCap.String(), a.FeeCap.String(), int64(a.Gas), a.At.Unix()) //nolint:gosec // gas of one transaction
	})
}

// skip notes the nonces between the last one that we gave and the next, which the
// chain has seen from somebody else.
func (x *tx) skip(wallet evm.Address, next int64) error {
	var last sql.NullInt64
	if _, err := x.one("SELECT max(nonce) FROM (SELECT nonce FROM intent WHERE wallet = ?1 UNION ALL SELECT nonce FROM call WHERE wallet = ?1)", []any{wallet[:]}, &last); err != nil || !last.Valid || next <= last.Int64+1 {
		return err
	}
	return x.exec("INSERT INTO skipped VALUES (?, ?, ?)", wallet[:], last.Int64+1, next-1)
}

// Mark implements evm.Journal. A payment that ends well leaves the wallet; one
// that ends badly becomes a debt again, as old as it was. One that was done and
// is not any more, since its block has left the chain, is on its way again.
func (j *journal) Mark(ctx context.Context, id int64, s evm.State, inc evm.Inclusion) error {
	return j.l.update(ctx, func(tx *tx) error {
		var neighbor, amount, born int64
		var was evm.State
		intent, _, row := tables(id)
		var looked bool
		query := "SELECT neighbor, amount, born, state, looked_at FROM intent WHERE id = ? AND wallet = ?"
		if id < 0 {
			query = "SELECT coalesce((SELECT neighbor FROM channel WHERE channel.id = call.channel), 0), 0, 0, state, looked_at FROM call WHERE id = ? AND wallet = ?"
		}
		found, err := tx.one(query, []any{row, j.wallet[:]}, &neighbor, &amount, &born, &was, &looked)
		switch {
		case err != nil:
			return err
		case !found || was == evm.Planned || !was.Open() && (looked || !undone(was, s)):
			return fmt.Errorf("payment %d is %s: cannot become %s", id, was, s)
		}
		if inc.Block.Number > 0 || inc.Tx != (evm.Hash{}) {
			err = tx.exec("UPDATE "+intent+" SET state = ?, tx = ?, block = ?, block_hash = ?, confirmations = ? WHERE id = ?",
				int(s), inc.Tx[:], int64(inc.Block.Number), inc.Block.Hash[:], int64(inc.Confirmations), row) //nolint:gosec // block numbers
		} else {
			err = tx.exec("UPDATE "+intent+" SET state = ?, tx = NULL, block = NULL, block_hash = NULL, confirmations = 0 WHERE id = ?", int(s), row)
		}
		if err == nil && undone(was, s) {
			err = tx.undo(id, neighbor, Amount(amount), was)
		}
		if err != nil || s.Open() {
			return err
		}
		if err := tx.bookFee(id, neighbor, inc); err != nil || id < 0 { // what a call has moved is read off the chain
			return err
		}
		a := Amount(amount)
		ref, err := tx.again(s.String(), id)
		if err != nil {
			return err
		}
		if s == evm.Final {
			_, err = tx.book("final", ref, posting{accTransit, neighbor, a}, posting{accPaid, 0, -a})
			return err
		}
		entry, err := tx.book(s.String(), ref, posting{accTransit, neighbor, a}, posting{accPayable, neighbor, -a})
		if err != nil {
			return err
		}
		if err := tx.reopen(neighbor, sidePayable, a, born, entry); err != nil {
			return err
		}
		return tx.refreshRow(neighbor)
	})
}

// undone tells whether a payment that was done, or lost, is on its way again.
func undone(was, s evm.State) bool {
	return !was.Open() && (s == evm.Sent || s == evm.Mined)
}

// undo books that a payment is on its way again.
func (x *tx) undo(id, neighbor int64, a Amount, was evm.State) error {
	if err := x.bookFee(id, neighbor, evm.Inclusion{}); err != nil || id < 0 {
		return err
	}
	ref, err := x.again("undone", id)
	if err != nil {
		return err
	}
	if was == evm.Final {
		_, err = x.book("undone", ref, posting{accPaid, 0, a}, posting{accTransit, neighbor, -a})
		return err
	}
	if _, err := x.book("undone", ref, posting{accPayable, neighbor, a}, posting{accTransit, neighbor, -a}); err != nil {
		return err
	}
	if err := x.closeLots(neighbor, sidePayable, a, "ASC"); err != nil {
		return err
	}
	return x.refreshRow(neighbor)
}

// again names an entry of a payment that may come more than once.
func (x *tx) again(kind string, id int64) (ref string, err error) {
	ref = strconv.FormatInt(id, 10)
	var n int64
	if _, err := x.one("SELECT count(*) FROM journal WHERE kind = ?1 AND (ref = ?2 OR ref LIKE ?2 || '/%')", []any{kind, ref}, &n); err != nil {
		return "", err
	}
	if n > 0 {
		ref = fmt.Sprintf("%s/%d", ref, n+1)
	}
	return ref, nil
}

// inbox keeps payments received in the ledger for evm.Receipts.
type inbox struct {
	l        *ledger
	decimals interface{ Load() int32 }
	hub      evm.Address // what comes from there is a voucher's, booked as such
	step     func(step string, id int64)
}

var _ evm.Inbox = (*inbox)(nil)

const keptMarks = 512

// Marks implements evm.Inbox.
func (i *inbox) Marks(ctx context.Context) (out []evm.Mark, err error) {
	rows, err := i.l.read.QueryContext(ctx, "SELECT number, hash FROM mark ORDER BY number DESC LIMIT ?", keptMarks)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var m evm.Mark
		var hash []byte
		if err := rows.Scan(&m.Number, &hash); err != nil {
			return nil, err
		}
		m.Hash = evm.Hash(hash)
		out = append(out, m)
	}
	return out, rows.Err()
}

// Credit implements evm.Inbox.
func (i *inbox) Credit(ctx context.Context, upTo evm.Mark, transfers []evm.Transfer) error {
	if len(transfers) > 0 {
		i.step("credit", 0)
		defer i.step("credited", 0)
	}
	return i.l.update(ctx, func(tx *tx) error {
		for _, t := range transfers {
			if i.hub != (evm.Address{}) && t.From == i.hub {
				continue
			}
			if err := tx.receive(t, i.decimals.Load()); err != nil {
				return err
			}
		}
		if err := tx.exec("INSERT OR REPLACE INTO mark VALUES (?, ?)", int64(upTo.Number), upTo.Hash[:]); err != nil { //nolint:gosec // a block number
			return err
		}
		return tx.exec("DELETE FROM mark WHERE number <= (SELECT number FROM mark ORDER BY number DESC LIMIT 1 OFFSET ?)", keptMarks)
	})
}

// receive books one transfer, once.
func (x *tx) receive(t evm.Transfer, decimals int32) error {
	var n int64
	if _, err := x.one("SELECT count(*) FROM receipt WHERE tx = ? AND log_index = ?", []any{t.Tx[:], int64(t.LogIndex)}, &n); err != nil || n > 0 {
		return err
	}
	if decimals < 0 || decimals > 36 {
		return errors.New("decimals of the token are not known")
	}
	a, err := fromToken(t.Amount, uint8(decimals))
	if err != nil {
		return err
	}
	var neighbor int64
	known, err := x.one("SELECT neighbor FROM binding WHERE wallet = ?", []any{t.From[:]}, &neighbor)
	if err != nil {
		return err
	}
	var entry int64
	if a > 0 {
		credit := posting{accUnallocated, 0, -a}
		if known {
			credit = posting{accReceivable, neighbor, -a}
		}
		var n int64
		if _, err := x.one("SELECT coalesce(max(id), 0) FROM journal", nil, &n); err != nil {
			return err
		}
		// A transfer that a fork took away and brought back is another entry.
		ref := fmt.Sprintf("%x/%d/%d", t.Tx, t.LogIndex, n+1)
		if entry, err = x.book("receipt", ref, posting{accReceived, 0, a}, credit); err != nil {
			return err
		}
	}
	var owner any
	var born int64
	if known {
		owner = neighbor
		if born, err = x.eldest(neighbor); err != nil {
			return err
		}
		if err := x.credited(neighbor, a); err != nil {
			return err
		}
	}
	return x.exec("INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", t.Tx[:], int64(t.LogIndex), int64(t.Block.Number), t.Block.Hash[:], //nolint:gosec // a block number
		t.From[:], owner, int64(a), t.Amount.String(), entry, born)
}

// eldest is the birth of a neighbor's oldest debt to us, 0 if it has none.
func (x *tx) eldest(neighbor int64) (int64, error) {
	born, found, err := x.oldest(neighbor, sideReceivable)
	if err != nil || !found {
		return 0, err
	}
	return born.Unix(), nil
}

// credited closes lots that a payment has paid for.
func (x *tx) credited(neighbor int64, a Amount) error {
	if err := x.closeLots(neighbor, sideReceivable, a, "ASC"); err != nil {
		return err
	}
	// What was served and never agreed on is paid by what is paid, not forgiven.
	x.l.peer(neighbor, func(p *peer) { x.made[p] += a })
	return x.refreshRow(neighbor)
}

// Rewind implements evm.Inbox: entries of blocks that left the chain are
// reversed, never changed.
func (i *inbox) Rewind(ctx context.Context, to evm.Mark) error {
	return i.l.update(ctx, func(tx *tx) error {
		type gone struct {
			neighbor, amount, born int64
			ref                    string
		}
		var all []gone
		rows, err := tx.QueryContext(tx.ctx, `SELECT coalesce(r.neighbor, 0), r.amount, r.born, coalesce(j.ref, '')
			FROM receipt r LEFT JOIN journal j ON j.id = r.entry WHERE r.block > ?`, int64(to.Number)) //nolint:gosec // a block number
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var g gone
			if err := rows.Scan(&g.neighbor, &g.amount, &g.born, &g.ref); err != nil {
				return err
			}
			all = append(all, g)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, g := range all {
			if g.amount == 0 {
				continue
			}
			if err := tx.reverse(g.neighbor, Amount(g.amount), g.born, g.ref); err != nil {
				return err
			}
		}
		if err := tx.exec("DELETE FROM receipt WHERE block > ?", int64(to.Number)); err != nil { //nolint:gosec // a block number
			return err
		}
		if to == (evm.Mark{}) {
			return tx.exec("DELETE FROM mark")
		}
		return tx.exec("DELETE FROM mark WHERE number > ?", int64(to.Number)) //nolint:gosec // a block number
	})
}

func (x *tx) reverse(neighbor int64, a Amount, born int64, ref string) error {
	debit := posting{accUnallocated, 0, a}
	if neighbor != 0 {
		debit = posting{accReceivable, neighbor, a}
	}
	entry, err := x.book("reversal", ref, debit, posting{accReceived, 0, -a})
	if err != nil || neighbor == 0 {
		return err
	}
	if born == 0 {
		born = x.l.ages.read(sideReceivable).Unix()
	}
	if err := x.reopen(neighbor, sideReceivable, a, born, entry); err != nil {
		return err
	}
	return x.refreshRow(neighbor)
}

// bind notes whose payments the wallet's are and hands over what it has paid
// already. A wallet that another neighbor still owes for stays bound there: a
// new key is no way out of a debt.
func (x *tx) bind(p *peer, h *hello) error {
	if !h.bound {
		return nil
	}
	var other int64
	found, err := x.one("SELECT neighbor FROM binding WHERE wallet = ?", []any{h.wallet[:]}, &other)
	if err != nil {
		return err
	}
	if found && other != p.row {
		owed, err := x.balance(other, sideReceivable)
		if err != nil {
			return err
		}
		if owed > 0 {
			p.mu.Lock()
			h.bound = false // judged as unable to pay
			p.mu.Unlock()
			return nil
		}
	}
	if err := x.exec("INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?)", h.wallet[:], p.row, int64(h.expiry), h.sig[:]); err != nil { //nolint:gosec // checked by the caller to be near
		return err
	}
	var sum int64
	if _, err := x.one("SELECT coalesce(sum(amount), 0) FROM receipt WHERE sender = ? AND neighbor IS NULL", []any{h.wallet[:]}, &sum); err != nil || sum == 0 {
		return err
	}
	var n int64
	if _, err := x.one("SELECT count(*) FROM journal WHERE kind = 'claim'", nil, &n); err != nil {
		return err
	}
	if _, err := x.book("claim", strconv.FormatInt(n+1, 10), posting{accUnallocated, 0, Amount(sum)}, posting{accReceivable, p.row, -Amount(sum)}); err != nil {
		return err
	}
	born, err := x.eldest(p.row)
	if err != nil {
		return err
	}
	if err := x.exec("UPDATE receipt SET neighbor = ?, born = ? WHERE sender = ? AND neighbor IS NULL", p.row, born, h.wallet[:]); err != nil {
		return err
	}
	return x.credited(p.row, Amount(sum))
}
