package billing

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// strangerPair is a payer and a creditor on a chain that does not answer, linked; a
// stranger may owe 8000 cells of tier 1. twist changes what the payer sends.
func strangerPair(t *testing.T, twist func(*memFrame)) (a, b *voucherNode, l *memLink) {
	t.Helper()
	a, b, l = voucherPair(t, func(c *Config) {
		c.Credit, c.CreditStart, c.CreditStrangers, c.Direct.Channels.Window = 1<<40, Owed(8000, 1), 1<<40, 1<<40
	})
	l.ends[0].twist = twist
	greeted(t, l)
	return a, b, l
}

// look has the creditor have looked at the payer's wallet.
func look(b *voucherNode, short bool) {
	p := b.known()[0]
	wallet, _ := b.purse(p)
	p.funds.Store(&funds{wallet: wallet, token: 1 << 50, fee: true, at: b.Book.cfg.Up(), short: short})
	b.live()[0].judge()
}

// TestUnseenWallet: before its wallet was looked at a stranger is served an eighth of
// what it may owe after that. One that has paid is not bounded by it, nor anybody
// while the chain does not answer.
func TestUnseenWallet(t *testing.T) {
	a, b, l := strangerPair(t, nil)
	b.ledger.ages.sighted()
	use := func(cells wire.Cells) error {
		l.ends[0].send(WePay, 1, cells)
		eventually(t, "all cells are counted", l.drained)
		return l.ends[1].n.Admit(1)
	}
	if err := use(990); err != nil {
		t.Errorf("just less than an eighth is owed: %v", err)
	}
	if err := use(110); err == nil {
		t.Error("more than an eighth is owed, no wallet was seen, and the neighbor is served")
	}
	b.blind.Store(true)
	if err := l.ends[1].n.Admit(1); err != nil {
		t.Errorf("while the chain does not answer: %v", err)
	}
	b.blind.Store(false)
	look(b, false)
	if err := l.ends[1].n.Admit(1); err != nil {
		t.Errorf("after the look: %v", err)
	}
	if err := use(7000); err == nil {
		t.Error("more than all of the credit is owed, and the neighbor is served")
	}
	flushBoth(t, a.Book, b.Book)
	l.cut()
	p := b.known()[0]
	p.funds.Store(nil)
	if got := b.limit(p); got != Owed(8000, 1)/blindPart {
		t.Errorf("a stranger's limit is %v, want an eighth of %v", got, Owed(8000, 1))
	}
	p.repaid.Store(1)
	if got := b.limit(p); got != Owed(8000, 1)+1 {
		t.Errorf("the limit of a neighbor that has paid is %v, want %v", got, Owed(8000, 1)+1)
	}
	checked(t, a, b)
}

// TestOlderNeighborIsToldWhatItKnows: a neighbor that has not said that it knows the
// reason "funds" gets another one, since it would end the link; and a reason that we
// do not know ends none.
func TestOlderNeighborIsToldWhatItKnows(t *testing.T) {
	for _, older := range []bool{false, true} {
		want := ReasonFunds
		var twist func(*memFrame)
		if older {
			want = ReasonNoSettlement
			twist = func(f *memFrame) {
				if len(f.bill) == 0 || f.bill[0] != kindHello {
					return
				}
				h, err := parseHello(f.bill)
				if err != nil || !slices.Contains(h.ways, wayNews) {
					t.Errorf("hello %x: %v, want one that says what it knows", f.bill, err)
					return
				}
				h.ways = slices.DeleteFunc(h.ways, func(w Way) bool { return w == wayNews })
				f.bill = h.append(nil)
			}
		}
		a, b, l := strangerPair(t, twist)
		look(b, true)
		told := func() state {
			p := a.known()[0]
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.told
		}
		eventually(t, "a is told", func() bool { return told().standing == Cut })
		if got := told().reason; got != want {
			t.Errorf("older: %v; it is told %q, want %q", older, got, want)
		}
		if got := report(t, b.Book).Neighbors[0].Reason; got != ReasonFunds.String() {
			t.Errorf("older: %v; our own report says %q, want %q", older, got, ReasonFunds)
		}
		if err := l.ends[0].n.Message((&state{standing: Throttled, reason: 99}).append(nil)); err != nil || told().reason.String() != "reason 99" {
			t.Errorf("an unknown reason: %v, told %q", err, told().reason)
		}
		l.cut()
		checked(t, a, b)
	}
}

// TestEarningIsNoContract: what is sent to the token's contract or the hub is lost.
func TestEarningIsNoContract(t *testing.T) {
	for _, at := range []evm.Address{{7}, {8}} { // as openVouchers names them
		v := openVouchers(t, 1, t.TempDir(), nil)
		cfg := v.cfg
		d := *cfg.Direct
		d.Earning = at
		cfg.Path, cfg.Direct = filepath.Join(t.TempDir(), "ledger"), &d
		if b, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "is lost") {
			if err == nil {
				b.Close()
			}
			t.Errorf("earning to %s: %v, want it refused", at, err)
		}
	}
}
