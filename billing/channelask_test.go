package billing

import (
	"context"
	"errors"
	"math/big"
	"testing"
	"time"

	"cuttle/billing/evm"
)

// calls lists what is planned for the chain.
func calls(tb testing.TB, n *voucherNode) (kinds []callKind, tokens []string) {
	tb.Helper()
	rows, err := n.ledger.read.Query("SELECT kind, token_amount FROM call ORDER BY id")
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var k callKind
		var a string
		if err := rows.Scan(&k, &a); err != nil {
			tb.Fatal(err)
		}
		kinds, tokens = append(kinds, k), append(tokens, a)
	}
	return kinds, tokens
}

// planned plans what channels need, as if the hub were allowed so much.
func planned(tb testing.TB, n *voucherNode, allowance Amount) ([]callKind, []string) {
	tb.Helper()
	if err := n.ledger.update(context.Background(), func(tx *tx) error {
		if err := tx.exec("DELETE FROM call WHERE state = 0"); err != nil {
			return err
		}
		rows, err := tx.channels()
		if err != nil {
			return err
		}
		a := toToken(allowance, testDecimals)
		return errors.Join(n.c.planClose(tx, rows, time.Now()), n.c.planTopUp(tx, rows, a), n.c.planDeposit(tx, a))
	}); err != nil {
		tb.Fatal(err)
	}
	return calls(tb, n)
}

// TestAskedOfChannels: an operator's top-up is planned until the chain shows the
// deposit, a close until it is closed; what makes no sense is refused, and both
// survive a restart.
func TestAskedOfChannels(t *testing.T) {
	a, b, l := voucherPair(t, func(c *Config) { c.Direct.Channels.Deposit = 1_000_000 })
	greeted(t, l)
	ctx := t.Context()
	if err := a.TopUp(ctx, testID(2), 5); !errors.Is(err, ErrNoChannel) {
		t.Errorf("top up without a channel: %v, want ErrNoChannel", err)
	}
	if err := a.CloseTo(ctx, testID(2)); !errors.Is(err, ErrNoChannel) {
		t.Errorf("close without a channel: %v, want ErrNoChannel", err)
	}
	show(t, a, b, 10, nil)
	for i := range 2 { // together 500,000 on top of 1,000,000
		if err := a.TopUp(ctx, testID(2), Amount(200_000+100_000*i)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := a.ledger.openIntents(ctx); err != nil || n != 1 {
		t.Errorf("%d things are under way, %v; want the top-up, so that the chain is looked at", n, err)
	}
	if kinds, tokens := planned(t, a, 0); len(kinds) != 1 || kinds[0] != callApprove || tokens[0] != toToken(500_000, testDecimals).String() {
		t.Errorf("without an allowance %v of %v is planned, want an approval of 500,000", kinds, tokens)
	}
	for range 2 { // planning again changes nothing
		if kinds, tokens := planned(t, a, 500_000); len(kinds) != 1 || kinds[0] != callTopUp || tokens[0] != toToken(500_000, testDecimals).String() {
			t.Errorf("%v of %v is planned, want a top-up of 500,000", kinds, tokens)
		}
	}
	all, err := a.Channels(ctx)
	if err != nil || len(all) != 1 || all[0].Node != testID(2) || all[0].Target != 1_500_000 || all[0].Deposit != 1_000_000 || all[0].UnderWay != "topping up" || !all[0].Open || all[0].Payee != b.earning.Hex() {
		t.Errorf("channels of the payer: %+v, %v", all, err)
	}
	if all, err := b.Channels(ctx); err != nil || len(all) != 1 || all[0].WePay || all[0].Target != all[0].Deposit {
		t.Errorf("channels of the payee: %+v, %v", all, err)
	}
	topped := func(v *evm.ChannelView) { v.Deep.Deposit = toToken(1_500_000, testDecimals) }
	show(t, a, b, 20, topped)
	if kinds, _ := planned(t, a, 0); len(kinds) != 0 {
		t.Errorf("with the deposit there, %v is planned", kinds)
	}
	if err := a.TopUp(ctx, testID(2), maxAmount); err == nil {
		t.Error("a deposit beyond all numbers is taken")
	}

	if err := a.CloseTo(ctx, testID(2)); err != nil {
		t.Fatal(err)
	}
	if err := a.TopUp(ctx, testID(2), 5); err == nil {
		t.Error("a channel that is about to be closed is topped up")
	}
	if kinds, _ := planned(t, a, 1<<40); len(kinds) != 1 || kinds[0] != callRequest {
		t.Errorf("after asking to close %v is planned, want the notice", kinds)
	}
	notice := uint64(time.Now().Add(time.Hour).Unix()) //nolint:gosec // a time
	show(t, a, b, 30, func(v *evm.ChannelView) { topped(v); v.CloseAt = notice })
	if kinds, _ := planned(t, a, 1<<40); len(kinds) != 0 {
		t.Errorf("while the notice runs %v is planned", kinds)
	}
	show(t, a, b, 40, func(v *evm.ChannelView) { topped(v); v.CloseAt = 1 })
	if kinds, _ := planned(t, a, 1<<40); len(kinds) != 1 || kinds[0] != callClose {
		t.Errorf("after the notice %v is planned, want the close", kinds)
	}
	show(t, a, b, 50, func(v *evm.ChannelView) {
		v.Deep.Deposit, v.Deep.Signer = new(big.Int), evm.Address{}
	})
	if all, err := a.Channels(ctx); err != nil || len(all) != 1 || all[0].Open || all[0].Closing || all[0].Target != 0 {
		t.Errorf("after the close: %+v, %v", all, err)
	}
	if err := a.CloseTo(ctx, testID(2)); !errors.Is(err, ErrNoChannel) {
		t.Errorf("closing it again: %v, want ErrNoChannel", err)
	}
	l.cut()
	checked(t, a, b)
	if _, err := openBook(t, 9, nil).Channels(ctx); !errors.Is(err, ErrNoChannels) {
		t.Errorf("channels without a hub: %v, want ErrNoChannels", err)
	}
}

// TestOneEarningAddress: two neighbors name one earning address. The channel is
// the first one's; the other is paid by a transfer, gets no voucher out of it, and
// both are owed nothing in the end.
func TestOneEarningAddress(t *testing.T) {
	a, b, l := voucherPair(t, nil)
	shared := b.earning
	c := openVouchers(t, 3, t.TempDir(), func(cfg *Config) { cfg.Direct.Earning = shared })
	c.earning = shared
	greeted(t, l)
	show(t, a, b, 10, nil)
	other := join(t, a.Book, c.Book)
	greeted(t, other)
	consume(t, a, b, l, testWindow/3)
	eventually(t, "b is paid by a voucher", func() bool {
		r := report(t, b.Book).Neighbors[0]
		return r.TheyOwe == 0 && r.Earned > 0
	})
	consume(t, a, c, other, testWindow/3)
	for range 3 {
		for _, n := range a.live() {
			muchLater(n)
		}
	}
	if _, err := a.plan(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c is paid by a transfer", func() bool {
		for _, r := range report(t, a.Book).Neighbors {
			if r.Node == testID(3) {
				return r.WeOwe == 0 && len(r.Payments) == 1 && r.Payments[0].Payee == shared.Hex() && r.Payments[0].Amount == r.Spent
			}
		}
		return false
	})
	given := channelOf(t, a, true).Vouchers
	if held := channelOf(t, b, false).Vouchers; given != held || given == 0 {
		t.Errorf("a has given vouchers for %v, b holds %v", given, held)
	}
	if got := channelOf(t, c, false).Vouchers; got != 0 {
		t.Errorf("c holds vouchers for %v out of b's channel", got)
	}
	if r := report(t, c.Book).Neighbors[0]; r.TheyOwe != r.Earned || r.Earned == 0 {
		t.Errorf("c is owed %v of %v before the transfer has arrived", r.TheyOwe, r.Earned)
	}
	l.cut()
	other.cut()
	checked(t, a, b, c)
}

// TestPayWhileClosing: what is owed once a channel is asked to close, or a notice
// of it has been seen, is paid by a transfer.
func TestPayWhileClosing(t *testing.T) {
	for _, noticed := range []bool{false, true} {
		a, b, l := voucherPair(t, nil)
		greeted(t, l)
		show(t, a, b, 10, nil)
		if noticed {
			show(t, a, b, 20, func(v *evm.ChannelView) { v.CloseAt = uint64(time.Now().Add(time.Hour).Unix()) }) //nolint:gosec // a time
		} else if err := a.CloseTo(t.Context(), testID(2)); err != nil {
			t.Fatal(err)
		}
		consume(t, a, b, l, testWindow/3)
		for _, n := range a.live() {
			muchLater(n)
		}
		if n, err := a.plan(t.Context(), true); n != 1 || err != nil {
			t.Errorf("notice %v: %d payments are planned, %v; want one", noticed, n, err)
		}
		r := report(t, a.Book).Neighbors[0]
		if r.WeOwe != 0 || len(r.Payments) != 1 || r.Payments[0].Amount != r.Spent || r.Payments[0].Payee != b.earning.Hex() || channelOf(t, a, true).Vouchers != 0 {
			t.Errorf("notice %v: owed %v, payments %+v; want all of %v paid by a transfer", noticed, r.WeOwe, r.Payments, r.Spent)
		}
		l.cut()
		checked(t, a, b)
	}
}
