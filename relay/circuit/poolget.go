package circuit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// demandMost bounds the builds for wants that no circuit serves, at a time;
// demandPause is between attempts to have one.
const (
	demandMost  = 4
	demandPause = 500 * time.Millisecond
)

// ErrCrowded is what Get's error is when all circuits that there may be are in use
// by flows that do not share theirs.
var ErrCrowded = errors.New("as many isolated circuits are in use as there may be")

// Get returns a circuit that serves the want, at once if one is ready: the one
// that flows of its key use at present, so that a destination sees one exit at a
// time. The caller calls Release on it when its stream is over. When ctx ends
// first, or there is no path that would do, the error says why.
func (p *Pool) Get(ctx context.Context, w Want) (*Circuit, error) {
	refused := 0
	for {
		c, changed, demand, err := p.take(time.Now(), &w)
		if c != nil || err != nil {
			return c, err
		}
		if demand {
			err := p.buildFor(ctx, w)
			var at *BuildError
			switch {
			case err == nil:
			case refused < toAgain && ctx.Err() == nil && errors.As(err, &at) && at.Reason != 0:
				refused++ // it came fast, and names who is to be avoided
			case len(w.Exits) > 0 && errors.Is(err, netmap.ErrNoGuard):
				select { // nobody has a circuit then
				case <-time.After(demandPause):
				case <-ctx.Done():
					return nil, fmt.Errorf("get circuit: %w (%w)", err, ctx.Err())
				}
			default:
				return nil, fmt.Errorf("get circuit: %w", err)
			}
			continue
		}
		again := time.NewTimer(demandPause)
		select {
		case <-changed:
		case <-again.C: // one may be built for this want by now
		case <-ctx.Done():
			err = p.why(ctx.Err())
		}
		again.Stop()
		p.mu.Lock()
		p.waiting--
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// take picks a circuit and begins a use of it, or returns what to wait for and
// counts the caller as waiting, or tells that one is to be built on demand, which
// is then counted.
func (p *Pool) take(now time.Time, w *Want) (c *Circuit, changed <-chan struct{}, demand bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil, nil, false, fmt.Errorf("get circuit: %w", ErrClosed)
	}
	best, spares, unfit := p.find(now, w)
	if best == nil {
		best = p.ratings.draw(spares)
	}
	if best != nil {
		if best.c.turn.used.IsZero() {
			best.c.turn = turn{key: w.Key, used: now, era: p.era, detour: len(w.Not) > 0, wished: len(w.Exits) > 0}
			p.met(w.Key)
			p.wake() // its retirement is to be planned, and its place to be taken
		}
		best = p.quiet(best, w, now)
		best.c.users.Add(1)
		return best.c, nil, false, nil
	}
	if !p.room(now) {
		p.failure = ErrCrowded
		p.waiting++
		return nil, p.changed, false, nil
	}
	p.wake()
	// One build at a time for flows that share circuits to exits of their own: others
	// of the key would get circuits that nobody else is given.
	if !w.plain() && p.cfg.ChooseFor != nil && !(len(w.Exits) > 0 && p.wishes[w.Key]) && (unfit || len(w.Exits) > 0 || p.failure == nil && !p.short(now)) && p.demands < demandMost && p.builds.take(now) {
		p.demands++
		if len(w.Exits) > 0 {
			p.wishes[w.Key] = true
		}
		return nil, nil, true, nil
	}
	p.waiting++
	return nil, p.changed, false, nil
}

// find looks for the circuit that the want's key uses, oldest first, or that was built
// for it, and for those nobody has used. unfit tells that there are circuits ready, but none that
// serves it. Called with mu held.
func (p *Pool) find(now time.Time, w *Want) (best *member, spares []*member, unfit bool) {
	var made *member
	for _, m := range p.members {
		if m.claimed || !p.usable(m, now) {
			continue
		}
		t := &m.c.turn
		unused := t.used.IsZero()
		switch {
		case t.wished && t.key != w.Key:
		case !w.fits(m.exit):
			unfit = unfit || unused
		case t.detour && len(w.Not) == 0 || t.brief:
		case unused && t.wished:
			made = m
		case unused && !w.best(m.exit):
			unfit = true
		case unused:
			spares = append(spares, m)
		case t.key == w.Key && (best == nil || t.used.Before(best.c.turn.used)):
			best = m
		}
	}
	if best == nil {
		best = made
	}
	return best, spares, unfit && len(spares) == 0
}

// met lets a key that is new have its circuit built beyond the lasting rate: it
// bounds what others can make us build by closing circuits, not what programs
// here ask for. Called with mu held.
func (p *Pool) met(k Key) {
	if p.known[k] {
		return
	}
	if len(p.known) >= 16*p.cfg.Most {
		clear(p.known)
	}
	p.known[k] = true
	p.builds.give()
}

// room tells whether one more circuit may be built, and if not retires the one
// that was idle for longest. Called with mu held.
func (p *Pool) room(now time.Time) bool {
	return len(p.members)+p.demands < p.cfg.Most || p.makeRoom(now, false)
}

// makeRoom retires the circuit that was idle for longest, used: of those that were
// used. It tells whether there was one. Called with mu held.
func (p *Pool) makeRoom(now time.Time, used bool) bool {
	var idle *member
	for _, m := range p.members {
		if used && m.c.turn.used.IsZero() {
			continue
		}
		if m.c.users.Load() == 0 && !m.claimed && p.usable(m, now) && (idle == nil || m.c.turn.used.Before(idle.c.turn.used)) {
			idle = m
		}
	}
	if idle == nil {
		return false
	}
	idle.old = true
	p.wake()
	return true
}

// short tells whether a circuit is missing: there are to be so many to use, one of
// them in use at most. Called with mu held.
func (p *Pool) short(now time.Time) bool {
	if len(p.members)+p.demands >= p.cfg.Most {
		return false
	}
	usable, unused := 0, 0
	for _, m := range p.members {
		if p.usable(m, now) {
			usable++
			if m.c.turn.used.IsZero() && !m.c.turn.wished {
				unused++
			}
		}
	}
	return usable < p.cfg.Ready || unused < p.cfg.Ready-1
}

func (p *Pool) usable(m *member, now time.Time) bool {
	since := m.c.turn.used
	if m.c.turn.wished && since.IsZero() { // only its key may use it
		since = m.c.created
	}
	return !m.old && alive(m.c) && (since.IsZero() || now.Sub(since) < p.cfg.Lifetime)
}

// buildFor makes a circuit that serves the want, or says why there is none.
func (p *Pool) buildFor(ctx context.Context, w Want) error {
	p.mu.Lock()
	begun := p.renewed
	p.mu.Unlock()
	path, err := p.around(nil, p.avoided(time.Now()), false, func(avoid []wire.NodeID) ([]*netmap.Record, error) { return p.cfg.ChooseFor(w, avoid) })
	var c *Circuit
	chosen := err == nil
	if chosen {
		if c, err = p.cfg.Build(ctx, path); err != nil && ctx.Err() == nil {
			p.blame(path, err, time.Now())
		}
	}
	if err == nil && p.cfg.Opened != nil {
		p.cfg.Opened(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.demands--
	if len(w.Exits) > 0 {
		delete(p.wishes, w.Key)
	}
	if !chosen {
		p.builds.give()
	}
	if err != nil {
		return err
	}
	if p.stopped {
		c.Close()
		return ErrClosed
	}
	c.turn.detour = len(w.Not) > 0
	if len(w.Exits) > 0 {
		c.turn.key, c.turn.wished = w.Key, true
	}
	p.add(&member{c: c, exit: path[len(path)-1], old: p.renewed != begun})
	return nil
}

// Renew has new flows use new circuits: those in use get no new ones and end when
// the last flow on them does. all: those that nobody has used are replaced, too,
// since other paths are wanted.
func (p *Pool) Renew(all bool) {
	p.mu.Lock()
	p.era++
	p.beside = nil
	for _, m := range p.members {
		if !m.old && (all || !m.c.turn.used.IsZero()) {
			m.old = true
			p.builds.give() // it is our own wish, see met
		}
	}
	if all {
		p.renewed++
		p.retry, p.fails, p.failure = time.Time{}, 0, nil
	}
	p.mu.Unlock()
	p.wake()
}

// died notes that a circuit has ended that was not to. Called with mu held.
func (p *Pool) died(c *Circuit) {
	for _, id := range c.hops {
		p.ratings.note(id, false)
	}
}

// sample measures what circuits in use carry. Called with mu held.
func (p *Pool) sample(now time.Time) {
	past := now.Sub(p.sampled)
	if past < sampleTime {
		return
	}
	for _, m := range p.members {
		s := m.c.Status()
		if s.Streams > 0 && past < 2*sampleTime {
			p.ratings.carried(m.c.hops, float64(s.Received-m.cells)/past.Seconds())
		}
		if m.c.taken.Swap(false) {
			p.ratings.took(m.c, m.c.Trip())
		}
		all := s.Sent + s.Received
		m.rate = float64(all-m.carried) / past.Seconds()
		m.cells, m.carried = s.Received, all
	}
	p.sampled = now
}
