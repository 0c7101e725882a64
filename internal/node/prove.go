package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/wire"
)

// exitName is answered by the exit itself: under which addresses destinations see
// it (docs/protocol.md, "Where an exit is").
const exitName = "exit.cuttle."

const (
	proveStep  = time.Second      // between two looks for exits in use that have not answered yet
	proveTime  = 5 * time.Second  // for an exit's answer
	provePause = time.Second      // after all have been asked and none was good; doubles
	proveMost  = 30 * time.Second // at most
	shunTime   = 2 * time.Minute  // how long flows avoid an exit that has not answered
	shunMost   = 16               // of those remembered
)

// errOwnAddress says that an exit is seen under an address of this machine.
var errOwnAddress = errors.New("the exit has an address of this machine, so destinations would see who you are")

// proof is what exits have answered since the capture began. The client is up
// only when one has, through a session and so authenticated, and none that
// carries anything has an address of this machine.
type proof struct {
	mu      sync.Mutex // guards the fields below
	exits   map[wire.NodeID]verdict
	since   time.Time // of the first good verdict
	failure error     // of the last attempt, nil after a success
	silent  []refusal // exits that have not answered lately, the oldest first
}

type verdict struct {
	addresses []netip.Addr // empty: the exit does not know
	err       error
}

func (p *proof) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exits, p.since, p.failure, p.silent = nil, time.Time{}, nil, nil
}

func (p *proof) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
}

// shun has flows avoid an exit that has not answered.
func (p *proof) shun(exit wire.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = slices.DeleteFunc(p.silent, func(r refusal) bool { return r.exit == exit })
	if len(p.silent) >= shunMost {
		p.silent = p.silent[1:]
	}
	p.silent = append(p.silent, refusal{exit, time.Now()})
}

// shunned are the exits that have not answered lately, or have an address of ours.
func (p *proof) shunned() (out []wire.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, v := range p.exits {
		if v.err != nil {
			out = append(out, id)
		}
	}
	for _, r := range p.silent {
		if time.Since(r.at) < shunTime {
			out = append(out, r.exit)
		}
	}
	return out
}

func (p *proof) note(exit wire.NodeID, v verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exits == nil {
		p.exits = make(map[wire.NodeID]verdict)
	}
	p.exits[exit], p.failure = v, nil
	p.silent = slices.DeleteFunc(p.silent, func(r refusal) bool { return r.exit == exit })
	if v.err == nil && p.since.IsZero() {
		p.since = time.Now()
	}
}

func (p *proof) known(exit wire.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.exits[exit]
	return ok
}

// seen are the addresses of an exit, by its address in text form.
func (p *proof) seen(exit string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []string{}
	for id, v := range p.exits {
		if id.String() != exit {
			continue
		}
		for _, a := range v.addresses {
			out = append(out, a.String())
		}
	}
	return out
}

// state tells whether circuits, of which one is open, carry traffic for sure.
func (p *proof) state(circuits []circuit.Status, since time.Time) (control.State, time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range circuits {
		if v := p.exits[c.Hops[len(c.Hops)-1]]; c.Open && c.Streams > 0 && v.err != nil {
			return control.StateConnecting, since, v.err
		}
	}
	if p.since.IsZero() {
		return control.StateConnecting, since, p.failure
	}
	return control.StateUp, p.since, nil
}

// prove asks exits as soon as there is a circuit, until one has answered; each further
// one when it comes into use; and begins anew after there was no circuit at all.
func (c *client) prove(ctx context.Context) error {
	tick := time.NewTicker(proveStep)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.proof.reset()
		c.proveFirst(ctx)
		for ctx.Err() == nil && c.connected() {
			var asked sync.WaitGroup
			for _, k := range c.onward.unproven(&c.proof) {
				asked.Go(func() { _ = c.ask(ctx, k) }) // ends with proveTime
			}
			asked.Wait()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}
	c.proof.reset()
	return nil
}

// connected tells whether a circuit is open that is not for flows with a wish of their own.
func (c *client) connected() bool {
	_, _, circuits, _ := c.snapshot()
	return slices.ContainsFunc(circuits, func(s circuit.Status) bool { return s.Open && !s.Wished })
}

// proveFirst asks one exit after the other until one has answered that has no address
// of ours, or ctx ends.
func (c *client) proveFirst(ctx context.Context) {
	wait := func(pause time.Duration) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	var failed []wire.NodeID
	for pause := provePause; ctx.Err() == nil; {
		w := circuit.Want{Not: failed}
		if len(failed) > 0 && c.other(w) != nil { // all have been asked
			wait(pause)
			pause = min(2*pause, proveMost)
			failed, w.Not = nil, nil
		}
		k, on, err := c.onward.getFor(ctx, w)
		if err != nil {
			failed = nil
			wait(provePause) // the pool says why
			continue
		}
		exit := on.Exit()
		err = c.ask(ctx, k)
		k.done()
		if err == nil {
			return
		}
		failed = append(failed, exit)
	}
}

// ask has the exit of a session answer where it is. An error: it does not, or has an
// address of ours.
func (c *client) ask(ctx context.Context, k *carried) error {
	exit := k.exit()
	bounded, cancel := context.WithTimeout(ctx, proveTime)
	defer cancel()
	addresses, err := askExit(bounded, k.client.Exchange)
	if err != nil {
		if ctx.Err() == nil {
			c.proof.fail(fmt.Errorf("the exit does not answer: %w", err))
			if bounded.Err() != nil { // else it was the session that has ended
				c.proof.shun(exit)
			}
		}
		return err
	}
	v := verdict{addresses: addresses}
	for _, own := range ownAddresses() {
		if !own.IsLoopback() && slices.Contains(addresses, own) {
			v.err = errOwnAddress
		}
	}
	c.proof.note(exit, v)
	return v.err
}

// exit is the last hop of the circuit that a session is on.
func (k *carried) exit() wire.NodeID {
	k.mu.Lock()
	defer k.mu.Unlock()
	hops := k.circuit.Status().Hops
	return hops[len(hops)-1]
}

// unproven are sessions in use whose exit has not answered yet.
func (o *onward) unproven(p *proof) []*carried {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*carried
	for _, k := range o.sessions {
		if !p.known(k.exit()) {
			out = append(out, k)
		}
	}
	return out
}

// askExit puts both questions at once, so that they take one round trip. Whatever
// the exit answers proves the session; the addresses are those it names.
func askExit(ctx context.Context, exchange func(context.Context, []byte) ([]byte, error)) ([]netip.Addr, error) {
	type reply struct {
		address netip.Addr
		err     error
	}
	kinds := []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}
	replies := make(chan reply, len(kinds))
	for _, kind := range kinds {
		go func() { // ends with exchange, which ends with ctx or the session
			a, err := whereIs(ctx, exchange, kind)
			replies <- reply{a, err}
		}()
	}
	var out []netip.Addr
	var failed error
	for range kinds {
		var r reply
		select {
		case r = <-replies:
		case <-ctx.Done(): // an exchange that cannot even be sent ends with its session
			return nil, ctx.Err()
		}
		failed = errors.Join(failed, r.err)
		if r.address.IsValid() {
			out = append(out, r.address)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, failed
}

// whereIs gives the address in the answer to one question, or none.
func whereIs(ctx context.Context, exchange func(context.Context, []byte) ([]byte, error), kind dnsmessage.Type) (netip.Addr, error) {
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32())},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(exitName), Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("build query: %w", err)
	}
	answer, err := exchange(ctx, packed)
	if err != nil {
		return netip.Addr{}, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil || !m.Response {
		return netip.Addr{}, errors.New("its answer cannot be read")
	}
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A), nil
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA).Unmap(), nil
		}
	}
	return netip.Addr{}, nil
}
