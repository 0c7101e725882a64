package billing

import (
	"context"
	"errors"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"cuttle/billing/evm"
	"cuttle/billing/wallet"
)

// TestResumeAsShown: only what a human was shown is taken for looked at, in whatever
// way the rest changes: before, after, and while the chain is asked.
func TestResumeAsShown(t *testing.T) {
	w, err := wallet.Create(filepath.Join(t.TempDir(), "wallet"), "pw", true)
	if err != nil {
		t.Fatal(err)
	}
	q := newQuietChain()
	client, err := evm.NewClient(evm.ClientConfig{Endpoints: []string{"http://chain"}, ChainID: 1337, Token: evm.Address{7}, DialContext: q.dial})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(Config{
		Path: filepath.Join(t.TempDir(), "ledger.db"), Self: testID(1),
		Direct: &DirectConfig{Client: client, Wallet: w, Earning: evm.Address{9}, Payments: evm.PaymentConfig{Confirmations: 3}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		client.Close()
		if err := errors.Join(b.Close(), q.server.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
	}()
	ctx := t.Context()
	j := &journal{b.ledger, w.Address()}
	for n := range byte(3) {
		p := debt(t, b, testID(n+2), WePay, 1000)
		if err := b.ledger.plan(ctx, p, w.Address(), evm.Address{8, n}, Owed(1000, 1), big.NewInt(int64(n+1))); err != nil {
			t.Fatal(err)
		}
		if err := j.Sign(ctx, int64(n+1), uint64(n), evm.Attempt{Hash: evm.Hash{1, n}, Raw: []byte{1}, TipCap: big.NewInt(1), FeeCap: big.NewInt(1), At: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	mark := func(id int64, s evm.State) {
		t.Helper()
		if err := j.Mark(ctx, id, s, evm.Inclusion{}); err != nil {
			t.Error(err)
		}
	}
	shown := func(lost ...byte) string {
		t.Helper()
		all, digest, err := b.Taken(ctx)
		if err != nil || len(all) != len(lost) {
			t.Fatalf("lost are %+v, %v; want nonces %d", all, err, lost)
		}
		for i, n := range lost {
			if all[i].Nonce != uint64(n) || all[i].Tx != (evm.Hash{1, n}).Hex() || all[i].Payee != (evm.Address{8, n}).Hex() {
				t.Errorf("lost is %+v, want the payment with nonce %d", all[i], n)
			}
		}
		if _, again, err := b.Taken(ctx); err != nil || again != digest {
			t.Errorf("the same list has the digests %s and %s, %v", digest, again, err)
		}
		return digest
	}
	resume := func(what, digest string, want error) {
		t.Helper()
		if err := b.Resume(ctx, digest); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if err := b.ledger.update(ctx, func(x *tx) error { return x.check() }); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	none := shown()
	resume("nothing is lost", none, ErrNotStopped)

	mark(1, evm.Superseded)
	first := shown(0)
	resume("nothing was shown", none, ErrNotAsShown)
	resume("nothing was said", "", ErrNotAsShown)
	mark(2, evm.Superseded)
	both := shown(0, 1)
	resume("another is lost", first, ErrNotAsShown)
	mark(1, evm.Sent)
	second := shown(1)
	resume("one goes on", both, ErrNotAsShown)
	resume("another one is lost", first, ErrNotAsShown)
	mark(1, evm.Superseded)
	if again := shown(0, 1); again != both || first == second {
		t.Errorf("what is lost again has the digest %s, had %s; each alone %s, %s", again, both, first, second)
	}

	resume("the chain does not show it", both, evm.ErrNotAtRest)
	q.used.Store(3)
	q.asked = func() { mark(1, evm.Sent) } // once
	resume("one goes on while the chain is asked", both, ErrNotAsShown)
	mark(1, evm.Superseded)
	q.asked = func() {
		mark(1, evm.Sent)
		if err := j.Sign(ctx, 1, 0, evm.Attempt{Hash: evm.Hash{2, 0}, Raw: []byte{1}, TipCap: big.NewInt(2), FeeCap: big.NewInt(2), At: time.Unix(2, 0)}); err != nil {
			t.Error(err)
		}
		mark(1, evm.Superseded)
	}
	resume("one goes on and is lost again while the chain is asked", both, ErrNotAsShown)
	all, both, err := b.Taken(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("lost are %+v, %v; want both", all, err)
	}
	q.asked = func() { mark(3, evm.Superseded) } // once
	resume("as shown", both, nil)
	third := shown(2)
	resume("the one that was lost meanwhile", both, ErrNotAsShown)
	resume("as shown now", third, nil)
	resume("nothing is left", third, ErrNotStopped)
	if s := sums(t, b); s[accPayable] != -3*Owed(1000, 1) || s[accTransit] != 0 || s[accPaid] != 0 {
		t.Errorf("in the end: %v, want all of it owed", s)
	}
}
