package node

import (
	"fmt"
	"math/big"
	"time"

	"cuttle/billing"
	"cuttle/billing/evm"
	"cuttle/internal/config"
)

// privateNotice is the least notice of a channel hub on a private chain; on a
// public one it is billing.DefaultNotice.
const privateNotice = time.Second

// profiled adds what is known of the chain to how it is asked.
func profiled(b *config.Billing, c *evm.ClientConfig, d *billing.DirectConfig) {
	p := b.ChainProfile()
	c.Finality = evm.Finality{Tag: p.Tag, Deeper: p.Deeper, MaxHeadAge: p.MaxHeadAge}
	d.FromBlock = p.FromBlock
	d.Payments.MinTip = new(big.Int).Mul(big.NewInt(p.TipFloor), big.NewInt(1_000_000_000))
}

// openChannels sets up vouchers, if the configuration names a hub.
func openChannels(b *config.Billing, d *billing.DirectConfig) error {
	if b.Hub == "" {
		return nil
	}
	at, err := evm.ParseAddress(b.Hub)
	if err != nil {
		return fmt.Errorf("billing.hub: %w", err)
	}
	c := &billing.ChannelConfig{Hub: at}
	if b.ChainProfile().Name == "dev" {
		c.Notice = privateNotice
	}
	for _, x := range []struct {
		key, text string
		to        *billing.Amount
	}{{"window", b.Window, &c.Window}, {"deposit", b.Deposit, &c.Deposit}, {"cash_above", b.CashAbove, &c.CashAbove}} {
		n, err := config.Amount(x.text)
		if err != nil {
			return fmt.Errorf("billing.%s: %w", x.key, err)
		}
		*x.to = billing.Amount(n)
	}
	d.Channels = c
	return nil
}
