package circuit

import (
	"context"
	"time"

	"cuttle/relay/wire"
)

// What comes on one circuit comes in one order, so a small request on a circuit
// that carries a download waits behind it at every relay. The schedulers of links
// serve circuits that have little to send first; so new streams go to a circuit of
// their key that carries no bulk, over the same exit, so that a destination goes on
// seeing one address. Streams stay where they began.
const (
	busyRate   = 500 // cells a second, both ways together: bulk (5 Mbit/s)
	mostToExit = 3   // circuits of one key to one exit because others are busy
)

// quiet finds a circuit of the same key to the exit of m that carries no bulk, one
// in use if there is one, or m. Then it also notes that there should be another; where
// there are as many as there may be, it is the one that carries least.
// Brief flows have one of their own beside bulk, which is in addition and kept for
// them: however many downloads there are, names do not wait behind them. Called
// with mu held.
func (p *Pool) quiet(m *member, w *Want, now time.Time) *member {
	if !m.busy() {
		return m
	}
	var used, spare, least *member
	number := 0
	for _, o := range p.members {
		if o.claimed || !p.usable(o, now) || o.exit.ID != m.exit.ID {
			continue
		}
		switch {
		case o.c.turn.wished && o.c.turn.key != m.c.turn.key:
		case o.c.turn.used.IsZero():
			spare = o
		case o.c.turn.key != m.c.turn.key || o.c.turn.detour != m.c.turn.detour || o.c.turn.brief != w.Brief:
		default:
			number++
			if used == nil && (w.Brief || !o.busy()) {
				used = o
			}
			if least == nil || o.rate < least.rate {
				least = o
			}
		}
	}
	switch {
	case used != nil:
		return used
	case number >= mostToExit:
		return least
	case spare != nil:
		spare.c.turn = m.c.turn
		spare.c.turn.used, spare.c.turn.era, spare.c.turn.brief = now, p.era, w.Brief
		p.wake() // its place is to be taken
		return spare
	case p.cfg.ChooseTo != nil:
		p.beside = &beside{m.exit.ID, turn{wished: m.c.turn.wished}}
		if m.c.turn.wished {
			p.beside.turn.key = m.c.turn.key
		}
		p.wake()
	}
	return m
}

func (m *member) busy() bool { return m.rate > busyRate }

// another says to which exit Run shall build a circuit because all others to it
// are busy.
func (p *Pool) another(now time.Time) (b beside, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.beside == nil || now.Before(p.retry) || len(p.members)+p.demands >= p.cfg.Most || !p.builds.take(now) {
		return b, false
	}
	b, p.beside = *p.beside, nil
	return b, true
}

// beside is a circuit that an exit deserves, and who it is for.
type beside struct {
	exit wire.NodeID
	turn turn
}

// buildBeside makes one circuit to an exit that is in use, over other middle relays if
// there are some. A failure costs nothing: the others are there.
func (p *Pool) buildBeside(ctx context.Context, b beside) {
	p.mu.Lock()
	begun, middles := p.renewed, p.middles(time.Now())
	p.mu.Unlock()
	path, err := p.chooseTo(b.exit, middles, false)
	if err != nil {
		return
	}
	p.finish(ctx, path, begun, b.turn)
}
