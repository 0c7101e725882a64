package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/wire"
)

// answering plays an exit that has these addresses.
func answering(addresses ...string) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, query []byte) ([]byte, error) {
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			return nil, err
		}
		m.Response = true
		for _, text := range addresses {
			a := netip.MustParseAddr(text)
			head := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET}
			switch {
			case a.Is4() && m.Questions[0].Type == dnsmessage.TypeA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
			case a.Is6() && m.Questions[0].Type == dnsmessage.TypeAAAA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
		return m.Pack()
	}
}

func TestAskExit(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name     string
		exchange func(context.Context, []byte) ([]byte, error)
		want     string
		fails    bool
	}{
		{"both families", answering("2a00::7", "5.6.7.8"), "[5.6.7.8 2a00::7]", false},
		{"one", answering("5.6.7.8"), "[5.6.7.8]", false},
		{"none", answering(), "[]", false},
		{"no answer", func(context.Context, []byte) ([]byte, error) { return nil, broken }, "[]", true},
		{"garbage", func(context.Context, []byte) ([]byte, error) { return []byte{1, 2, 3}, nil }, "[]", true},
		{"the question itself", func(_ context.Context, q []byte) ([]byte, error) { return q, nil }, "[]", true},
	} {
		got, err := askExit(t.Context(), c.exchange)
		if fmt.Sprint(got) != c.want || (err != nil) != c.fails {
			t.Errorf("%s: got %v, %v; want %s, an error: %v", c.name, got, err, c.want, c.fails)
		}
	}
}

// TestProofState: up needs an answer, and no flow may go through an exit that has
// our address.
func TestProofState(t *testing.T) {
	good, bad := wire.NodeID{1}, wire.NodeID{2}
	on := func(exit wire.NodeID, streams int) circuit.Status {
		return circuit.Status{Hops: []wire.NodeID{{9}, exit}, Open: true, Streams: streams}
	}
	p, began := new(proof), time.Unix(5, 0)
	check := func(what string, want control.State, problem error, circuits ...circuit.Status) {
		t.Helper()
		state, since, err := p.state(circuits, began)
		if state != want || !errors.Is(err, problem) || (state == control.StateConnecting) != since.Equal(began) {
			t.Errorf("%s: got %v since %v, %v; want %v, %v", what, state, since, err, want, problem)
		}
	}
	check("nobody has answered", control.StateConnecting, nil, on(good, 1))
	silent := errors.New("silent")
	p.fail(silent)
	p.shun(good)
	check("no answer", control.StateConnecting, silent, on(good, 1))
	if got := p.shunned(); !slices.Equal(got, []wire.NodeID{good}) {
		t.Errorf("avoided: %d exits, want the one that has not answered", len(got))
	}
	p.note(bad, verdict{err: errOwnAddress})
	check("only an exit with our address", control.StateConnecting, errOwnAddress, on(bad, 1))
	p.note(good, verdict{addresses: []netip.Addr{netip.MustParseAddr("5.6.7.8")}})
	check("answered", control.StateUp, nil, on(good, 1), on(bad, 0))
	check("in use with our address", control.StateConnecting, errOwnAddress, on(good, 1), on(bad, 2))
	if got := p.shunned(); !slices.Equal(got, []wire.NodeID{bad}) {
		t.Errorf("avoided: %d exits, want the one that has our address", len(got))
	}
	if got := p.seen(good.String()); !slices.Equal(got, []string{"5.6.7.8"}) {
		t.Errorf("seen: %v", got)
	}
	p.reset()
	check("after all circuits were lost", control.StateConnecting, nil, on(good, 1))
}

// TestProve has a client ask a real exit over three hops, and again after it had
// no circuit at all.
func TestProve(t *testing.T) {
	nw := newNetwork(t, "plain")
	nw.pool()
	c := nw.nodes["c"].client
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.prove(ctx) }() // ends with stop
	await := func(what string, want bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			c.proof.mu.Lock()
			proved := !c.proof.since.IsZero()
			c.proof.mu.Unlock()
			if proved == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: proved %v, want %v\n%s", what, proved, want, nw.logs)
			}
		}
	}
	await("with a circuit", true)
	nw.stop["r2"]()
	await("without one", false)
	nw.start("r2")
	await("with one again", true)
	if strings.Contains(nw.logs.String(), "exit.cuttle") {
		t.Error("a log names what was asked")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("end: %v", err)
	}
}

// TestProveAnother: when the exit that is asked does not answer, another one is, and
// flows go by that one.
func TestProveAnother(t *testing.T) {
	nw := mesh(t, "x1", "x2")
	c := nw.nodes["c"].client
	x1, x2 := nw.nodes["x1"].id.ID, nw.nodes["x2"].id.ID
	if err := c.reroute(0, []string{x1.String(), x2.String()}); err != nil { // x2 only if x1 will not do
		t.Fatal(err)
	}
	nw.linked(10)
	nw.nodes["x1"].sessions.Close() // it lets circuits end there, and serves nobody
	nw.pool()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.prove(ctx) }() // ends with stop
	up := func() (state control.State) {
		state, _, _ = c.proof.state(nil, time.Time{})
		return state
	}
	silent := false // until it is, nothing else may have proved anything
	for deadline := time.Now().Add(2 * time.Minute); up() != control.StateUp; time.Sleep(time.Millisecond) {
		silent = silent || len(c.proof.shunned()) > 0
		if time.Now().After(deadline) {
			t.Fatalf("no exit was asked but the one that does not answer\n%s", nw.logs)
		}
	}
	silent = silent || slices.Contains(c.proof.shunned(), x1) // this goroutine may have looked too seldom
	if !silent || c.proof.known(x1) || !c.proof.known(x2) {
		t.Errorf("x1 was found silent: %v, has answered: %v; x2 has: %v", silent, c.proof.known(x1), c.proof.known(x2))
	}
	if w, err := c.onward.want(flowTo("127.0.0.1:80"), ownerTCP); err != nil || !slices.Equal(w.Not, []wire.NodeID{x1}) {
		t.Errorf("flows avoid %d exits, %v; want x1", len(w.Not), err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("end: %v", err)
	}
}
