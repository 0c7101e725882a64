package billing

import (
	"context"
	"errors"
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
	d, ok := b.settler.(interface{ purse() *DirectConfig })
	if !ok {
		return 0, "", nil, ErrNoChain
	}
	cfg := d.purse()
	var consuming evm.Address
	if cfg.Wallet != nil {
		consuming = cfg.Wallet.Address()
	}
	out, err = AskBalances(ctx, cfg.Client, consuming, cfg.Earning)
	return cfg.Client.ChainID(), cfg.Client.Token().Hex(), out, err
}

func (d *direct) purse() *DirectConfig { return &d.cfg }

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
