package billing

import (
	"sync"
	"time"
)

// strangersFor is how long a debt of a stranger counts after it was last served.
const strangersFor = 24 * time.Hour

// strangers bound what new identities can cost: all neighbors together may owe
// at most CreditStrangers beyond what each of them has paid so far. An identity
// costs nothing, so a limit for each alone would be none. A neighbor that has paid
// as much as it owes is not touched by what others do. A debt stops counting
// strangersFor after its neighbor was last served, so that what is lost does
// not close a relay for ever: the loss is bounded per day.
type strangers struct {
	up func() time.Duration

	mu    sync.Mutex
	sum   Amount
	owing map[*peer]owing // those that owe more than they have paid
}

type owing struct {
	beyond Amount        // what it has paid
	served time.Duration // up, when it grew last
	lapsed bool          // not in the sum any more
}

func newStrangers(up func() time.Duration) *strangers {
	return &strangers{up: up, owing: make(map[*peer]owing)}
}

// counts is the part of the sum.
func (o owing) counts() Amount {
	if o.lapsed {
		return 0
	}
	return o.beyond
}

// share notes what a neighbor owes and returns what it may owe: what it has paid,
// and what others leave of the pot.
func (s *strangers) share(p *peer, owed, pot Amount) Amount {
	paid := p.paid()
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.owing[p]
	is := had
	if is.beyond = max(0, owed-paid); is.beyond > had.beyond {
		is.served, is.lapsed = s.up(), false
	}
	s.sum += is.counts() - had.counts()
	if is.beyond > 0 {
		s.owing[p] = is
	} else {
		delete(s.owing, p)
	}
	return paid + max(0, pot-(s.sum-is.counts()))
}

// lapse takes out debts of neighbors that were not served for long.
func (s *strangers) lapse() {
	now := s.up()
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, o := range s.owing {
		if now-o.served < strangersFor {
			continue
		}
		s.sum -= o.counts()
		o.lapsed = true // and remembered, lest it counts as served when it is looked at again
		s.owing[p] = o
	}
}
