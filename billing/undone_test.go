package billing

import (
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"cuttle/billing/evm"
)

// clockedBook is a book of a node without neighbors, on a clock that the test sets.
func clockedBook(t *testing.T) *Book {
	t.Helper()
	var cfg Config
	newClocked().config(filepath.Join(t.TempDir(), "ledger.db"))(&cfg)
	cfg.Self = testID(1)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestUndone walks a payment through every way to be done and not done again; the
// ledger fits together after each step.
func TestUndone(t *testing.T) {
	b := clockedBook(t)
	wallet, total := evm.Address{7}, Owed(1000, 1)
	p := debt(t, b, testID(2), WePay, 1000)
	if err := b.ledger.plan(t.Context(), p, wallet, evm.Address{8}, total, big.NewInt(1)); err != nil {
		t.Fatal(err)
	}
	j := &journal{b.ledger, wallet}
	if err := j.Sign(t.Context(), 1, 0, evm.Attempt{Hash: evm.Hash{1}, Raw: []byte{1}, TipCap: big.NewInt(1), FeeCap: big.NewInt(1), At: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	in := func(block uint64, fork byte) evm.Inclusion {
		return evm.Inclusion{Tx: evm.Hash{1}, Block: evm.Mark{Number: block, Hash: evm.Hash{fork, 1}}, Success: true, GasUsed: 30_000, GasPrice: uint64(fork) * unitsInCoin}
	}
	for i, step := range []struct {
		to      evm.State
		in      evm.Inclusion
		owed    Amount
		transit Amount
		paid    Amount
		fees    Amount
	}{
		{evm.Sent, evm.Inclusion{}, 0, total, 0, 0},
		{evm.Mined, in(10, 1), 0, total, 0, 0},
		{evm.Final, in(10, 1), 0, 0, total, 30_000},
		{evm.Sent, evm.Inclusion{}, 0, total, 0, 0}, // the fork
		{evm.Mined, in(11, 2), 0, total, 0, 0},
		{evm.Final, in(11, 2), 0, 0, total, 60_000},
		{evm.Mined, in(12, 3), 0, total, 0, 0},
		{evm.Reverted, in(12, 3), total, 0, 0, 90_000},
		{evm.Sent, evm.Inclusion{}, 0, total, 0, 0},
		{evm.Mined, in(13, 1), 0, total, 0, 0},
		{evm.Reverted, in(13, 1), total, 0, 0, 30_000},
		{evm.Mined, in(14, 1), 0, total, 0, 0},
		{evm.Final, in(14, 1), 0, 0, total, 30_000},
		{evm.Sent, evm.Inclusion{}, 0, total, 0, 0},
		{evm.Superseded, evm.Inclusion{}, total, 0, 0, 0},
		{evm.Sent, evm.Inclusion{}, 0, total, 0, 0}, // the other has left the chain
		{evm.Superseded, evm.Inclusion{}, total, 0, 0, 0},
		{evm.Mined, in(15, 1), 0, total, 0, 0},
		{evm.Final, in(15, 1), 0, 0, total, 30_000},
		{evm.Sent, evm.Inclusion{}, 0, total, 0, 0},
		{evm.Superseded, evm.Inclusion{}, total, 0, 0, 0},
	} {
		if err := j.Mark(t.Context(), 1, step.to, step.in); err != nil {
			t.Fatalf("step %d, %s: %v", i, step.to, err)
		}
		s := sums(t, b)
		if s[accPayable] != -step.owed || s[accTransit] != -step.transit || s[accPaid] != -step.paid || s[accFees] != step.fees || Amount(p.payable.Load()) != step.owed {
			t.Errorf("step %d, %s: %v, want owed %v, in transit %v, paid %v, fees %v", i, step.to, s, step.owed, step.transit, step.paid, step.fees)
		}
		if err := b.ledger.update(t.Context(), func(x *tx) error { return x.check() }); err != nil {
			t.Errorf("step %d, %s: %v", i, step.to, err)
		}
		done, err := j.Settled(t.Context(), 11)
		if want := (step.to == evm.Final || step.to == evm.Reverted) && step.in.Block.Number >= 11; err != nil || (len(done) == 1) != want {
			t.Errorf("step %d, %s: %d are watched, %v", i, step.to, len(done), err)
		}
		for _, c := range []struct {
			nonce, upTo uint64
			want        bool
		}{{0, 1 << 63, true}, {0, step.in.Block.Number, true}, {0, step.in.Block.Number - 1, false}, {1, 1 << 63, false}} {
			done, err := j.Unused(t.Context(), c.nonce, c.upTo)
			if want := c.want && (step.to == evm.Final || step.to == evm.Reverted); err != nil || (len(done) == 1) != want {
				t.Errorf("step %d, %s: %d of nonce %d or more up to block %d, %v", i, step.to, len(done), c.nonce, c.upTo, err)
			}
		}
	}
	if err := b.ledger.update(t.Context(), func(x *tx) error { return x.exec("UPDATE intent SET looked_at = 1") }); err != nil {
		t.Fatal(err)
	}
	if err := j.Mark(t.Context(), 1, evm.Sent, evm.Inclusion{}); err == nil {
		t.Error("a payment that a human has looked at is sent again")
	}
}

// TestRefusedThenThrough: a payment that the token has refused is paid anew, and then a
// fork lets the old one through, too. Both count, and what is owed next is less by it.
func TestRefusedThenThrough(t *testing.T) {
	b := clockedBook(t)
	wallet, total := evm.Address{7}, Owed(1000, 1)
	p := debt(t, b, testID(2), WePay, 1000)
	j := &journal{b.ledger, wallet}
	pay := func(id byte, nonce uint64) {
		t.Helper()
		if err := b.ledger.plan(t.Context(), p, wallet, evm.Address{8}, total, big.NewInt(1)); err != nil {
			t.Fatal(err)
		}
		if err := j.Sign(t.Context(), int64(id), nonce, evm.Attempt{Hash: evm.Hash{id}, Raw: []byte{1}, TipCap: big.NewInt(1), FeeCap: big.NewInt(1), At: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	mark := func(id byte, s evm.State, block byte) {
		t.Helper()
		if err := j.Mark(t.Context(), int64(id), s, evm.Inclusion{Tx: evm.Hash{id}, Block: evm.Mark{Number: uint64(block), Hash: evm.Hash{block}}, Success: s == evm.Final}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(what string, owed, transit, paid Amount) {
		t.Helper()
		s := sums(t, b)
		if s[accPayable] != -owed || s[accTransit] != -transit || s[accPaid] != -paid || Amount(p.payable.Load()) != owed {
			t.Errorf("%s: %v, want owed %v, in transit %v, paid %v", what, s, owed, transit, paid)
		}
		if err := b.ledger.update(t.Context(), func(x *tx) error { return x.check() }); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	pay(1, 0)
	mark(1, evm.Reverted, 10)
	has("refused", total, 0, 0)
	pay(2, 1)
	mark(2, evm.Final, 11)
	has("paid anew", 0, 0, total)
	mark(1, evm.Mined, 12)
	has("the old one is in a block again", -total, total, total)
	mark(1, evm.Final, 12)
	has("and has gone through", -total, 0, 2*total)
	debt(t, b, testID(2), WePay, 1000)
	has("what is owed next was paid ahead", Owed(2000, 1)-2*total, 0, 2*total)
	if err := b.ledger.plan(t.Context(), p, wallet, evm.Address{8}, total, big.NewInt(1)); err == nil {
		t.Error("what was paid ahead is paid again")
	}
}
