package billing

import (
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"cuttle/billing/evm"
)

// TestProblems: each thing that keeps payments waiting is said, with what to do.
func TestProblems(t *testing.T) {
	v := openVouchers(t, 1, t.TempDir(), nil)
	full := evm.Balances{Token: toToken(1_000_000_000, testDecimals), Gas: big.NewInt(1e18)}
	set := func(o evm.Outcome, err error) {
		v.seen.mu.Lock()
		defer v.seen.mu.Unlock()
		v.seen.outcome, v.seen.err = o, err
	}
	none := func() {}
	for _, c := range []struct {
		name string
		do   func()
		undo func()
		says []string // texts, in order
	}{
		{"nothing", func() { set(evm.Outcome{Balances: full}, nil) }, none, nil},
		{"no token", func() { set(evm.Outcome{Balances: evm.Balances{Token: new(big.Int), Gas: full.Gas}}, nil) }, none, []string{"no token: wallet " + v.wallet.Address().Hex()}},
		{"no gas", func() { set(evm.Outcome{Balances: evm.Balances{Token: full.Token, Gas: new(big.Int)}}, nil) }, none, []string{"no gas: wallet " + v.wallet.Address().Hex()}},
		{"a payment waits", func() {
			set(evm.Outcome{Balances: full, Problems: []evm.Problem{{Kind: evm.NoToken, Text: "1"}, {Kind: evm.NoGas, Text: "2"}, {Kind: evm.FeeOverLimit, Text: "3"}, {Kind: evm.WouldRevert, Text: "4"}, {Kind: evm.UsedElsewhere, Text: "5"}}}, nil)
		}, none, []string{"1", "2", "3", "4", "5"}},
		{"the chain does not answer", func() { set(evm.Outcome{}, errors.New("no\nanswer")) }, none, []string{"not seen in this run: no; answer"}},
		{"it has answered before", func() {
			set(evm.Outcome{Balances: full}, errors.New("no answer"))
			v.seen.at = time.Unix(1_700_000_000, 0)
		}, none, []string{"not seen since 2023-11-14 22:13:20 UTC"}},
		{"no space", func() { set(evm.Outcome{Balances: full}, nil); v.ledger.full.Store(true) }, func() { v.ledger.full.Store(false) }, []string{"no space for the ledger " + v.cfg.Path}},
		{"a broken file", func() { err := errors.New("input/output error"); v.ledger.broken.Store(&err) }, func() { v.ledger.broken.Store(nil) }, []string{"input/output error"}},
		{"money that is gone", func() { told := "5 left"; v.c.cash.told.Store(&told) }, func() { v.c.cash.told.Store(nil) }, []string{"5 left"}},
	} {
		c.do()
		got := v.Problems()
		c.undo()
		if len(got) != len(c.says) {
			t.Errorf("%s: %+v, want %q", c.name, got, c.says)
			continue
		}
		for i, p := range got {
			if !strings.Contains(p.Text, c.says[i]) || p.Hint == "" {
				t.Errorf("%s: %+v, want %q and a hint", c.name, p, c.says[i])
			}
		}
	}
}
