package billing

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// What an operator asks of channels. Each wish is a mark in the ledger, which the
// chain loop works on until the chain shows that it is done: so a crash forgets
// none, and none is done twice.

// Errors of the operator's calls.
var (
	ErrNoChannels = errors.New("this node has no channels")
	ErrNoChannel  = errors.New("there is no open channel")
)

// NeighborChannel is one channel and the neighbor that it is with.
type NeighborChannel struct {
	Node wire.NodeID
	ChannelReport
}

// Channels lists all channels that were ever open, or are about to be.
func (b *Book) Channels(ctx context.Context) (out []NeighborChannel, err error) {
	if _, ok := b.settler.(*channels); !ok {
		return nil, ErrNoChannels
	}
	rows, err := b.ledger.read.QueryContext(ctx, "SELECT node, channel.id FROM channel JOIN neighbor ON neighbor.id = neighbor ORDER BY channel.id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	at := map[int64]wire.NodeID{}
	for rows.Next() {
		var node []byte
		var id int64
		if err := rows.Scan(&node, &id); err != nil {
			return nil, err
		}
		at[id] = wire.NodeID(node)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	all, err := b.ledger.reportChannels(ctx, "TRUE")
	for _, c := range all {
		if c.Epoch > 0 || c.WePay {
			out = append(out, NeighborChannel{at[c.ID], c})
		}
	}
	return out, err
}

// channelOf calls do with the open channel in which we pay a neighbor.
func (b *Book) channelOf(ctx context.Context, node wire.NodeID, do func(*tx, *channelRow) error) error {
	c, ok := b.settler.(*channels)
	if !ok {
		return ErrNoChannels
	}
	err := c.ledger.update(ctx, func(tx *tx) error {
		rows, err := tx.channels()
		if err != nil {
			return err
		}
		for _, r := range rows {
			mine := false
			c.ledger.peer(r.neighbor, func(p *peer) { mine = p.id == node })
			if mine && r.dir == 0 && r.open() && r.pair.Payer == c.direct.cfg.Wallet.Address() {
				return do(tx, r)
			}
		}
		return ErrNoChannel
	})
	if err == nil {
		b.urge()
	}
	return err
}

// CloseTo starts to close our channel to a neighbor: after the hub's notice what is
// left of the deposit comes back, and until it is open again transfers pay. Run
// does the rest.
func (b *Book) CloseTo(ctx context.Context, node wire.NodeID) error {
	return b.channelOf(ctx, node, func(tx *tx, r *channelRow) error {
		r.closing, r.target = true, 0
		return tx.putChannel(r)
	})
}

// TopUp has the deposit of our channel to a neighbor grow by an amount.
func (b *Book) TopUp(ctx context.Context, node wire.NodeID, a Amount) error {
	c, ok := b.settler.(*channels)
	if !ok {
		return ErrNoChannels
	}
	if b.ledger.full.Load() {
		return ErrFull
	}
	if rounded := c.Round(a); rounded <= 0 || rounded != a {
		return fmt.Errorf("the token cannot express %v, or the chain was not seen yet", a)
	}
	return b.channelOf(ctx, node, func(tx *tx, r *channelRow) error {
		if r.closing || r.closeAt != 0 {
			return errors.New("the channel is about to be closed")
		}
		from := max(r.totalUnits, r.target)
		if a > maxAmount-from {
			return errors.New("a deposit cannot be that large")
		}
		r.target = from + a
		return tx.putChannel(r)
	})
}

// planTopUp adds to the first channel whose deposit is not what was asked for.
func (c *channels) planTopUp(tx *tx, rows []*channelRow, allowance *big.Int) error {
	if c.ledger.full.Load() {
		return nil
	}
	if busy, err := tx.depositing(); err != nil || busy {
		return err
	}
	for _, r := range rows {
		if r.dir != 0 || !r.usable() || r.target <= r.totalUnits || r.pair.Payer != c.direct.cfg.Wallet.Address() {
			continue
		}
		if blocked, err := tx.blocked(callTopUp, r); err != nil {
			return err
		} else if blocked {
			continue
		}
		amount := toToken(r.target-r.totalUnits, uint8(c.decimals.Load())) //nolint:gosec // at most 36
		if allowance.Cmp(amount) < 0 {
			if blocked, err := tx.blocked(callApprove, nil); err != nil || blocked {
				return err
			}
			return c.addCall(tx, callApprove, nil, amount, c.hub.Approve(amount)) // not without the tokens
		}
		return c.addCall(tx, callTopUp, r, amount, c.hub.TopUp(r.pair.Payee, amount))
	}
	return nil
}

// String says what the call does to a channel.
func (k callKind) String() string {
	switch k {
	case callApprove:
		return "approving"
	case callOpen:
		return "opening"
	case callTopUp:
		return "topping up"
	case callCash:
		return "cashing"
	case callRequest:
		return "giving notice"
	case callClose:
		return "closing"
	}
	return fmt.Sprintf("call %d", int(k))
}

// reportChannels reads the channels that a condition picks.
func (l *ledger) reportChannels(ctx context.Context, where string, args ...any) (out []ChannelReport, err error) {
	rows, err := l.read.QueryContext(ctx, "SELECT "+channelColumns+`,
		coalesce((SELECT max(kind) FROM call WHERE call.channel = channel.id AND call.state <= ?1), 0) FROM channel WHERE `+where+" ORDER BY id", append([]any{int(evm.Mined)}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var kind callKind
		c, err := scanChannel(also{rows, &kind})
		if err != nil {
			return nil, err
		}
		r := ChannelReport{
			ID: c.id, WePay: c.dir == 0, Open: c.open(), Closing: c.closing || c.closeAt != 0, Epoch: c.epoch, Deposit: c.totalUnits, Vouchers: c.counted, Cashed: c.paidUnits,
			Payer: c.pair.Payer.Hex(), Payee: c.pair.Payee.Hex(), CloseAt: c.closeAt, Target: max(c.target, c.totalUnits),
		}
		if kind != 0 {
			r.UnderWay = kind.String()
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// also scans one more column.
type also struct {
	row  interface{ Scan(...any) error }
	into any
}

func (a also) Scan(to ...any) error { return a.row.Scan(append(to, a.into)...) }
