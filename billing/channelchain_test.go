package billing

import (
	"context"
	"errors"
	"math/big"
	"testing"

	"cuttle/billing/evm"
)

// TestClosingEarly: while a notice runs no voucher is taken; one that was not
// cashed in time is void, and both ledgers say that the debt is one again.
func TestClosingEarly(t *testing.T) {
	a, b, l := voucherPair(t, nil)
	greeted(t, l)
	show(t, a, b, 10, nil)
	consume(t, a, b, l, testWindow/2)
	eventually(t, "it is paid", func() bool {
		return report(t, a.Book).Neighbors[0].InTransit == 0 && channelOf(t, b, false).Vouchers > 0
	})
	flushBoth(t, a.Book, b.Book)
	held := channelOf(t, b, false).Vouchers
	// Only b sees the notice; a, who gave it, goes on with vouchers all the same.
	pair := evm.Pair{Payer: a.wallet.Address(), Payee: b.earning}
	if err := b.ledger.update(context.Background(), func(tx *tx) error {
		return tx.exec("UPDATE channel SET close_at = 1 WHERE payer = ?", pair.Payer[:])
	}); err != nil {
		t.Fatal(err)
	}
	consume(t, a, b, l, testWindow/4)
	if got := channelOf(t, b, false); got.Vouchers != held || !got.Closing {
		t.Errorf("b took a voucher while the notice runs: %+v, before %v", got, held)
	}
	owed := report(t, b.Book).Neighbors[0].TheyOwe
	show(t, a, b, 20, func(v *evm.ChannelView) {
		v.Deep.Deposit, v.Deep.Signer = new(big.Int), evm.Address{}
	})
	l.cut()
	if got := report(t, b.Book).Neighbors[0].TheyOwe; got != owed+held {
		t.Errorf("after the close a owes %v, want %v", got, owed+held)
	}
	if ra, rb := report(t, a.Book).Neighbors[0], report(t, b.Book).Neighbors[0]; ra.WeOwe != rb.TheyOwe || ra.InTransit != 0 {
		t.Errorf("a owes %v (%v in transit), b says %v", ra.WeOwe, ra.InTransit, rb.TheyOwe)
	}
	checked(t, a, b)
}

// TestDepositUndone: a fork takes the deposit away after vouchers were taken:
// they count no longer, and count again when it is back.
func TestDepositUndone(t *testing.T) {
	a, b, l := voucherPair(t, nil)
	greeted(t, l)
	show(t, a, b, 10, nil)
	consume(t, a, b, l, testWindow/2)
	eventually(t, "it is paid", func() bool {
		return report(t, a.Book).Neighbors[0].InTransit == 0 && channelOf(t, b, false).Vouchers > 0
	})
	flushBoth(t, a.Book, b.Book)
	l.cut()
	held := channelOf(t, b, false).Vouchers
	small := func(v *evm.ChannelView) { v.Deep.Deposit = toToken(1000, testDecimals) }
	show(t, a, b, 20, small)
	if got := channelOf(t, b, false).Vouchers; got != 1000 {
		t.Errorf("b counts %v of a deposit of 1000", got)
	}
	if ra, rb := report(t, a.Book).Neighbors[0], report(t, b.Book).Neighbors[0]; ra.WeOwe != rb.TheyOwe || rb.TheyOwe < held-1000 {
		t.Errorf("a owes %v, b says %v, want at least %v", ra.WeOwe, rb.TheyOwe, held-1000)
	}
	checked(t, b)
	show(t, a, b, 30, nil)
	if got := channelOf(t, b, false).Vouchers; got != held {
		t.Errorf("with the deposit back b counts %v, want %v", got, held)
	}
	checked(t, a, b)
}

// TestOldLedgerOfPayer: the payer's ledger is an older copy. The payee shows the
// payer's own voucher, which the payer takes for its word.
func TestOldLedgerOfPayer(t *testing.T) {
	a, b, l := voucherPair(t, nil)
	greeted(t, l)
	show(t, a, b, 10, nil)
	consume(t, a, b, l, testWindow/2)
	eventually(t, "it is paid", func() bool {
		return report(t, a.Book).Neighbors[0].InTransit == 0 && channelOf(t, b, false).Vouchers > 0
	})
	flushBoth(t, a.Book, b.Book)
	l.cut()
	held := channelOf(t, b, false).Vouchers
	if err := a.ledger.update(context.Background(), func(tx *tx) error { // as if it had never given any
		r, err := tx.channel(evm.Pair{Payer: a.wallet.Address(), Payee: b.earning})
		if err != nil {
			return err
		}
		if err := tx.recount(r, 0); err != nil {
			return err
		}
		r.cum, r.sig = new(big.Int), nil
		return errors.Join(tx.putChannel(r), tx.refreshRow(1))
	}); err != nil {
		t.Fatal(err)
	}
	checked(t, a)
	l = join(t, a.Book, b.Book)
	greeted(t, l)
	eventually(t, "a knows again", func() bool { return channelOf(t, a, true).Vouchers >= held })
	flushBoth(t, a.Book, b.Book)
	l.cut()
	if ra, rb := report(t, a.Book).Neighbors[0], report(t, b.Book).Neighbors[0]; ra.WeOwe != rb.TheyOwe {
		t.Errorf("a owes %v, b says %v", ra.WeOwe, rb.TheyOwe)
	}
	checked(t, a, b)
}
