package billing

import (
	"context"
	"time"
)

// What an RPC provider is asked is counted and paid for, so the chain is asked
// often only while somebody waits for the answer.
const (
	calmPolls = 8                // of PollEvery: while nobody waits
	waitsFor  = 10 * time.Minute // that a neighbor which was warned or cut counts as waiting
	urgeBurst = 8                // looks that neighbors can ask for at a time
)

// hasty is the time between looks at the chain while somebody waits.
func (b *Book) hasty() time.Duration { return min(b.cfg.PollEvery, b.cfg.ScanEvery) }

// calm is the time between looks while news may come and nobody waits for it.
func (b *Book) calm() time.Duration { return min(calmPolls*b.cfg.PollEvery, b.cfg.ScanEvery) }

// pace is how long to wait between looks at the chain: hasty while a payment or
// call of ours is not final, or a neighbor waits; calm while a neighbor owes us, its
// wallet holds too little, or payments that are done are looked after; 0 while
// there can be no news before the next scan.
func (b *Book) pace(ctx context.Context) (pace time.Duration) {
	if open, err := b.ledger.openIntents(ctx); err != nil || open > 0 {
		return b.hasty()
	}
	if d := b.onChain(); d != nil && d.watched.Load() > 0 {
		pace = b.calm()
	}
	for _, p := range b.known() {
		switch {
		case b.waits(p):
			return b.hasty()
		case p.receivable.Load() > 0, p.broke() && p.live.Load() != nil:
			pace = b.calm()
		}
	}
	return pace
}

// waits tells whether a neighbor with a link waits for what the chain says: its
// wallet was never looked at, or it was warned, slowed or refused a short while
// ago and may have paid since.
func (b *Book) waits(p *peer) bool {
	if b.onChain() == nil {
		return p.receivable.Load() > 0 // nobody else is asked
	}
	if p.live.Load() == nil {
		return false
	}
	if b.unseen(p) {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return (p.reason.paid() || p.reason == ReasonFunds) && b.cfg.Now().Sub(p.since).Abs() < waitsFor
}

// pacer lets a few through at once, and then one in every so long.
type pacer struct {
	every time.Duration
	spent time.Duration // until when what was let through is spread
}

func (p *pacer) allow(now time.Duration) bool {
	if p.spent-now > (urgeBurst-1)*p.every {
		return false
	}
	p.spent = max(p.spent, now) + p.every
	return true
}
