package circuit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// What GetTo's error is when the exit's neighbor says that it has no link to the
// exit, and when the exit does not answer over a path that does up to there.
var (
	ErrExitGone = errors.New("the exit is gone")
	ErrExitMute = errors.New("the exit does not answer")
)

// toAgain bounds the builds after a refused one, before the session waits.
const toAgain = 2

var errNotOffered = errors.New("get circuit: this pool finds no paths to a given exit")

// GetTo returns a circuit to the exit of lost that nobody uses, for a session
// that has lost its own, and begins a use of it. Get gives it to nobody before
// Offer. Of the circuits that are ready it takes the one that shares fewest
// relays with the lost one; if there is none it builds one around those relays,
// or, when there is no such path, over them. silent tells that the lost circuit
// was not closed but went silent: then what shares a relay with it is likely to
// be as dead, and is used only when nothing else can be had; and the exit may be
// dead itself, which only a build tells, hop by hop.
func (p *Pool) GetTo(ctx context.Context, lost *Circuit, silent bool) (*Circuit, error) {
	if !silent {
		if c := p.claim(lost, len(lost.hops)); c != nil { // whatever is still open will do
			return c, nil
		}
	}
	relays := lost.hops[:len(lost.hops)-1]
	c, err := p.buildTo(ctx, lost, relays, silent)
	for range toAgain { // a refusal came fast and names who is to be avoided
		var at *BuildError
		if errors.Is(err, ErrExitGone) || errors.Is(err, ErrExitMute) || !errors.As(err, &at) || at.Reason == 0 {
			break
		}
		c, err = p.buildTo(ctx, lost, relays, silent)
	}
	if err == nil {
		return c, nil
	}
	if silent && !errors.Is(err, ErrExitMute) {
		if c := p.claim(lost, len(lost.hops)); c != nil {
			return c, nil
		}
	}
	return nil, err
}

// Offer lets Get give out a circuit that GetTo has returned.
func (p *Pool) Offer(c *Circuit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		if m.c == c {
			m.claimed = false
		}
	}
}

// claim takes an unused circuit to the exit of lost that shares at most so many
// relays with it, nil if there is none.
func (p *Pool) claim(lost *Circuit, most int) *Circuit {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *member
	for _, m := range p.members {
		if m.c.turn.wished && m.c.turn.key != lost.turn.key || !m.c.turn.used.IsZero() || m.old || !alive(m.c) || m.c.Exit() != lost.Exit() {
			continue
		}
		if n := sharedRelays(m.c, lost); n <= most {
			best, most = m, n-1
		}
	}
	if best == nil {
		return nil
	}
	best.claimed, best.c.turn, best.old = true, lost.turn, lost.turn.era != p.era
	best.c.users.Add(1)
	p.wake()
	return best.c
}

func sharedRelays(a, b *Circuit) (n int) {
	for _, id := range a.hops[:len(a.hops)-1] {
		if slices.Contains(b.hops, id) {
			n++
		}
	}
	return n
}

// buildTo makes a circuit to the exit of lost, without the nodes of avoid if there is such a
// path, and claims it.
func (p *Pool) buildTo(ctx context.Context, lost *Circuit, avoid []wire.NodeID, silent bool) (*Circuit, error) {
	if p.cfg.ChooseTo == nil {
		return nil, errNotOffered
	}
	path, err := p.chooseTo(lost.Exit(), avoid, silent)
	if err != nil {
		return nil, err
	}
	build := p.cfg.Build
	if silent && p.cfg.Probe != nil {
		build = p.cfg.Probe
	}
	c, err := build(ctx, path)
	if err != nil {
		if ctx.Err() == nil {
			p.blame(path, err, time.Now())
		}
		if errors.Is(err, errMute) {
			// The hop before may be what keeps the exit from answering.
			p.mu.Lock()
			p.avoidLocked(path[len(path)-2].ID, false, time.Now())
			p.mu.Unlock()
			return nil, fmt.Errorf("%w: %w", ErrExitMute, err)
		}
		var at *BuildError
		if errors.As(err, &at) && at.Hop > 0 && at.Hop == len(path)-1 && at.Reason == wire.ReasonNotConnected {
			return nil, fmt.Errorf("%w: %w", ErrExitGone, err)
		}
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		c.Close()
		return nil, ErrClosed
	}
	c.users.Add(1)
	c.turn = lost.turn
	p.add(&member{c: c, exit: path[len(path)-1], claimed: true, old: c.turn.era != p.era})
	p.wake()
	return c, nil
}

// chooseTo finds a path to an exit, see around.
func (p *Pool) chooseTo(exit wire.NodeID, lost []wire.NodeID, silent bool) ([]*netmap.Record, error) {
	failed := slices.DeleteFunc(p.avoided(time.Now()), func(id wire.NodeID) bool { return id == exit })
	return p.around(lost, failed, silent, func(avoid []wire.NodeID) ([]*netmap.Record, error) { return p.cfg.ChooseTo(exit, avoid) })
}

// chooseAhead finds a path for a circuit to be kept ready: to another exit than all
// those that are ready, if there is one, and over other middle relays than those of all
// that may be used, since they may all go at once.
func (p *Pool) chooseAhead(now time.Time) ([]*netmap.Record, error) {
	failed := p.avoided(now)
	p.mu.Lock()
	exit, only := p.onlyExit(now)
	middles := p.middles(now)
	p.mu.Unlock()
	if only && p.cfg.ChooseElse != nil {
		if path, err := p.chooseElse(exit, middles, failed); err == nil {
			return path, nil
		}
	}
	return p.around(middles, failed, false, p.cfg.Choose)
}

// chooseElse finds a path to another exit, best without the middles.
func (p *Pool) chooseElse(exit wire.NodeID, middles, failed []wire.NodeID) ([]*netmap.Record, error) {
	if len(middles) > 0 {
		if path, err := p.cfg.ChooseElse(exit, slices.Concat(middles, failed)); err == nil {
			return path, nil
		}
	}
	return p.cfg.ChooseElse(exit, failed)
}

// middles lists the relays between guard and exit of all circuits that may be used.
// Called with mu held.
func (p *Pool) middles(now time.Time) (ids []wire.NodeID) {
	for _, m := range p.members {
		if hops := m.c.hops; p.usable(m, now) && len(hops) > 2 {
			ids = append(ids, hops[1:len(hops)-1]...)
		}
	}
	return ids
}

// onlyExit tells whether all circuits that may be used end at one exit, and at which.
// Called with mu held.
func (p *Pool) onlyExit(now time.Time) (exit wire.NodeID, only bool) {
	for _, m := range p.members {
		if !p.usable(m, now) || m.c.turn.wished {
			continue
		}
		if only && m.exit.ID != exit {
			return exit, false
		}
		exit, only = m.exit.ID, true
	}
	return exit, only
}

// roomLeft tells whether there are fewer circuits than there may be. Called with mu
// held.
func (p *Pool) roomLeft() bool { return len(p.members)+p.demands < p.cfg.Most }

// alone tells whether to look for another exit, now and then, since none could be
// reached when the circuits were built, and which one it is not to be.
func (p *Pool) alone(now time.Time) (exit wire.NodeID, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg.ChooseElse == nil || now.Before(p.alike) || !p.roomLeft() {
		return exit, false
	}
	if exit, ok = p.onlyExit(now); !ok {
		return exit, false
	}
	p.alike = now.Add(avoidTime)
	return exit, p.builds.take(now)
}

// buildElse makes one circuit to another exit. A failure costs nothing; it is tried
// again soon, or once the first of the nodes in the way is no more avoided, since
// relays that have just started may have no link to each other yet.
func (p *Pool) buildElse(ctx context.Context, exit wire.NodeID) {
	now := time.Now()
	p.mu.Lock()
	begun, middles := p.renewed, p.middles(now)
	p.mu.Unlock()
	path, err := p.chooseElse(exit, middles, p.avoided(now))
	if err == nil && p.finish(ctx, path, begun, turn{}) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.alike = time.Now().Add(apartTime)
		return
	}
	p.builds.give()
	for _, f := range p.avoid {
		if now.Before(f.until) && f.until.Before(p.alike) {
			p.alike = f.until
		}
	}
}

// finish makes a circuit that is not urgent, and adds it for whom turn says; false: it
// could not be built.
func (p *Pool) finish(ctx context.Context, path []*netmap.Record, begun int, turn turn) bool {
	c, err := p.cfg.Build(ctx, path)
	if err != nil {
		if ctx.Err() == nil {
			p.blame(path, err, time.Now())
		}
		return false
	}
	if p.cfg.Opened != nil {
		p.cfg.Opened(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.turn = turn
	p.add(&member{c: c, exit: path[len(path)-1], old: p.renewed != begun})
	return true
}
