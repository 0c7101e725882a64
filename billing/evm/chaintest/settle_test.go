package chaintest

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"cuttle/billing"
	"cuttle/relay/wire"
)

// pair is two parties with funded wallets and a link.
func pair(tb testing.TB, c *devChain, url string, change func(*setup)) (a, b *party, p *pipe) {
	tb.Helper()
	s := setup{dir: tb.TempDir(), url: url, token: c.token, confirmations: 3, credit: billing.Amount(1 << 60)}
	if change != nil {
		change(&s)
	}
	s.self = 1
	a = mustOpen(tb, s)
	s.self, s.now, s.step = 2, nil, nil
	b = mustOpen(tb, s)
	return a, b, mustConnect(tb, a, b)
}

const mega = wire.Cells(1 << 20)

// TestPayEachOther is the plain case, both ways: the money that has moved on
// the chain is what the cells cost.
func TestPayEachOther(t *testing.T) {
	c := startChain(t)
	a, b, p := pair(t, c, c.url, nil)
	c.fund(a.wallet.Address(), ether(1), ether(100))
	c.fund(b.wallet.Address(), ether(1), ether(100))
	defer c.mine()()

	p.use(billing.WePay, 10, 5*mega) // a owes 5 * 10 * 0.001
	p.use(billing.TheyPay, 3, 2*mega)
	settle(t, a.book)
	settle(t, b.book)
	settled(t, a, b, 1)
	settled(t, b, a, 1)
	for _, x := range []struct {
		who  string
		at   common.Address
		want int64 // thousandths of a token
	}{{"b's earning", b.earning, 50}, {"a's earning", a.earning, 6}, {"a's consuming", a.wallet.Address(), 100_000 - 50}, {"b's consuming", b.wallet.Address(), 100_000 - 6}} {
		want := new(big.Int).Mul(big.NewInt(x.want), big.NewInt(1e15))
		if got := c.balance(x.at); got.Cmp(want) != 0 {
			t.Errorf("%s wallet holds %s, want %s", x.who, got, want)
		}
	}
	r, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	if pay := n.Payments[0]; pay.Tx == "" || pay.Block == 0 || pay.Confirmations < 3 || pay.Amount != 50_000_000 || pay.Payee != b.earning.Hex() {
		t.Errorf("payment is reported as %+v", pay)
	}
	if r.TokenBalance != "99.95" || len(r.Problems) != 0 || r.Consuming != a.wallet.Address().Hex() {
		t.Errorf("report: balance %s, problems %q", r.TokenBalance, r.Problems)
	}

	// The gas that was spent is in the ledger, to the unit.
	gone, err := a.client.Balances(context.Background(), a.wallet.Address())
	if err != nil {
		t.Fatal(err)
	}
	spent := new(big.Int).Sub(ether(1), gone.Gas)
	spent.Add(spent, big.NewInt(1e9-1)).Quo(spent, big.NewInt(1e9))
	if r.Fees <= 0 || spent.Int64() != int64(r.Fees) {
		t.Errorf("the ledger says that fees were %d gwei, the chain %s", int64(r.Fees), spent)
	}

	p.use(billing.WePay, 1, mega) // a second payment goes on from there
	settle(t, a.book)
	settled(t, a, b, 2)
}

// TestNoGasNoToken: what is missing is said in words; once it is there the
// payment goes out.
func TestNoGasNoToken(t *testing.T) {
	c := startChain(t)
	a, b, p := pair(t, c, c.url, nil)
	p.use(billing.WePay, 10, mega)
	settle(t, a.book)
	problem := func(words ...string) {
		t.Helper()
		eventually(t, "the problem is reported", func() error {
			r, _, err := neighbor(a.book)
			if err != nil {
				return err
			}
			all := strings.Join(r.Problems, "\n")
			for _, w := range append(words, a.wallet.Address().Hex(), "chain 1337") {
				if !strings.Contains(all, w) {
					return fmt.Errorf("problems %q do not say %q", all, w)
				}
			}
			return nil
		})
	}
	problem("not enough token", "0.01")
	c.fund(a.wallet.Address(), new(big.Int), ether(1))
	problem("not enough gas")
	if _, n, err := neighbor(a.book); err != nil || n.Payments[0].State != "planned" {
		t.Errorf("payment without gas is %+v, %v", n.Payments, err)
	}
	c.fund(a.wallet.Address(), ether(1), new(big.Int))
	defer c.mine()()
	settled(t, a, b, 1)
}

// TestChainDown: service goes on while nothing answers, and the payment is made
// when the chain is back.
func TestChainDown(t *testing.T) {
	c := startChain(t)
	g := startGate(t, c.url)
	a, b, p := pair(t, c, g.url, nil)
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	eventually(t, "the chain was seen", func() error {
		if r, _, err := neighbor(a.book); err != nil || r.Head == 0 {
			return fmt.Errorf("head %d, %w", r.Head, err)
		}
		return nil
	})
	g.shut.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := a.book.Settle(ctx); err == nil {
		t.Error("Settle without a chain says nothing")
	}
	p.use(billing.WePay, 10, mega)
	if err := a.book.Flush(ctx); err != nil {
		t.Errorf("agree on counts without a chain: %v", err)
	}
	if err := p.ends[1].n.Admit(10); err != nil {
		t.Errorf("service within credit without a chain: %v", err)
	}
	r, _, err := neighbor(a.book)
	if err != nil || !strings.Contains(strings.Join(r.Problems, "\n"), "chain cannot be asked") {
		t.Errorf("problems %q, %v", r.Problems, err)
	}
	g.shut.Store(false)
	defer c.mine()()
	eventually(t, "all is paid", func() error {
		_, n, err := neighbor(a.book)
		if err == nil && (len(n.Payments) == 0 || n.Payments[0].State != "final") {
			err = fmt.Errorf("payments %+v", n.Payments)
		}
		return err
	})
	settle(t, a.book)
	settled(t, a, b, 2)
}

// TestHalfOfTheCallsFail: lost requests and, worse, lost answers to requests that
// the chain has acted on. Every debt is paid once.
func TestHalfOfTheCallsFail(t *testing.T) {
	c := startChain(t)
	g := startGate(t, c.url)
	a, b, p := pair(t, c, g.url, nil)
	c.fund(a.wallet.Address(), ether(1), ether(1))
	defer c.mine()()
	g.bad.Store(50)
	const rounds = 4
	for i := range rounds {
		p.use(billing.WePay, 1, mega)
		eventually(t, "a payment is planned", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_ = a.book.Settle(ctx) // half of the calls fail
			_, n, err := neighbor(a.book)
			if err == nil && len(n.Payments) <= i {
				err = errors.New("none yet")
			}
			return err
		})
		settled(t, a, b, i+1)
	}
	if got, want := c.balance(b.earning), new(big.Int).Mul(big.NewInt(rounds), big.NewInt(1e15)); got.Cmp(want) != 0 {
		t.Errorf("b received %s, want %s", got, want)
	}
}

// TestCutAndRestore: a neighbor over its credit is cut, told why, pays because
// it was told, and is restored.
func TestCutAndRestore(t *testing.T) {
	c := startChain(t)
	a, b, p := pair(t, c, c.url, func(s *setup) { s.credit = 15_000_000 })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	eventually(t, "b has seen a's wallet", func() error {
		_, n, err := neighbor(b.book)
		if err == nil && (n.Limit != 15_000_000 || n.Standing != billing.Active) {
			err = fmt.Errorf("limit %v, %s", n.Limit, n.Standing)
		}
		return err
	})
	p.use(billing.WePay, 10, mega)
	if err := p.ends[1].n.Admit(10); err != nil {
		t.Fatalf("within credit: %v", err)
	}
	p.use(billing.WePay, 10, mega)
	// Until b has seen the chain it lets a neighbor owe twice its limit.
	eventually(t, "a is cut", func() error {
		if err := p.ends[1].n.Admit(10); !errors.Is(err, billing.ErrDue) {
			return fmt.Errorf("over credit: %v, want ErrDue", err)
		}
		return nil
	})
	eventually(t, "a knows why", func() error {
		_, n, err := neighbor(a.book)
		if err == nil && (n.TheirStanding != billing.Cut || n.TheirReason == "") {
			err = fmt.Errorf("told %s %q", n.TheirStanding, n.TheirReason)
		}
		return err
	})
	defer c.mine()() // SettleAbove is out of reach: a pays because b has asked
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := a.book.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b serves again and a knows", func() error {
		_, n, err := neighbor(a.book)
		return errors.Join(err, p.ends[1].n.Admit(10), func() error {
			if n.TheirStanding != billing.Active {
				return fmt.Errorf("told %s", n.TheirStanding)
			}
			return nil
		}())
	})
}

// TestUnknownPayer: money from a wallet that nobody has bound is kept apart and
// handed over when its owner shows up.
func TestUnknownPayer(t *testing.T) {
	c := startChain(t)
	s := setup{dir: t.TempDir(), url: c.url, token: c.token, confirmations: 2, credit: 1 << 60}
	s.self = 2
	b := mustOpen(t, s)
	s.self = 1
	a := mustOpen(t, s)
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.send(walletKey(t, filepath.Join(s.dir, "wallet1")), &c.token, nil, c.binding.PackTransfer(b.earning, big.NewInt(7e15)))
	c.commit(3)
	eventually(t, "the money is kept apart", func() error {
		r, err := b.book.Report(context.Background())
		if err == nil && r.Unclaimed != 7_000_000 {
			err = fmt.Errorf("unclaimed %v", r.Unclaimed)
		}
		return err
	})
	mustConnect(t, a, b)
	eventually(t, "it is a's", func() error {
		r, n, err := neighbor(b.book)
		if err == nil && (r.Unclaimed != 0 || n.TheyOwe != -7_000_000) {
			err = fmt.Errorf("unclaimed %v, owed %v", r.Unclaimed, n.TheyOwe)
		}
		return err
	})
}
