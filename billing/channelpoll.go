package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"cuttle/billing/evm"
)

// callKind is what a call to the hub or the token is for.
type callKind int

const (
	callApprove callKind = iota + 1
	callOpen
	callTopUp
	callCash
	callRequest // a close
	callClose
)

// Poll reads the channels, books what has changed, plans the calls that they
// need, and then does what transfers need; the calls are sent with those.
func (c *channels) Poll(ctx context.Context) (evm.Outcome, error) {
	if err := c.begin(ctx); err != nil {
		return evm.Outcome{}, err
	}
	err := c.watch(ctx) // first: a call that is undone is not planned again
	if err == nil {
		err = c.check(ctx)
	}
	if err == nil {
		var now time.Time
		if now, err = c.look(ctx); err == nil {
			err = c.planCalls(ctx, now)
		}
	}
	out, err2 := c.move(ctx)
	return out, errors.Join(err, err2)
}

// check makes sure, once, that the hub is the one that we know.
func (c *channels) check(ctx context.Context) error {
	if c.checked.Load() {
		return nil
	}
	notice, err := c.hub.Check(ctx)
	switch {
	case err != nil:
		return err
	case notice < c.cfg.Notice:
		return fmt.Errorf("the channel hub %s gives a notice of %s, at least %s is wanted: set billing.hub to another one, or to \"\"", c.cfg.Hub, notice, c.cfg.Notice)
	}
	if err := c.ledger.pin("hub", "channel hub", c.cfg.Hub.Hex()); err != nil {
		return err
	}
	c.checked.Store(true)
	return nil
}

// look reads all channels; the chain's time.
func (c *channels) look(ctx context.Context) (now time.Time, err error) {
	var rows []*channelRow
	if err := c.ledger.update(ctx, func(tx *tx) (err error) {
		rows, err = tx.channels()
		return err
	}); err != nil {
		return now, err
	}
	rows = slices.DeleteFunc(rows, func(r *channelRow) bool { return !c.watched(r) })
	pairs := make([]evm.Pair, len(rows))
	for i, r := range rows {
		pairs[i] = r.pair
	}
	deep, now, views, err := c.hub.Look(ctx, pairs, c.direct.cfg.Payments.Confirmations)
	if err != nil {
		return now, err
	}
	var same []int64
	for i, r := range rows {
		v := views[i]
		switch {
		case deep.Number < r.at: // this endpoint is not as far
			continue
		case !changed(r, v):
			same = append(same, r.id)
			continue
		}
		lastPaid := r.paid
		if r.open() && v.Deep.Epoch > r.epoch { // closed and opened again since
			if lastPaid, err = c.hub.Cashed(ctx, r.pair, r.epoch, r.at+1, deep.Number); err != nil {
				return now, err
			}
			lastPaid.Add(lastPaid, r.paid)
		}
		if v.Deep.Epoch < r.epoch { // a fork has undone the epoch
			lastPaid = new(big.Int)
		}
		if err := c.observe(ctx, r, v, deep.Number, lastPaid); err != nil {
			return now, err
		}
	}
	return now, c.ledger.update(ctx, func(tx *tx) error {
		for _, id := range same {
			if err := tx.exec("UPDATE channel SET at = ? WHERE id = ?", int64(deep.Number), id); err != nil { //nolint:gosec // a block number
				return err
			}
		}
		return nil
	})
}

// watched tells whether a channel is looked at: one of ours, one that was open
// once, or one that a neighbor with a link may have opened. Whoever only says that
// it has a wallet costs nothing after it has gone.
func (c *channels) watched(r *channelRow) bool {
	if r.dir == 0 || r.epoch > 0 {
		return true
	}
	linked := false
	c.ledger.peer(r.neighbor, func(p *peer) { linked = p.live.Load() != nil })
	return linked
}

// observe books what the chain says of a channel, on the row as it is by then:
// vouchers have moved on while the chain was asked.
func (c *channels) observe(ctx context.Context, r *channelRow, v evm.ChannelView, at uint64, lastPaid *big.Int) error {
	c.cfg.Step("channel seen")
	err := c.ledger.update(ctx, func(tx *tx) error {
		fresh, err := tx.channel(r.pair)
		if err != nil || fresh == nil || fresh.epoch != r.epoch || fresh.at != r.at {
			return err
		}
		return tx.observe(fresh, v, at, lastPaid, uint8(c.decimals.Load())) //nolint:gosec // at most 36
	})
	if err == nil {
		c.cfg.Step("channel booked")
	}
	return err
}

func changed(r *channelRow, v evm.ChannelView) bool {
	d := &v.Deep
	if d.Epoch != r.epoch || d.Signer != r.signer || v.CloseAt != r.closeAt {
		return true
	}
	return d.Open() && (d.Total().Cmp(r.total) != 0 || d.Paid.Cmp(r.paid) != 0)
}

// planCalls works out what the channels need and plans the calls. What is
// planned and not signed is worked out again each time.
func (c *channels) planCalls(ctx context.Context, now time.Time) error {
	allowance, err := c.hub.Allowance(ctx, c.direct.cfg.Wallet.Address())
	if err != nil {
		return err
	}
	return c.ledger.update(ctx, func(tx *tx) error {
		if err := tx.exec("DELETE FROM call WHERE state = 0"); err != nil {
			return err
		}
		rows, err := tx.channels()
		if err != nil {
			return err
		}
		return errors.Join(c.planCash(tx, rows), c.planClose(tx, rows, now), c.planTopUp(tx, rows, allowance), c.planDeposit(tx, allowance))
	})
}

// blocked tells whether a call of that kind is under way, not yet read back from
// the chain, or was refused a short while ago. channel 0: any.
func (x *tx) blocked(kind callKind, r *channelRow) (bool, error) {
	var n int64
	_, err := x.one(`SELECT count(*) FROM call c LEFT JOIN channel h ON h.id = c.channel WHERE c.kind = ?1 AND c.channel IS ?2
		AND (c.state <= ?3 OR (c.state = ?4 AND h.id IS NOT NULL AND c.block > h.at) OR (c.state = ?5 AND c.planned > ?6))`,
		[]any{int(kind), channelID(r), int(evm.Mined), int(evm.Final), int(evm.Reverted), x.l.now().Add(-revertPause).Unix()}, &n)
	return n > 0, err
}

func channelID(r *channelRow) any {
	if r == nil {
		return nil
	}
	return r.id
}

func (c *channels) addCall(tx *tx, kind callKind, r *channelRow, tokens *big.Int, call evm.Call) error {
	wallet := c.direct.cfg.Wallet.Address()
	return tx.exec("INSERT INTO call (wallet, kind, channel, token_amount, target, data, urgent, planned, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
		wallet[:], int(kind), channelID(r), tokens.String(), call.To[:], call.Data, call.Urgent, tx.l.now().Unix())
}

// mostClaims bounds one call's size and gas.
const mostClaims = 50

// planCash cashes in one call all vouchers that are worth it, when one of them
// is due; at any fee up to four times the limit when a payer is about to close.
func (c *channels) planCash(tx *tx, rows []*channelRow) error {
	due, urgent := false, false
	var claims []evm.Claim
	first := (*channelRow)(nil)
	rows = slices.Clone(rows) // those that cannot wait first, then the largest
	slices.SortStableFunc(rows, func(a, b *channelRow) int {
		if (a.closeAt != 0) != (b.closeAt != 0) {
			return cmp.Compare(b.closeAt, a.closeAt)
		}
		return cmp.Compare(b.counted-b.paidUnits, a.counted-a.paidUnits)
	})
	for _, r := range rows {
		if len(claims) == mostClaims {
			break // the next call takes the rest
		}
		open := r.counted - r.paidUnits
		if r.dir != 1 || open <= 0 || len(r.sig) != 65 || !r.open() {
			continue
		}
		worth := open >= c.cfg.Window/windowParts // less is not worth any fee
		closing := worth && r.closeAt != 0
		old := worth && tx.l.now().Sub(time.Unix(r.since, 0)) >= c.cfg.CashAfter
		if open < c.cfg.CashAbove/4 && !old && !closing {
			continue
		}
		if first == nil {
			first = r
		}
		due, urgent = due || old || closing || open >= c.cfg.CashAbove, urgent || closing
		claims = append(claims, evm.Claim{Pair: r.pair, Cumulative: r.cum, Sig: [65]byte(r.sig)})
	}
	if urgent {
		if err := tx.exec("UPDATE call SET urgent = 1 WHERE kind = ? AND state <= ?", int(callCash), int(evm.Mined)); err != nil {
			return err
		}
	}
	if !due {
		return nil
	}
	if blocked, err := tx.cashing(); err != nil || blocked {
		return err
	}
	return c.addCall(tx, callCash, first, new(big.Int), c.hub.Cash(claims, urgent))
}

// cashing tells whether cashing is under way or not read back yet: one call
// cashes for many channels and is kept with the first.
func (x *tx) cashing() (bool, error) {
	var n int64
	_, err := x.one(`SELECT count(*) FROM call c JOIN channel h ON h.id = c.channel WHERE c.kind = ?1
		AND (c.state <= ?2 OR (c.state = ?3 AND c.block > h.at) OR (c.state = ?4 AND c.planned > ?5))`,
		[]any{int(callCash), int(evm.Mined), int(evm.Final), int(evm.Reverted), x.l.now().Add(-revertPause).Unix()}, &n)
	return n > 0, err
}

// planClose closes our channels that are not wanted any more: asked for by a
// user, idle for long, or with a signer whose key is not here.
func (c *channels) planClose(tx *tx, rows []*channelRow, now time.Time) error {
	for _, r := range rows {
		if r.dir != 0 || !r.open() || r.pair.Payer != c.direct.cfg.Wallet.Address() {
			continue
		}
		lost := len(r.key) != 32 || evm.ChannelKey(r.key).Address() != r.signer
		idle := r.since > 0 && tx.l.now().Sub(time.Unix(r.since, 0)) >= c.cfg.Idle
		if !r.closing && (lost || idle) {
			r.closing = true
			if err := tx.putChannel(r); err != nil {
				return err
			}
		}
		if !r.closing {
			continue
		}
		kind, call := callRequest, c.hub.RequestClose(r.pair.Payee)
		if r.closeAt != 0 {
			if uint64(max(now.Unix(), 0)) < r.closeAt { //nolint:gosec // not negative
				continue
			}
			kind, call = callClose, c.hub.Close(r.pair.Payee)
		}
		if blocked, err := tx.blocked(kind, r); err != nil {
			return err
		} else if blocked {
			continue
		}
		if err := c.addCall(tx, kind, r, new(big.Int), call); err != nil {
			return err
		}
	}
	return nil
}

// planDeposit opens or tops up a channel for a neighbor that we owe and that the
// present deposit does not reach for: one at a time, since the token holds one
// allowance for the hub.
func (c *channels) planDeposit(tx *tx, allowance *big.Int) error {
	if c.ledger.full.Load() {
		return nil
	}
	if busy, err := tx.depositing(); err != nil || busy {
		return err
	}
	var failed error
	c.ledger.peers.Range(func(_, v any) bool {
		p := v.(*peer)
		h := c.partner(p)
		owed := Amount(p.payable.Load())
		if _, ok := c.CanPay(h); !ok || h == nil || h.earning == c.cfg.Hub || h.earning == c.direct.cfg.Wallet.Address() {
			return true
		}
		planned, err := c.deposit(tx, p, h, owed, allowance)
		failed = err
		return err == nil && !planned
	})
	return failed
}

func (c *channels) deposit(tx *tx, p *peer, h *hello, owed Amount, allowance *big.Int) (planned bool, err error) {
	r, err := tx.channel(c.toPair(h))
	if err != nil || r != nil && (r.neighbor != p.row || r.closing || r.closeAt != 0) {
		return false, err
	}
	decimals := uint8(c.decimals.Load()) //nolint:gosec // at most 36
	want := c.Round(max(c.cfg.Deposit, 2*owed))
	enough := owed < c.cfg.Window/windowParts
	if r != nil && r.open() {
		enough = unitsOf(r.left(), decimals)-owed >= want/4
	}
	if enough || want <= 0 {
		return false, nil
	}
	if r == nil {
		key, err := evm.NewChannelKey()
		if err != nil {
			return false, err
		}
		pair := c.toPair(h)
		if err := tx.exec("INSERT INTO channel (neighbor, dir, payer, payee, key) VALUES (?, 0, ?, ?, ?)", p.row, pair.Payer[:], pair.Payee[:], key[:]); err != nil {
			return false, err
		}
		if r, err = tx.channel(pair); err != nil {
			return false, err
		}
	}
	for _, kind := range []callKind{callOpen, callTopUp} {
		if blocked, err := tx.blocked(kind, r); err != nil || blocked {
			return false, err
		}
	}
	amount := toToken(want, decimals)
	switch {
	case allowance.Cmp(amount) < 0:
		if blocked, err := tx.blocked(callApprove, nil); err != nil || blocked {
			return false, err
		}
		return true, c.addCall(tx, callApprove, nil, amount, c.hub.Approve(amount)) // not without the tokens
	case r.open():
		return true, c.addCall(tx, callTopUp, r, amount, c.hub.TopUp(r.pair.Payee, amount))
	}
	return true, c.addCall(tx, callOpen, r, amount, c.hub.Open(r.pair.Payee, evm.ChannelKey(r.key).Address(), amount))
}

// depositing tells whether an approval or a deposit is on its way.
func (x *tx) depositing() (bool, error) {
	var n int64
	_, err := x.one("SELECT count(*) FROM call WHERE kind IN (?, ?, ?) AND state < ?", []any{int(callApprove), int(callOpen), int(callTopUp), int(evm.Mined)}, &n)
	return n > 0, err
}
