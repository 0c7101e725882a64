package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"time"

	"cuttle/billing"
	"cuttle/billing/evm"
	"cuttle/billing/wallet"
	"cuttle/internal/config"
	"cuttle/relay/link"
	"cuttle/relay/wire"
)

// openBook opens the ledger and, on a paid network, the wallet and the way to
// the chain; with accounts there is neither. It returns nil when nobody bills.
func openBook(cfg *config.Config, self wire.NodeID, o *onward, log *slog.Logger) (*billing.Book, error) {
	b := &cfg.Billing
	if b.Mode == "none" {
		return nil, nil //nolint:nilnil // no book is a valid outcome, and every user asks
	}
	var direct *billing.DirectConfig
	if b.Mode == "paid" {
		var err error
		if direct, err = openDirect(b, o); err != nil {
			return nil, err
		}
	}
	credit, err := config.Amount(b.Credit)
	if err != nil {
		return nil, err
	}
	start, err := config.Amount(b.CreditStart)
	if err != nil {
		return nil, err
	}
	strangers, err := config.Amount(b.CreditStrangers)
	if err != nil {
		return nil, err
	}
	above, err := config.Amount(b.SettleAbove)
	if err != nil {
		return nil, err
	}
	if direct != nil && direct.Wallet != nil {
		held, err := wallet.Lock(b.Consuming)
		if err != nil {
			return nil, err
		}
		direct.Release = held.Release
	}
	return billing.Open(billing.Config{
		Path: filepath.Join(cfg.Node.State, "ledger.db"), Self: self, Direct: direct, Account: b.Mode == "account",
		Credit: billing.Amount(credit), CreditStart: billing.Amount(start), SettleAbove: billing.Amount(above), SettleAfter: time.Duration(b.SettleAfter),
		CreditStrangers: billing.Amount(strangers), DueAfter: time.Duration(b.DueAfter), ThrottleCells: b.Throttle / wire.CellFrameSize,
		ScanEvery: time.Duration(b.Scan), PollEvery: min(time.Duration(b.Scan), billing.DefaultPollEvery), Log: log,
	})
}

func openDirect(b *config.Billing, o *onward) (*billing.DirectConfig, error) {
	fee, err := config.Wei(b.FeeCap)
	if err != nil {
		return nil, err
	}
	var token evm.Address
	if err := token.UnmarshalText([]byte(b.Token)); err != nil {
		return nil, fmt.Errorf("billing.token %q: want 0x and 40 hexadecimal digits", b.Token)
	}
	chain := evm.ClientConfig{Endpoints: b.RPC, ChainID: b.ChainID, Token: token}
	if b.RPCThroughCircuits {
		chain.DialContext = o.DialContext
	}
	d := &billing.DirectConfig{Payments: evm.PaymentConfig{Confirmations: b.Confirmations, MaxFee: big.NewInt(fee)}}
	profiled(b, &chain, d)
	if d.Client, err = evm.NewClient(chain); err != nil {
		return nil, err
	}
	var consuming evm.Address
	if b.Consuming != "" {
		password, err := walletPassword(b.PasswordFile)
		if err != nil {
			return nil, err
		}
		w, err := wallet.Open(b.Consuming, password)
		if err != nil {
			return nil, err
		}
		d.Wallet, consuming = w, w.Address()
	}
	if b.Earning == "" {
		return nil, errors.New("billing.earning is empty: give the address that neighbors pay to")
	}
	if d.Earning, _, err = wallet.Earning(b.Earning, consuming, false); err != nil {
		return nil, fmt.Errorf("billing.earning: %w", err)
	}
	return d, openChannels(b, d)
}

// account is a neighbor's account as a link wants it: the two packages name
// directions and payers for themselves, with the same values.
type account struct{ *billing.Neighbor }

var _ link.Account = account{}

// Add counts cells.
func (a account) Add(dir link.Direction, payer link.Payer, tier wire.Tier, n wire.Cells) {
	a.Neighbor.Add(billing.Direction(dir), billing.Payer(payer), tier, n)
}

// Admit says whether the neighbor may open a circuit that it pays for.
func (a account) Admit(tier wire.Tier) error {
	err := a.Neighbor.Admit(tier)
	if errors.Is(err, billing.ErrFull) {
		return fmt.Errorf("%w: %w", link.ErrBusy, err)
	}
	return err
}

// accounts gives links their accounts in a book; a link whose account cannot be
// opened ends, since nothing may be carried uncounted.
func accounts(book *billing.Book, log *slog.Logger) func(*link.Link) link.Account {
	if book == nil {
		return nil
	}
	return func(l *link.Link) link.Account {
		n, err := book.Neighbor(l.Peer().ID, l)
		if err != nil {
			log.Error("no account for a neighbor, its link ends", "err", err)
			l.Close()
			return &link.Counter{}
		}
		return account{n}
	}
}

// farewell is how long a node that ends waits for neighbors to agree on counts.
const farewell = 5 * time.Second

// agreeAtEnd agrees with all neighbors on the counts when ctx ends, while there are
// links: what is not agreed then is nobody's. One that does not answer in a moment
// does not hold up the end.
func agreeAtEnd(book *billing.Book) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_ = book.Flush(brief) // as after a crash: the next link begins with what both hold
		return nil
	}
}

// runBook runs a book until ctx ends and closes it.
func runBook(book *billing.Book) func(context.Context) error {
	return func(ctx context.Context) error {
		err := book.Run(ctx)
		return errors.Join(err, book.Close())
	}
}
