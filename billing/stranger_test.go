package billing

import (
	"errors"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// TestStrangers: identities that come one after the other and never pay cannot owe
// more together than twice the credit for strangers; whoever has paid is not
// touched, dust is no payment, and the next day there is credit again.
func TestStrangers(t *testing.T) {
	clock := newClocked()
	pot := Owed(2500, 1)
	b := openBook(t, 1, func(c *Config) {
		clock.config("")(c)
		c.Credit, c.CreditStart, c.CreditStrangers = Owed(8000, 1), Owed(1000, 1), pot
	})
	old := debt(t, b, testID(100), TheyPay, 6000)
	claim(t, b, old, Owed(6000, 1))

	// take has an identity buy in steps until it is refused or the link ends.
	take := func(id byte, dust Amount) (owed Amount) {
		t.Helper()
		a := openBook(t, id, func(c *Config) { c.Account = true })
		l := join(t, a, b)
		l.run()
		defer l.cut()
		n := l.ends[1].n
		flushBoth(t, a, b)
		for range 60 {
			if n.Admit(1) != nil {
				break
			}
			l.ends[1].send(TheyPay, 1, 50)
			eventually(t, "cells are counted", l.drained)
			flushBoth(t, a, b)
			if dust > 0 {
				claim(t, b, n.peer, dust)
			}
		}
		if err := n.Admit(1); !errors.Is(err, ErrDue) {
			t.Errorf("identity %d has bought all it could and is not refused: %v", id, err)
		}
		return Amount(n.peer.receivable.Load())
	}
	var sum Amount
	for id := range byte(6) {
		sum += take(2+id, Amount(id%2))
	}
	if sum > pot+6*Owed(50, 1) || sum < pot-Owed(50, 1) {
		t.Errorf("six identities owe %v together, the credit for strangers is %v", sum, pot)
	}
	if r := standing(t, b, testID(100)); r.Standing != Active {
		t.Errorf("a neighbor that has paid is %v", r.Standing)
	}
	debt(t, b, testID(100), TheyPay, 3000)
	if r := standing(t, b, testID(100)); r.Standing != Active || r.Limit < Owed(5000, 1) {
		t.Errorf("a neighbor that has paid more than it owes is %v, its limit %v", r.Standing, r.Limit)
	}
	clock.pass(strangersFor - time.Hour)
	b.strangers.lapse()
	if owed := take(20, 0); owed > Owed(50, 1) {
		t.Errorf("the same day another identity gets %v", owed)
	}
	clock.pass(strangersFor)
	b.strangers.lapse()
	report(t, b) // looking at old debts does not make them new
	if owed := take(21, 0); owed < Owed(1000, 1) {
		t.Errorf("the next day another identity gets %v", owed)
	}
}

// TestStrangersTogether: identities that all buy at the same time on circuits that
// they have already are let go before they owe twice the credit for strangers.
func TestStrangersTogether(t *testing.T) {
	pot := Owed(3000, 1)
	b := openBook(t, 1, func(c *Config) { c.Account, c.CreditStart, c.CreditStrangers = true, Owed(1000, 1), pot })
	var links []*memLink
	for id := range byte(10) {
		l := join(t, openBook(t, 2+id, func(c *Config) { c.Account = true }), b)
		l.run()
		defer l.cut()
		links = append(links, l)
	}
	ended := func(l *memLink) bool {
		select {
		case <-l.stop:
			return true
		default:
			return false
		}
	}
	alive := len(links)
	for round := 0; alive > 0 && round < 200; round++ {
		alive = 0
		for _, l := range links {
			if ended(l) {
				continue
			}
			alive++
			l.ends[1].send(TheyPay, 1, 20) // as if no throttle held it
		}
		eventually(t, "cells are counted", func() bool {
			for _, l := range links {
				if !ended(l) && !l.drained() {
					return false
				}
			}
			return true
		})
		b.tickAll()
	}
	if alive > 0 {
		t.Errorf("%d links of identities that never pay live on", alive)
	}
	var sum Amount
	for _, l := range links {
		owed, _, _ := l.ends[1].n.exposure()
		sum += owed
	}
	if most := 2*pot + Owed(10*wire.Cells(20), 1); sum > most {
		t.Errorf("ten identities owe %v together, want %v at most", sum, most)
	}
}
