package billing

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"time"

	"cuttle/billing/evm"
)

// A neighbor is served on credit only while its wallet could pay: as much token
// as it owes, at least something, and coin for a transfer's fee, or a deposit for
// us that is not used up. What a wallet holds is read off the chain when its
// neighbor has a link, every ScanEvery, and at each poll while it is too little
// for what is owed. Until it was seen once a neighbor that has paid nothing may owe
// a small part of what it else might, as long as the chain answers. While the chain is not read nothing changes: nobody is
// refused for funds that were not looked at, and nobody is let in again.

const (
	mostLooked = 100 // wallets looked at in one poll
	blindPart  = 8   // of CreditStart: what a stranger may owe before its wallet was seen
)

// funds is what a neighbor's wallet held when it was looked at.
type funds struct {
	wallet evm.Address
	token  Amount
	fee    bool // the coin pays for a transfer
	at     time.Duration
	short  bool // it could not pay
}

// broke tells whether the neighbor's wallet could not pay when it was looked at.
func (p *peer) broke() bool {
	f := p.funds.Load()
	return f != nil && f.short
}

// purse is the wallet that pays for a neighbor, if it has to be looked at now:
// there is a link, and what is known of it is nothing, old, or too little.
func (b *Book) purse(p *peer) (wallet evm.Address, due bool) {
	if p.live.Load() == nil {
		return wallet, false
	}
	p.mu.Lock()
	h := p.theirs
	ok := h != nil && h.bound && b.settler.Accepts(h)
	if ok {
		wallet = h.wallet
	}
	p.mu.Unlock()
	if !ok {
		return wallet, false
	}
	f := p.funds.Load()
	return wallet, f == nil || f.wallet != wallet || f.short || b.cfg.Up()-f.at >= b.cfg.ScanEvery || Amount(p.receivable.Load()) > f.token
}

// unseen tells whether a neighbor with a link waits for the first look at its
// wallet.
func (b *Book) unseen(p *peer) bool {
	wallet, due := b.purse(p)
	f := p.funds.Load()
	return due && (f == nil || f.wallet != wallet)
}

// lookAtFunds reads the wallets that are due, those that were looked at longest
// ago first.
func (b *Book) lookAtFunds(ctx context.Context) error {
	d := b.onChain()
	if d == nil || d.decimals.Load() < 0 {
		return nil
	}
	type look struct {
		p      *peer
		wallet evm.Address
		last   time.Duration
	}
	var looks []look
	for _, p := range b.known() {
		if wallet, due := b.purse(p); due {
			l := look{p: p, wallet: wallet}
			if f := p.funds.Load(); f != nil {
				l.last = f.at
			}
			looks = append(looks, l)
		}
	}
	if len(looks) == 0 {
		return nil
	}
	slices.SortFunc(looks, func(x, y look) int { return cmp.Compare(x.last, y.last) })
	looks = looks[:min(len(looks), mostLooked)]
	wallets := make([]evm.Address, len(looks))
	for i, l := range looks {
		wallets[i] = l.wallet
	}
	// At the block that payments are credited up to, or what has just been paid would
	// be missed twice.
	var at uint64
	if err := b.ledger.read.QueryRowContext(ctx, "SELECT coalesce(max(number), 0) FROM mark").Scan(&at); err != nil {
		return fmt.Errorf("read scan position: %w", err)
	}
	held, fee, err := d.cfg.Client.Funds(ctx, wallets, at)
	if err != nil {
		return err
	}
	for i, l := range looks {
		f := &funds{wallet: l.wallet, at: b.cfg.Up(), token: unitsOf(held[i].Token, uint8(d.decimals.Load()))} //nolint:gosec // at most 36
		f.fee = held[i].Gas.Cmp(new(big.Int).Mul(fee, big.NewInt(transferGas))) >= 0
		deposit, err := b.deposited(ctx, l.p)
		if err != nil {
			return err
		}
		f.short = deposit == 0 && (!f.fee || f.token == 0 || f.token < Amount(l.p.receivable.Load()))
		l.p.funds.Store(f)
	}
	return nil
}

// transferGas is about the gas of a transfer to somebody who holds the token.
const transferGas = 35_000

// deposited is what a neighbor has locked for us and not given away.
func (b *Book) deposited(ctx context.Context, p *peer) (left Amount, err error) {
	err = b.ledger.read.QueryRowContext(ctx, "SELECT coalesce(sum(total_units - counted), 0) FROM channel WHERE neighbor = ? AND dir = 1 AND close_at = 0 AND counted < total_units", p.row).Scan(&left)
	return left, err
}
