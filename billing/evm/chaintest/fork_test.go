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

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"cuttle/billing"
	"cuttle/relay/wire"
)

// head is the number of the newest block.
func (c *devChain) head() uint64 {
	c.tb.Helper()
	n, err := c.backend.Client().BlockNumber(context.Background())
	if err != nil {
		c.tb.Fatal(err)
	}
	return n
}

// setHead throws away all blocks after one; transactions in them are gone until
// somebody sends them again.
func (c *devChain) setHead(number uint64) {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	client, err := rpc.Dial(c.url)
	if err == nil {
		defer client.Close()
		err = client.CallContext(context.Background(), nil, "debug_setHead", hexutil.Uint64(number))
	}
	if err != nil {
		c.tb.Fatal(err)
	}
}

// booked counts the entries of a kind in a party's ledger file.
func booked(tb testing.TB, dir string, self byte, kind string) int {
	tb.Helper()
	f, err := billing.OpenFile(filepath.Join(dir, fmt.Sprintf("ledger%d", self)))
	if err != nil {
		tb.Fatal(err)
	}
	entries := map[int64]bool{}
	err = f.History(context.Background(), wire.NodeID{}, func(m billing.Movement) error {
		if m.Kind == kind {
			entries[m.Entry] = true
		}
		return nil
	})
	if err = errors.Join(err, f.Close()); err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

// verified fails the test if anything in a party's ledger does not fit.
func verified(tb testing.TB, dir string, selves ...byte) {
	tb.Helper()
	for _, self := range selves {
		f, err := billing.OpenFile(filepath.Join(dir, fmt.Sprintf("ledger%d", self)))
		if err != nil {
			tb.Fatal(err)
		}
		v, err := f.Verify(context.Background())
		if err = errors.Join(err, f.Close()); err != nil || len(v.Findings) > 0 {
			tb.Errorf("ledger %d: %+v, %v", self, v.Findings, err)
		}
	}
}

// finalPayment is a payment of a's to b that both call final, and the number of
// the newest block before it.
func finalPayment(t *testing.T, dir string, change func(*setup)) (c *devChain, a, b *party, p *pipe, n billing.NeighborReport, before uint64) {
	t.Helper()
	c = startChain(t)
	a, b, p = pair(t, c, c.url, func(s *setup) {
		s.dir = dir
		if change != nil {
			change(s)
		}
	})
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.commit(3)
	p.use(billing.WePay, 10, mega)
	before = c.head()
	settle(t, a.book)
	eventually(t, "the payment is final", func() error {
		c.commit(1)
		_, n, err := neighbor(a.book)
		if err == nil && n.Payments[0].State != "final" {
			err = fmt.Errorf("payment %+v", n.Payments[0])
		}
		return err
	})
	settled(t, a, b, 1)
	_, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	return c, a, b, p, n, before
}

// TestDeepFork: a payment that both call final leaves the chain with all its
// confirmations. The payer sends the same bytes again, and both ledgers say what
// the chain says.
func TestDeepFork(t *testing.T) {
	dir := t.TempDir()
	c, a, b, _, n, before := finalPayment(t, dir, nil)
	first := n.Payments[0]

	c.setHead(before)
	if got := c.balance(b.earning); got.Sign() != 0 {
		t.Fatalf("b holds %s on the shorter chain, want nothing", got)
	}
	defer c.mine()()
	eventually(t, "both have taken it back", func() error {
		if u, r := booked(t, dir, 1, "undone"), booked(t, dir, 2, "reversal"); u == 0 || r == 0 {
			return fmt.Errorf("%d and %d entries", u, r)
		}
		return nil
	})
	settled(t, a, b, 1)
	_, n, err := neighbor(a.book)
	if err != nil || n.Payments[0].Tx != first.Tx || n.Payments[0].Nonce != first.Nonce {
		t.Errorf("payment was %+v, is %+v, %v; want the same transaction", first, n.Payments, err)
	}
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s, want 1e16", got)
	}
	verified(t, dir, 1, 2)
}

// resumed is a human who has looked at what another program has done.
func resumed(t *testing.T, p *party) {
	t.Helper()
	_, shown, err := p.book.Taken(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the chain agrees", func() error { return p.book.Resume(context.Background(), shown) })
	if err := p.book.Resume(context.Background(), shown); !errors.Is(err, billing.ErrNotStopped) {
		t.Errorf("resumed twice: %v, want ErrNotStopped", err)
	}
}

// TestDeepForkLosesNonce: on the new branch the nonce goes to another transaction.
// The debt is one again, a human is told, and then it is paid once.
func TestDeepForkLosesNonce(t *testing.T) {
	dir := t.TempDir()
	c, a, b, _, n, before := finalPayment(t, dir, nil)
	c.setHead(before)
	self := a.wallet.Address()
	c.mined(c.sendAt(walletKey(t, filepath.Join(dir, "wallet1")), n.Payments[0].Nonce, 500, &self, nil, nil))
	stop := c.mine()
	defer stop()
	eventually(t, "the debt is back, and the alarm", func() error {
		r, n, err := neighbor(a.book)
		if err == nil && (n.Payments[0].State != "superseded" || n.WeOwe != 10_000_000 || !strings.Contains(strings.Join(r.Problems, "\n"), "used by another program")) {
			err = fmt.Errorf("payments %+v, owed %v, problems %q", n.Payments, n.WeOwe, r.Problems)
		}
		return err
	})
	resumed(t, a)
	eventually(t, "it is paid again", func() error { // the chain may be shorter than what was read of it
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return a.book.Settle(ctx)
	})
	eventually(t, "it is paid, once", func() error {
		_, na, err := neighbor(a.book)
		_, nb, err2 := neighbor(b.book)
		if err = errors.Join(err, err2); err == nil && (na.WeOwe+na.InTransit+nb.TheyOwe != 0) {
			err = fmt.Errorf("a owes %v, %v in transit; b is owed %v", na.WeOwe, na.InTransit, nb.TheyOwe)
		}
		return err
	})
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s, want 1e16", got)
	}
	verified(t, dir, 1, 2)
}

// TestForkGivesNonceBack: the other transaction that has used a payment's nonce
// leaves the chain, too. The payment goes on as it was, and nobody has to look.
func TestForkGivesNonceBack(t *testing.T) {
	dir := t.TempDir()
	c, a, b, _, n, before := finalPayment(t, dir, nil)
	first := n.Payments[0]
	c.setHead(before)
	self := a.wallet.Address()
	c.mined(c.sendAt(walletKey(t, filepath.Join(dir, "wallet1")), first.Nonce, 500, &self, nil, nil))
	stop := c.mine()
	eventually(t, "the debt is back", func() error {
		_, n, err := neighbor(a.book)
		if err == nil && (n.Payments[0].State != "superseded" || n.WeOwe != 10_000_000) {
			err = fmt.Errorf("payments %+v, owed %v", n.Payments, n.WeOwe)
		}
		return err
	})
	stop()
	settle(t, a.book) // the debt is not planned a second time: the payment may go on
	c.setHead(before)
	defer c.mine()()
	settled(t, a, b, 1)
	_, n, err := neighbor(a.book)
	if err != nil || len(n.Payments) != 1 || n.Payments[0].Tx != first.Tx || n.Payments[0].Nonce != first.Nonce {
		t.Errorf("payment was %+v, is %+v, %v; want the same transaction", first, n.Payments, err)
	}
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s, want 1e16", got)
	}
	verified(t, dir, 1, 2)
}

// TestForkBeyondWatch: the chain has a fork while nobody looks, deeper than payments
// are looked after. The payment that is lost is sent again as it was, and so the next
// one does not wait for its nonce.
func TestForkBeyondWatch(t *testing.T) {
	dir := t.TempDir()
	var g *gate
	c, a, b, p, n, before := finalPayment(t, dir, func(s *setup) {
		g = startGate(t, s.url)
		s.url, s.watch = g.url, 1
	})
	first := n.Payments[0]
	g.shut.Store(true)
	c.setHead(before)
	c.commit(20) // nobody looks at the heights at which Watch would see it
	g.shut.Store(false)
	p.use(billing.WePay, 10, mega)
	stop := c.mine()
	defer func() { stop() }()
	eventually(t, "the next is paid, too", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := a.book.Settle(ctx)
		if _, n, err2 := neighbor(a.book); err == nil && n.WeOwe != 0 { // after the first, if that was sent again before
			err = fmt.Errorf("a owes %v, %v", n.WeOwe, err2)
		}
		return err
	})
	settled(t, a, b, 2)
	_, n, err := neighbor(a.book)
	if err != nil || len(n.Payments) != 2 || n.Payments[1].Tx != first.Tx || n.Payments[1].Nonce != first.Nonce || n.Payments[0].Nonce != first.Nonce+1 {
		t.Errorf("payment was %+v, now they are %+v, %v; want the same transaction, and the next nonce", first, n.Payments, err)
	}
	if got := c.balance(b.earning); got.Cmp(big.NewInt(2e16)) != 0 {
		t.Errorf("b holds %s, want 2e16", got)
	}
	if u := booked(t, dir, 1, "undone"); u != 1 {
		t.Errorf("a has taken back %d payments, want 1", u)
	}
	verified(t, dir, 1, 2)
}

// TestDeepForkOfVouchers: the cashing of a voucher leaves the chain after both
// have believed it. It is sent again, and cashed once.
func TestDeepForkOfVouchers(t *testing.T) {
	c := startChain(t)
	at := c.deployHub()
	dir := t.TempDir()
	a, b, p := pair(t, c, c.url, func(s *setup) {
		s.dir, s.channels = dir, channelsOn(at)
		s.channels.CashAbove = 20_000_000 // all that is given makes it due, in however many vouchers
	})
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.fund(b.wallet.Address(), ether(1), new(big.Int))
	stop := c.mineEvery(25 * time.Millisecond)
	defer func() { stop() }()
	p.use(billing.WePay, 10, mega)
	eventually(t, "b holds a voucher", func() error {
		ch, err := channel(b, false)
		if err == nil && ch.Vouchers != 10_000_000 {
			err = fmt.Errorf("%+v", ch)
		}
		return err
	})
	stop()
	before := c.head()
	stop = c.mineEvery(25 * time.Millisecond)
	p.use(billing.WePay, 10, mega)
	cashed(t, a, b, 20_000_000)
	stop()
	c.setHead(before)
	if got := c.balance(b.earning); got.Sign() != 0 {
		t.Fatalf("b holds %s on the shorter chain, want nothing", got)
	}
	stop = c.mineEvery(25 * time.Millisecond)
	eventually(t, "it is cashed again", func() error { // nobody else has the transaction
		if got := c.balance(b.earning); got.Cmp(big.NewInt(2e16)) != 0 {
			return fmt.Errorf("b holds %s", got)
		}
		return isCashed(a, b, 20_000_000)
	})
	verified(t, dir, 1, 2)
}
