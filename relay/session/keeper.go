package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"cuttle/relay/wire"
)

// What Redial returns when the exit itself cannot be reached: its neighbor says that
// there is no link to it, or it does not answer over a path that has answered up to
// there. After goneAttempts of them in a row the session ends, so that its flows do
// not wait for what will not come; one alone may be a machine that is busy.
var (
	ErrExitGone = errors.New("the exit is gone")
	ErrExitMute = errors.New("the exit does not answer")
)

// Tunables of keeping a session on a carrier, docs/protocol.md section 6.1.
const (
	watchEvery = 250 * time.Millisecond
	watchIdle  = time.Second     // the same, when nothing needs the carrier
	pingAfter  = time.Second     // without anything arriving
	deadAfter  = 3 * time.Second // without anything arriving, and a PING waits

	attachDelay  = 300 * time.Millisecond // at most, before the first attempt; doubles with each
	attachMost   = 8 * time.Second        // at most, before any
	answerTime   = 2 * time.Second        // for ATTACHED
	goneAttempts = 2
	goneDelay    = attachDelay / 6 // doubles before the second of them
	closeTime    = 500 * time.Millisecond
)

// attach makes line the session's carrier; the pump sends ATTACH on it.
func (c *Client) attach(line Line, resume bool) *attachment {
	a := &attachment{
		carrier: line, answer: make(chan struct{}),
		first: wire.SessionControl{Type: wire.SessionAttach, Resume: resume, ID: c.id},
	}
	if resume {
		a.state = asking
	}
	t := &c.m.trunk
	line.Attach(t.handler(a))
	t.mu.Lock()
	acked := t.acked
	t.mu.Unlock()
	c.asked = time.Now()
	if _, err := t.adopt(a, acked); err != nil { // the session has ended
		line.Close()
	}
	return a
}

// keep has the session on a carrier until it ends: `attached -> detached ->
// attached`, and out of detached, when nothing is left to carry or nothing more
// is tried, the end.
func (c *Client) keep(a *attachment) {
	var past []time.Time // attaches of the last hour
	for {
		silent, refused := c.watch(a)
		if silent {
			gone(a.carrier)
		}
		c.m.trunk.lose(a)
		a.carrier.Close()
		switch {
		case refused != 0:
			c.m.finish(refused)
			return
		case c.ended():
			return
		case c.redial == nil || !c.needed():
			c.m.finish(wire.CodeEnded)
			return
		}
		if a, past = c.again(silent, past); a == nil {
			c.m.finish(wire.CodeEnded)
			return
		}
	}
}

func (c *Client) ended() bool {
	select {
	case <-c.m.done:
		return true
	default:
		return false
	}
}

// needed tells whether there is anything that a carrier is needed for: a stream
// that is over here may still have bytes under way, and the DNS stream is open
// for good, but counts while queries wait only.
func (c *Client) needed() bool {
	streams := c.m.count()
	if c.dns.quiet() {
		streams--
	}
	return streams > 0 || c.m.trunk.outstanding() > 0
}

// again attaches the session to another carrier: nil when it has tried as long or
// as often as it may. An attachment that is returned may still be refused.
func (c *Client) again(silent bool, past []time.Time) (*attachment, []time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), c.m.cfg.Resume)
	defer cancel()
	c.m.work.Go(func() { // ends with ctx, which ends when this returns
		select {
		case <-c.m.done:
			cancel()
		case <-ctx.Done():
		}
	})
	refusals := 0
	for delay := attachDelay; c.pause(ctx, delay); delay = min(2*delay, attachMost) {
		now := time.Now()
		for len(past) > 0 && now.Sub(past[0]) > time.Hour {
			past = past[1:]
		}
		if len(past) >= c.m.cfg.Attaches {
			return nil, past
		}
		line, err := c.redial(ctx, silent)
		if errors.Is(err, ErrExitGone) || errors.Is(err, ErrExitMute) {
			if refusals++; refusals == goneAttempts {
				return nil, past
			}
			delay = goneDelay // nothing was attached, so nobody learns from the time it takes
			continue
		}
		refusals = 0
		if err != nil {
			continue
		}
		past = append(past, now)
		a := c.attach(line, true)
		if c.answered(ctx, a) {
			return a, past
		}
		silent = true
		c.m.trunk.lose(a)
		line.Close()
	}
	return nil, past
}

// pause waits a random time of at most delay. Retry makes a long one short, but never
// none: whoever sees links come up is not to foresee when the session is attached. False
// when ctx has ended.
func (c *Client) pause(ctx context.Context, delay time.Duration) bool {
	select {
	case <-c.poke: // of a time when there was nothing to wait for
	default:
	}
	timer := time.NewTimer(rand.N(delay))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return ctx.Err() == nil
		case <-c.poke:
			if delay > attachDelay {
				delay = attachDelay
				timer.Reset(rand.N(delay))
			}
		case <-ctx.Done():
			return false
		}
	}
}

// answered waits for the exit's answer to ATTACH.
func (c *Client) answered(ctx context.Context, a *attachment) bool {
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	select {
	case <-a.answer:
		c.measured(a)
	case <-a.carrier.Done():
		return a.replied()
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
	return true
}

// measured tells the carrier, if it wants to know, how long the exit took to answer
// ATTACH: a round trip over the whole circuit.
func (c *Client) measured(a *attachment) {
	if !c.asked.IsZero() {
		measured(a.carrier, c.asked)
	}
	c.asked = time.Time{}
}

// watch waits until the carrier has ended, or has gone silent although the exit was
// asked, or the session has ended. refused is the code of its end if the exit
// refused it.
func (c *Client) watch(a *attachment) (silent bool, refused wire.Code) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	p := newPulse(&c.m.trunk, a.carrier)
	answer, idle := a.answer, false
	for {
		select {
		case <-answer:
			switch a.refusal {
			case wire.RefusalUnknown:
				return false, wire.CodeEnded
			case wire.RefusalBusy:
				return false, wire.CodeResources
			}
			answer = nil
			c.measured(a)
		case <-a.carrier.Done():
			if !a.replied() {
				return false, 0
			}
			if a.refusal != 0 {
				continue // answer is ready
			}
			return false, 0
		case <-c.m.done:
			return false, 0
		case <-ticker.C:
			if p.beat(c.needed()) {
				return true, 0
			}
			if idle != p.idle {
				if idle = p.idle; idle {
					ticker.Reset(watchIdle)
				} else {
					ticker.Reset(watchEvery)
				}
			}
		}
	}
}

// farewell tells the exit that the session is over and waits for it to close the
// carrier.
func (c *Client) farewell() {
	t := &c.m.trunk
	t.receiving.Lock()
	a := t.current
	ready := a != nil && a.state == taking
	t.receiving.Unlock()
	if !ready || c.ended() {
		return
	}
	t.signal(func(d *todo) { d.end = true })
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-a.carrier.Done():
	case <-timer.C:
	case <-c.m.done:
	}
}

// pulse notices that a carrier is silently dead. It is asked every watchEvery.
type pulse struct {
	t       *trunk
	backlog func() (queued int, taken uint64) // nil: the carrier does not say

	heard  time.Time // something arrived last, or the carrier's queue moved
	asked  time.Time // the last PING
	token  uint64    // of the first PING since packets moved; 0: none
	pinged time.Time // of the first PING since heard; zero: none
	moved  uint64    // packets and datagrams so far
	queued int       // in the carrier, at the last beat
	taken  uint64    // by the link, at the last beat
	idle   bool      // nothing needs the carrier
}

// A line may say how many cells of its own wait to be sent and how many the link
// has taken so far. As long as some wait and others are taken, it is the first
// link that is slow, and silence does not mean death.
type backlogger interface {
	Backlog() (queued int, taken uint64)
}

func newPulse(t *trunk, c Carrier) *pulse {
	now := time.Now()
	p := &pulse{t: t, heard: now}
	if b, ok := c.(backlogger); ok {
		p.backlog = b.Backlog
	}
	return p
}

// beat looks and asks, and tells whether the carrier is dead.
func (p *pulse) beat(needed bool) bool {
	now := time.Now()
	t := p.t
	if moved := t.next.Load() + t.received.Load() + t.loose.Load(); moved != p.moved {
		p.moved, p.token = moved, 0
	}
	if t.heard.Swap(false) || p.advancing() {
		p.heard, p.pinged = now, time.Time{}
	}
	// An answer to a question put after the last packet says that nothing is
	// missing; until something moves again there is nothing to ask.
	quiet := p.token != 0 && t.replied(p.token) && t.outstanding() == 0
	if p.idle = !needed || quiet; p.idle {
		p.heard, p.pinged = now, time.Time{}
		t.trim()
		t.settle()
		return false
	}
	silence := now.Sub(p.heard)
	if !p.pinged.IsZero() && silence >= deadAfter && now.Sub(p.pinged) >= deadAfter-pingAfter {
		return true
	}
	if silence >= pingAfter && now.Sub(p.asked) >= pingAfter {
		if p.pinged.IsZero() {
			p.pinged = now
			t.settle()
		}
		p.asked = now
		if token := t.ask(); p.token == 0 {
			p.token = token
		}
	}
	return false
}

func (p *pulse) advancing() bool {
	if p.backlog == nil {
		return false
	}
	queued, taken := p.backlog()
	moving := p.queued > 0 && queued > 0 && taken != p.taken
	p.queued, p.taken = queued, taken
	return moving
}

// ask has a PING sent and returns its token.
func (t *trunk) ask() uint64 {
	t.receiving.Lock()
	defer t.receiving.Unlock()
	t.asked++
	t.askedAt = time.Now()
	t.signal(func(d *todo) { d.ping = true })
	return t.asked
}

// replied tells whether the PONG to that PING, or a later one, has come.
func (t *trunk) replied(token uint64) bool {
	t.receiving.Lock()
	defer t.receiving.Unlock()
	return t.answered >= token
}

// settle tells the peer what it does not know yet to have arrived.
func (t *trunk) settle() {
	t.receiving.Lock()
	defer t.receiving.Unlock()
	if t.received.Load() > t.told {
		t.tell()
	}
}
