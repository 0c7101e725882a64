package billing

import (
	"context"
	"fmt"
	"math/big"
	"sync/atomic"

	"cuttle/billing/evm"
)

// What the consuming wallet holds on the chain, and what has left it through the
// ledger, together are what was put into it. So each look books what has come in
// from outside, and anything that has gone another way is seen: a sweep, another
// program, a thief. Entries of kind funded and withdrawn carry the wallet in their
// ref.
const (
	accWallet  = "wallet"  // what was put into the consuming wallet and not taken out again past the ledger
	accOutside = "outside" // minus that
)

// cashier compares one wallet with its ledger. It belongs to the chain loop.
type cashier struct {
	ledger *ledger
	client *evm.Client
	wallet evm.Address
	seen   uint64                 // block of the last look
	short  bool                   // that look found less than there should be: one endpoint may only be late
	told   atomic.Pointer[string] // what is missing, in words; for Report
}

// look compares at a block that counts as final. What an endpoint does not tell
// is asked again at the next look.
func (c *cashier) look(ctx context.Context, block uint64, decimals uint8) error {
	if c == nil || block <= c.seen {
		return nil
	}
	held, err := c.client.Held(ctx, c.wallet, block)
	if err != nil {
		return nil //nolint:nilerr // it may have forgotten the state of that block, and nothing hangs on it
	}
	balance, err := fromToken(held, decimals)
	if err != nil {
		return nil //nolint:nilerr // more than a ledger can count
	}
	c.seen = block
	gone, short := Amount(0), false
	err = c.ledger.update(ctx, func(tx *tx) (err error) {
		gone, short, err = tx.compareCash(c.wallet, block, balance, c.short)
		return err
	})
	if err != nil {
		return fmt.Errorf("compare the wallet with the ledger: %w", err)
	}
	c.short = short
	if gone > 0 {
		told := fmt.Sprintf("%v of token %s left wallet %s on chain %d past this ledger: if that was not you (`cuttle wallet sweep`, another program), move what is left to a new wallet",
			gone, c.client.Token().Hex(), c.wallet.Hex(), c.client.ChainID())
		c.told.Store(&told)
	}
	return nil
}

// compareCash books what was put into a wallet, or is gone from it, since the last
// look; the latter when it was missing at the look before, too.
func (x *tx) compareCash(wallet evm.Address, block uint64, balance Amount, again bool) (gone Amount, short bool, err error) {
	moved, whole, err := x.movedFrom(wallet, block)
	if err != nil || !whole || balance > maxAmount-moved {
		return 0, false, err
	}
	had, err := x.putInto(wallet)
	if err != nil {
		return 0, false, err
	}
	d := balance + moved - had
	if d < 0 && !again {
		return 0, true, nil
	}
	if d != 0 {
		kind := "funded"
		if d < 0 {
			kind, gone = "withdrawn", -d
		}
		var n int64
		if _, err := x.one("SELECT coalesce(max(id), 0) + 1 FROM journal", nil, &n); err != nil {
			return 0, false, err
		}
		if _, err := x.book(kind, fmt.Sprintf("%x/%d", wallet[:], n), posting{accWallet, 0, d}, posting{accOutside, 0, -d}); err != nil {
			return 0, false, err
		}
	}
	return gone, false, x.exec("INSERT OR REPLACE INTO cash VALUES (?, ?, ?, ?)", wallet[:], int64(block), int64(balance), int64(moved)) //nolint:gosec // a block number
}

// putInto is what the account of a wallet says.
func (x *tx) putInto(wallet evm.Address) (sum Amount, err error) {
	_, err = x.one("SELECT coalesce(sum(p.amount), 0) FROM journal j JOIN posting p ON p.journal = j.id WHERE j.kind IN ('funded', 'withdrawn') AND j.ref LIKE ? || '/%' AND p.account = 'wallet'",
		[]any{fmt.Sprintf("%x", wallet[:])}, &sum)
	return sum, err
}

// movedFrom is what has left a wallet up to a block by payments and deposits, less
// what has come back from the hub. whole is false while channels are known as of
// another block.
func (x *tx) movedFrom(wallet evm.Address, block uint64) (moved Amount, whole bool, err error) {
	var paid, locked Amount
	var elsewhere int64
	if _, err := x.one("SELECT coalesce(sum(amount), 0) FROM intent WHERE wallet = ? AND state = ? AND block <= ?", []any{wallet[:], int(evm.Final), int64(block)}, &paid); err != nil { //nolint:gosec // a block number
		return 0, false, err
	}
	if _, err := x.one("SELECT count(*) FROM channel WHERE dir = 0 AND payer = ? AND at <> ? AND at > 0", []any{wallet[:], int64(block)}, &elsewhere); err != nil { //nolint:gosec // a block number
		return 0, false, err
	}
	_, err = x.one(`SELECT coalesce(-sum(p.amount), 0) FROM channel c JOIN journal j ON j.kind = 'deposit' AND j.ref LIKE c.id || '/%' JOIN posting p ON p.journal = j.id
		WHERE c.dir = 0 AND c.payer = ? AND p.account = 'paid'`, []any{wallet[:]}, &locked)
	return paid + locked, elsewhere == 0, err
}

// seenAt is the block of which the channels of a wallet are known; 0 if it has
// none.
func (x *tx) seenAt(wallet evm.Address) (block uint64, err error) {
	_, err = x.one("SELECT coalesce(max(at), 0) FROM channel WHERE dir = 0 AND payer = ?", []any{wallet[:]}, &block)
	return block, err
}

// compare looks at a wallet's cash at the block of which everything that moves it
// is known: deep, or that of the channels.
func (d *direct) compare(ctx context.Context, deep uint64) error {
	var block uint64
	if err := d.ledger.update(ctx, func(tx *tx) (err error) {
		block, err = tx.seenAt(d.cfg.Wallet.Address())
		return err
	}); err != nil {
		return err
	}
	if block == 0 {
		block = deep
	}
	return d.cash.look(ctx, min(block, deep), uint8(d.decimals.Load())) //nolint:gosec // at most 36
}

// wei is an amount of the chain's own coin in ledger units, rounded up; saturates.
func wei(n *big.Int) Amount {
	n = new(big.Int).Add(n, big.NewInt(unitsInCoin-1))
	if n.Quo(n, big.NewInt(unitsInCoin)); !n.IsInt64() {
		return maxAmount
	}
	return Amount(n.Int64())
}
