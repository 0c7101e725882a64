package chaintest

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cuttle/billing"
	"cuttle/billing/evm"
)

// TestReorg takes the block of a payment off the chain before and after the
// receiver has credited it.
func TestReorg(t *testing.T) {
	c := startChain(t)
	a, b, p := pair(t, c, c.url, func(s *setup) { s.confirmations = 4 })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	parent, err := c.backend.Client().HeaderByNumber(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, a.book)
	c.commit(2)
	state := func(want string) {
		t.Helper()
		eventually(t, "the payment is "+want, func() error {
			_, n, err := neighbor(a.book)
			if err == nil && n.Payments[0].State != want {
				err = fmt.Errorf("it is %+v", n.Payments[0])
			}
			return err
		})
	}
	state("mined")
	_, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	old := n.Payments[0].Block
	// A longer branch without it: a block of its own nonce's absence cannot be
	// forced (the pool mines it again), so it lands in another block.
	if err := c.backend.Fork(parent.Hash()); err != nil {
		t.Fatal(err)
	}
	c.commit(3)
	c.commit(6)
	settled(t, a, b, 1)
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s after the fork (payment was in block %d), want 1e16", got, old)
	}

	// Deep: what both call final goes away with all its confirmations, and another
	// transaction of the wallet has its nonce on the new branch.
	p.use(billing.WePay, 10, mega)
	if parent, err = c.backend.Client().HeaderByNumber(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	settle(t, a.book)
	c.commit(5)
	settled(t, a, b, 2)
	if err := c.backend.Fork(parent.Hash()); err != nil {
		t.Fatal(err)
	}
	c.commit(12)
	eventually(t, "b's books follow the new branch", func() error {
		_, n, err := neighbor(b.book)
		if err != nil {
			return err
		}
		onChain := new(big.Int).Div(c.balance(b.earning), big.NewInt(1e9)).Int64()
		var booked billing.Amount
		for _, r := range n.Receipts {
			booked += r.Amount
		}
		if int64(booked) != onChain || int64(n.TheyOwe) != 20_000_000-onChain {
			return fmt.Errorf("booked %v, on the chain %d, owed %v", booked, onChain, n.TheyOwe)
		}
		return nil
	})
}

// TestFeeBump: a payment that nobody mines gets higher fees under its old nonce,
// and is paid once whichever version is mined.
func TestFeeBump(t *testing.T) {
	c := startChain(t)
	var ahead atomic.Int64
	a, b, p := pair(t, c, c.url, func(s *setup) {
		s.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	settle(t, a.book)
	_, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	first := n.Payments[0]
	ahead.Store(int64(2 * time.Minute))
	eventually(t, "the fee is raised", func() error {
		_, n, err := neighbor(a.book)
		if err == nil && (n.Payments[0].Tx == first.Tx || n.Payments[0].State != "sent" || n.Payments[0].Nonce != first.Nonce) {
			err = fmt.Errorf("payment is %+v", n.Payments[0])
		}
		return err
	})
	defer c.mine()()
	settled(t, a, b, 1)
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s, want 1e16", got)
	}
}

// TestUsedElsewhere: another program takes the nonce. The debt stands, sending
// stops, a human is told; after that it is paid.
func TestUsedElsewhere(t *testing.T) {
	c := startChain(t)
	dir := t.TempDir()
	a, b, p := pair(t, c, c.url, func(s *setup) { s.dir = dir })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	if err := a.book.Resume(context.Background(), ""); !errors.Is(err, billing.ErrNotStopped) {
		t.Errorf("before anything has happened: %v, want ErrNotStopped", err)
	}
	_, nothing, err := a.book.Taken(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	settle(t, a.book)
	_, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	thief := walletKey(t, filepath.Join(dir, "wallet1"))
	self := a.wallet.Address()
	c.sendAt(thief, n.Payments[0].Nonce, 500, &self, nil, nil) // pushes ours out of the pool
	c.commit(5)
	eventually(t, "the alarm is there", func() error {
		r, n, err := neighbor(a.book)
		if err == nil && (n.Payments[0].State != "superseded" || n.WeOwe != 10_000_000 || !strings.Contains(strings.Join(r.Problems, "\n"), "used by another program")) {
			err = fmt.Errorf("payments %+v, owed %v, problems %q", n.Payments, n.WeOwe, r.Problems)
		}
		return err
	})
	settle(t, a.book)
	c.commit(5)
	if _, n, err := neighbor(a.book); err != nil || len(n.Payments) != 1 || n.Payments[0].State != "superseded" {
		t.Errorf("after the alarm something was sent: %+v, %v", n.Payments, err)
	}
	c.sendAt(thief, n.Payments[0].Nonce+1, 2, &self, nil, nil)
	lost, shown, err := a.book.Taken(context.Background())
	if err != nil || len(lost) != 1 || lost[0].Nonce != n.Payments[0].Nonce || lost[0].Amount != "0.01" || lost[0].Tx != n.Payments[0].Tx || lost[0].Call {
		t.Errorf("lost are %+v, %v; want the payment", lost, err)
	}
	if err := a.book.Resume(context.Background(), shown); !errors.Is(err, evm.ErrNotAtRest) {
		t.Errorf("while the other program goes on: %v, want ErrNotAtRest", err)
	}
	c.commit(5)
	for _, other := range []string{"", nothing, shown[1:], strings.ToUpper(shown)} {
		if err := a.book.Resume(context.Background(), other); !errors.Is(err, billing.ErrNotAsShown) {
			t.Errorf("after something else was shown (%q): %v, want ErrNotAsShown", other, err)
		}
	}
	resumed(t, a)
	settle(t, a.book)
	defer c.mine()()
	settled(t, a, b, 1)
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s, want 1e16", got)
	}
}
