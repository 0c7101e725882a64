package billing

import (
	"context"
	"errors"
	"testing"

	"cuttle/billing/evm"
)

// paid is a settler of neighbors that can pay, or cannot; no payment is made.
type paid struct {
	unpaid
	can bool
}

func (paid) Way() Way              { return WayDirect }
func (p paid) Accepts(*hello) bool { return p.can }

var _ settler = paid{}

// TestCredit: a neighbor within its credit is served, over it new circuits are
// refused and it is told, over twice of it the link ends, also if it never
// answers a marker.
func TestCredit(t *testing.T) {
	for _, answers := range []bool{true, false} {
		a, b := openBook(t, 1, nil), openBook(t, 2, func(c *Config) { c.Credit = Owed(1000, 1) })
		b.settler = paid{can: true}
		l := join(t, a, b)
		if !answers {
			l.ends[0].twist = func(f *memFrame) { // a says hello and then nothing more
				if f.bill != nil && f.bill[0] != kindHello {
					f.bill = (&state{standing: Active}).append(nil)
				}
			}
		}
		l.run()
		n := l.ends[1].n
		step := func(cells uint64, want error) {
			t.Helper()
			l.ends[0].send(WePay, 1, 1)
			l.ends[1].send(TheyPay, 1, 1)
			for range cells / 100 {
				l.ends[1].send(TheyPay, 1, 100)
			}
			eventually(t, "all cells are counted", l.drained)
			if err := n.Admit(1); !errors.Is(err, want) {
				t.Errorf("answers %v: Admit = %v, want %v", answers, err, want)
			}
			if err := n.Admit(0); err != nil {
				t.Errorf("answers %v: free circuit: %v", answers, err)
			}
		}
		step(900, nil)
		step(200, ErrDue)
		eventually(t, "a is told", func() bool {
			r := report(t, a).Neighbors[0]
			return r.TheirStanding == Cut && r.TheirReason != ""
		})
		select {
		case <-l.stop:
			t.Errorf("answers %v: the link ended before twice the credit", answers)
		default:
		}
		l.ends[1].send(TheyPay, 1, 1200)
		eventually(t, "the link ends", func() bool {
			b.tickAll()
			select {
			case <-l.stop:
				return true
			default:
				return false
			}
		})
		l.cut()
		// A new link gives no new credit.
		l = join(t, a, b)
		l.run()
		if err := l.ends[1].n.Admit(1); !errors.Is(err, ErrDue) {
			t.Errorf("answers %v: Admit on the next link = %v, want ErrDue", answers, err)
		}
		l.cut()
	}
}

func TestNoCommonWay(t *testing.T) {
	a, b := openBook(t, 1, nil), openBook(t, 2, nil)
	b.settler = paid{}
	l := join(t, a, b)
	l.run()
	defer l.cut()
	eventually(t, "b knows that a cannot pay", func() bool { return errors.Is(l.ends[1].n.Admit(1), ErrNoSettlement) })
	if err := l.ends[0].n.Admit(1); err != nil {
		t.Errorf("a, who only counts, refuses: %v", err)
	}
}

// TestBinding: one wallet pays for one neighbor; a new key is no way out of a
// debt, and is accepted once the debt is paid.
func TestBinding(t *testing.T) {
	b := openBook(t, 9, nil)
	first, err := b.peer(testID(1))
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.peer(testID(2))
	if err != nil {
		t.Fatal(err)
	}
	do := func(f func(*tx) error) {
		t.Helper()
		if err := b.ledger.update(context.Background(), f); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(p *peer) bool {
		h := &hello{bound: true, wallet: evm.Address{7}, expiry: 1}
		do(func(x *tx) error { return x.bind(p, h) })
		return h.bound
	}
	if !bind(first) {
		t.Error("a new wallet was not bound")
	}
	var counted totals
	counted[Sent][TheyPay][1] = 1 << 20
	do(func(x *tx) error { return x.setTotals(first, &counted) })
	if bind(second) {
		t.Error("a wallet that owes was bound to another key")
	}
	pay := evm.Transfer{Tx: evm.Hash{1}, Block: evm.Mark{Number: 5}, From: evm.Address{7}, Amount: toToken(1_000_000, 18)}
	for range 2 { // the second time it is known
		do(func(x *tx) error { return x.receive(pay, 18) })
	}
	if got := first.receivable.Load(); got != 0 {
		t.Errorf("owed after the payment was seen twice: %d", got)
	}
	if !bind(second) {
		t.Error("a wallet that owes nothing was not bound to another key")
	}
	in := &inbox{l: b.ledger, step: func(string, int64) {}}
	if err := in.Rewind(context.Background(), evm.Mark{}); err != nil {
		t.Fatal(err)
	}
	if got := first.receivable.Load(); got != 1_000_000 {
		t.Errorf("owed after the payment left the chain: %d", got)
	}
	do(func(x *tx) error { return x.verify() })
}
