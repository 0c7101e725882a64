package billing

import (
	"math/bits"
	"slices"
	"time"
)

// How a creditor treats a neighbor (docs/protocol.md section 7.2):
//
//	active -> warned (3/4 of what it may owe) -> throttled (7/8) -> cut (all of it)
//
// and back, by paying. What it may owe is its limit, and less when a part of
// the debt is older than DueAfter: it falls to dust in the same time again. While
// our own view is frozen, nothing ages, and who would be cut is throttled until it
// owes twice its limit.

// evidence is what a neighbor is judged by.
type evidence struct {
	disputed bool
	free     bool // nobody pays anybody
	unpayed  bool // it cannot pay us
	broke    bool // it could, and its wallet holds too little
	frozen   bool
	owed     Amount
	pardoned Amount // the part of owed that an operator has let pass
	limit    Amount // by what it has paid
	pot      Amount // what is left for it of the credit for strangers, and what it has paid
	age      time.Duration
}

// judged is a state with the part of it that is not announced.
type judged struct {
	state
	limit Amount // that the link's end is measured by
	held  Amount // owed and held against it
}

// assess judges.
func (c *Config) assess(e *evidence) judged {
	limit, reason := e.limit, ReasonCredit
	if e.pot < limit {
		limit, reason = max(0, e.pot), ReasonStrangers
	}
	j := judged{state: state{standing: Active, owed: e.owed, limit: limit + e.pardoned}, limit: limit, held: e.owed - e.pardoned}
	switch {
	case e.disputed:
		j.standing, j.reason = Disputed, ReasonCounts
		return j
	case e.free:
		return j
	case e.unpayed:
		j.standing, j.reason = Cut, ReasonNoSettlement
		return j
	case e.broke:
		j.standing, j.reason = Cut, ReasonFunds
		return j
	}
	allowed := limit
	if aged := fading(limit, min(limit, c.dust()), e.age-c.DueAfter, c.DueAfter); aged < limit && !e.frozen {
		allowed, reason = aged, ReasonAge
	}
	end := allowed
	if e.frozen {
		end = 2 * limit
	}
	switch {
	case j.held > end || limit == 0:
		j.standing = Cut
	case j.held > allowed/8*7:
		j.standing = Throttled
	case j.held > allowed/4*3:
		j.standing = Warned
	default:
		return j
	}
	j.reason, j.state.limit, j.pay = reason, allowed+e.pardoned, max(0, j.held-allowed/4*3)
	return j
}

// dust is a debt that is never called in for its age alone.
func (c *Config) dust() Amount { return c.CreditStart / 16 }

// fading is from before the beginning of span and to after its end, and falls in a
// straight line between.
func fading(from, to Amount, at, span time.Duration) Amount {
	switch {
	case at <= 0 || from <= to:
		return from
	case at >= span:
		return to
	}
	hi, lo := bits.Mul64(uint64(from-to), uint64(at))
	q, _ := bits.Div64(hi, lo, uint64(span)) // at < span, so it fits
	return from - Amount(q)                  //nolint:gosec // at most from - to
}

// due is the debt above which we pay when its oldest part is that old: SettleAbove
// at first, falling to nothing at SettleAfter. The two ends are what a user
// configures; the line between is the payment curve of MASQ's accountant.
func (c *Config) due(age time.Duration) Amount { return fading(c.SettleAbove, 0, age, c.SettleAfter) }

// exposure is what the neighbor owes us in all; the part of it that is not
// agreed, on this link or on earlier ones that have ended; and the price of what
// it was served on this link, paid or not.
func (n *Neighbor) exposure() (owed, pending, served Amount) {
	// Agreed counts and the balance that they are part of change together under
	// n.mu, so that nothing is counted twice here.
	n.mu.Lock()
	agreed, balance := n.agreed, Amount(n.peer.receivable.Load())
	n.mu.Unlock()
	open := totals{n.meters[Sent].snapshot(), n.meters[Received].snapshot()}
	served = open.owed(TheyPay)
	for dir := range open {
		for p := range open[dir] {
			for t := range open[dir][p] {
				open[dir][p][t] -= min(agreed[dir][p][t], open[dir][p][t])
			}
		}
	}
	pending = Amount(n.peer.lost.Load()) + open.owed(TheyPay)
	return balance + pending, pending, served
}

// limit is how much the neighbor may owe: little at first, more by what it has
// paid (docs/protocol.md section 7.2).
func (b *Book) limit(p *peer) Amount {
	c := &b.cfg
	start := c.CreditStart
	if b.onChain() != nil && p.paid() == 0 && p.funds.Load() == nil && !b.blind.Load() {
		start = max(1, start/blindPart)
	}
	return min(b.settler.Bound(p), c.Credit, start+min(p.paid(), c.Credit-c.CreditStart))
}

// paid is what the neighbor has paid so far.
func (p *peer) paid() Amount { return Amount(max(p.repaid.Load(), 0)) }

// evidence gathers what is known of a neighbor that owes so much.
func (b *Book) evidence(p *peer, owed Amount) evidence {
	e := evidence{
		free: b.settler.Way() == WayNone, broke: p.broke(), frozen: b.ledger.ages.frozen(), owed: owed, limit: b.limit(p),
		pardoned: min(Amount(p.pardoned.Load()), max(owed, 0)),
	}
	e.pot = b.strangers.share(p, owed-e.pardoned, b.cfg.CreditStrangers)
	if born := p.oldest.Load(); born != 0 {
		e.age = max(0, b.ledger.ages.read(sideReceivable).Sub(time.Unix(born, 0)))
	}
	return e
}

// judge works out how the neighbor is to be treated, sees to it, and tells the
// neighbor when that has changed. One that is far over its credit loses the link.
func (n *Neighbor) judge() (Standing, Reason) {
	b, p := n.book, n.peer
	owed, _, served := n.exposure()
	e := b.evidence(p, owed)
	n.mu.Lock()
	disputed, ended, hello := n.disputed, n.ended, n.base != nil
	n.mu.Unlock()

	p.mu.Lock()
	e.disputed = disputed || p.state == Disputed
	e.unpayed = hello && !b.settler.Accepts(p.theirs)
	funds := p.theirs != nil && slices.Contains(p.theirs.ways, wayNews)
	now := b.cfg.assess(&e)
	p.settle(now.state, b.cfg.Now())
	p.mu.Unlock()

	n.mu.Lock()
	news := !ended && hello && (now.standing != n.told.standing || now.reason != n.told.reason) &&
		(n.told.standing != 0 || now.standing != Active)
	if news {
		n.told = now.state
	}
	rate := 0
	if now.slowed() {
		rate = b.cfg.ThrottleCells
	}
	slow := !ended && rate != n.rate
	if slow {
		n.rate = rate
	}
	n.mu.Unlock()
	if slow {
		n.out.Throttle(rate)
	}
	if news {
		told := now.state
		if told.reason == ReasonFunds && !funds {
			told.reason = ReasonNoSettlement
		}
		_ = n.out.Bill(told.append(nil)) // a link that has ended needs no news
	}
	if !ended && !e.free && now.held/2 > now.limit && served > now.limit {
		n.out.Close()
	}
	return now.standing, now.reason
}

// slowed tells whether the neighbor's cells are carried at a bounded rate: those
// of circuits that it still has while it is cut, too.
func (s *state) slowed() bool {
	return s.standing == Throttled || s.standing == Cut && s.reason != ReasonNoSettlement
}

// settle notes how the neighbor is treated, and since when. p.mu is held.
func (p *peer) settle(s state, now time.Time) {
	if s.standing != p.state || p.since.IsZero() {
		p.since = now
	}
	p.state, p.reason, p.now = s.standing, s.reason, s
}

// judgeAway judges a neighbor without a link, for Report.
func (b *Book) judgeAway(p *peer) {
	e := b.evidence(p, Amount(p.receivable.Load()+p.lost.Load()))
	p.mu.Lock()
	defer p.mu.Unlock()
	e.disputed = p.state == Disputed
	e.unpayed = p.theirs != nil && !b.settler.Accepts(p.theirs)
	now := b.cfg.assess(&e)
	p.settle(now.state, b.cfg.Now())
}
