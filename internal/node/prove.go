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
	proveStep  = time.Second // between two looks for exits in use that have not answered yet
	provePause = time.Second // after an exit has not answered
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
}

type verdict struct {
	addresses []netip.Addr // empty: the exit does not know
	err       error
}

func (p *proof) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exits, p.since, p.failure = nil, time.Time{}, nil
}

func (p *proof) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
}

func (p *proof) note(exit wire.NodeID, v verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exits == nil {
		p.exits = make(map[wire.NodeID]verdict)
	}
	p.exits[exit], p.failure = v, nil
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
func (p *proof) state(circuits []circuit.Status, since time.Time) (control.State, time.Time, []circuit.Status, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range circuits {
		if v := p.exits[c.Hops[len(c.Hops)-1]]; c.Open && c.Streams > 0 && v.err != nil {
			return control.StateConnecting, since, circuits, v.err
		}
	}
	if p.since.IsZero() {
		return control.StateConnecting, since, circuits, p.failure
	}
	return control.StateUp, p.since, circuits, nil
}

// prove asks the first exit as soon as there is a circuit, each further one when
// it comes into use, and begins anew after there was no circuit at all.
func (c *client) prove(ctx context.Context) error {
	tick := time.NewTicker(proveStep)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.proof.reset()
		for ctx.Err() == nil && !c.proveFirst(ctx) {
			select {
			case <-time.After(provePause):
			case <-ctx.Done():
			}
		}
		for ctx.Err() == nil && c.connected() {
			for _, k := range c.onward.unproven(&c.proof) {
				c.ask(ctx, k)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}
	c.proof.reset()
	return nil
}

// connected tells whether a circuit is open.
func (c *client) connected() bool {
	_, _, circuits, _ := c.snapshot()
	return slices.ContainsFunc(circuits, func(s circuit.Status) bool { return s.Open })
}

// proveFirst waits for a circuit and asks its exit.
func (c *client) proveFirst(ctx context.Context) bool {
	k, err := c.onward.get(ctx)
	if err != nil {
		return false // the pool says why
	}
	defer k.done()
	return c.ask(ctx, k)
}

// ask has the exit of a session answer where it is; false: it did not.
func (c *client) ask(ctx context.Context, k *carried) bool {
	exit := k.exit()
	addresses, err := askExit(ctx, k.client.Exchange)
	if err != nil {
		if ctx.Err() == nil {
			c.proof.fail(fmt.Errorf("the exit does not answer: %w", err))
		}
		return false
	}
	v := verdict{addresses: addresses}
	for _, own := range ownAddresses() {
		if !own.IsLoopback() && slices.Contains(addresses, own) {
			v.err = errOwnAddress
		}
	}
	c.proof.note(exit, v)
	return true
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
		go func() { // ends with exchange, which ends with ctx
			a, err := whereIs(ctx, exchange, kind)
			replies <- reply{a, err}
		}()
	}
	var out []netip.Addr
	var failed error
	for range kinds {
		r := <-replies
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
