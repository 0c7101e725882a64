package billing

import (
	"math/big"
	"slices"
	"testing"

	"cuttle/billing/evm"
)

// TestLate: a creditor is told which payments wait for lower fees and when they wait no
// more, each news once, if it knows such news; nothing else changes by it.
func TestLate(t *testing.T) {
	for _, older := range []bool{false, true} {
		a, b, l := strangerPair(t, nil)
		sent := 0
		l.ends[0].twist = func(f *memFrame) {
			if len(f.bill) > 1 && f.bill[0] == kindPay && Way(f.bill[1]) == WayDirect {
				sent++
			}
		}
		look(b, false)
		l.ends[0].send(WePay, 1, 3000)
		flushBoth(t, a.Book, b.Book)
		p := a.known()[0]
		if older {
			p.mu.Lock()
			p.theirs.ways = slices.DeleteFunc(p.theirs.ways, func(w Way) bool { return w == wayNews })
			p.mu.Unlock()
		}
		wallet := a.onChain().cfg.Wallet.Address()
		if err := a.ledger.plan(t.Context(), p, wallet, evm.Address{9}, 1500, big.NewInt(1)); err != nil {
			t.Fatal(err)
		}
		open, _, err := (&journal{a.ledger, wallet}).OpenIntents(t.Context())
		if err != nil || len(open) != 1 {
			t.Fatalf("%d payments are open, %v", len(open), err)
		}
		tell := func(waiting ...evm.Late) {
			t.Helper()
			for range 2 {
				if err := a.tellLate(t.Context(), waiting); err != nil {
					t.Fatal(err)
				}
			}
		}
		shows := func(amount Amount, tx string) {
			t.Helper()
			eventually(t, "the creditor shows it", func() bool {
				r := report(t, b.Book).Neighbors[0]
				return r.TheirLate == amount && r.TheirLateTx == tx
			})
		}
		before := report(t, b.Book).Neighbors[0]
		tx := evm.Hash{7}
		tell(evm.Late{Intent: open[0].ID, Tx: tx})
		if older {
			if sent != 0 {
				t.Errorf("%d messages to a neighbor that does not know them", sent)
			}
			l.cut()
			continue
		}
		shows(1500, tx.Hex())
		if r := report(t, b.Book).Neighbors[0]; r.TheyOwe != before.TheyOwe || r.Standing != before.Standing || r.Limit != before.Limit {
			t.Errorf("its word has changed how it is treated: %+v, before %+v", r, before)
		}
		tell()
		shows(0, "")
		if sent != 2 {
			t.Errorf("%d messages for two news", sent)
		}
		tell(evm.Late{Intent: open[0].ID})
		shows(1500, "")
		l.cut()
		checked(t, a, b)
	}
}

func TestLateBytes(t *testing.T) {
	good := late{5, evm.Hash{7}}.append(nil)
	if l, err := parseLate(good); err != nil || l != (late{5, evm.Hash{7}}) {
		t.Errorf("%x is %+v, %v", good, l, err)
	}
	for _, b := range [][]byte{
		nil, good[1:], append(slices.Clone(good), 0), append([]byte{2}, good[1:]...),
		late{-1, evm.Hash{}}.append(nil), late{0, evm.Hash{7}}.append(nil),
	} {
		if l, err := parseLate(b); err == nil {
			t.Errorf("%x is %+v", b, l)
		}
	}
}
