package billing

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"cuttle/billing/evm"
)

// ErrNoChain says that a Book settles without a chain.
var ErrNoChain = errors.New("debts are not settled on a chain")

// WalletBalance is what one of our wallets holds.
type WalletBalance struct {
	Purpose string // "consuming" or "earning"
	Address string // EIP-55
	Token   string // exact, with its decimal point
	Gas     string // of the chain's own coin, likewise
	At      time.Time
}

// Balances asks the chain what our wallets hold now; ErrNoChain without one.
func (b *Book) Balances(ctx context.Context) (chainID uint64, token string, out []WalletBalance, err error) {
	d := b.onChain()
	if d == nil {
		return 0, "", nil, ErrNoChain
	}
	cfg := &d.cfg
	var consuming evm.Address
	if cfg.Wallet != nil {
		consuming = cfg.Wallet.Address()
	}
	out, err = AskBalances(ctx, cfg.Client, consuming, cfg.Earning)
	return cfg.Client.ChainID(), cfg.Client.Token().Hex(), out, err
}

// onChain is the part of our settler that knows the chain, nil if none does.
func (b *Book) onChain() *direct {
	switch s := b.settler.(type) {
	case *direct:
		return s
	case interface{ chain() *direct }:
		return s.chain()
	}
	return nil
}

// AskBalances asks the chain what both wallets hold; a zero address is left out.
func AskBalances(ctx context.Context, client *evm.Client, consuming, earning evm.Address) (out []WalletBalance, err error) {
	if _, err := client.Check(ctx); err != nil {
		return nil, err
	}
	for _, w := range []struct {
		purpose string
		address evm.Address
	}{{"consuming", consuming}, {"earning", earning}} {
		if w.address == (evm.Address{}) {
			continue
		}
		b, err := client.Balances(ctx, w.address)
		if err != nil {
			return nil, err
		}
		out = append(out, WalletBalance{w.purpose, w.address.Hex(), client.Format(b.Token), evm.FormatCoin(b.Gas), time.Now()})
	}
	return out, nil
}

// transferGasAtMost is the gas of one token transfer to an address that has
// never held the token, with a third to spare.
const transferGasAtMost = 70_000

// empty says in words what the consuming wallet lacks before the first debt is
// due, unless a payment that waits says it already: when it is, neighbors cut
// us off.
func (d *direct) empty(o *evm.Outcome, settleAbove Amount) (out []string) {
	if d.cfg.Wallet == nil || o.Balances.Token == nil || o.Balances.Gas == nil {
		return nil
	}
	said := func(k evm.ProblemKind) bool {
		return slices.ContainsFunc(o.Problems, func(p evm.Problem) bool { return p.Kind == k })
	}
	wallet, chain := d.cfg.Wallet.Address().Hex(), d.cfg.Client.ChainID()
	if o.Balances.Token.Sign() == 0 && !said(evm.NoToken) {
		out = append(out, fmt.Sprintf("no token: wallet %s on chain %d holds nothing of token %s, so debts cannot be paid and neighbors will cut this node off: send token to it, at least %s",
			wallet, chain, d.cfg.Client.Token().Hex(), settleAbove))
	}
	if o.Balances.Gas.Sign() == 0 && !said(evm.NoGas) {
		out = append(out, fmt.Sprintf("no gas: wallet %s on chain %d holds nothing of the chain's own coin, which pays the fees: send some to it; a payment costs at most %s",
			wallet, chain, evm.FormatCoin(new(big.Int).Mul(d.cfg.Payments.FeeLimit(), big.NewInt(transferGasAtMost)))))
	}
	return out
}
