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
		state, since, _, err := p.state(circuits, began)
		if state != want || !errors.Is(err, problem) || (state == control.StateConnecting) != since.Equal(began) {
			t.Errorf("%s: got %v since %v, %v; want %v, %v", what, state, since, err, want, problem)
		}
	}
	check("nobody has answered", control.StateConnecting, nil, on(good, 1))
	silent := errors.New("silent")
	p.fail(silent)
	check("no answer", control.StateConnecting, silent, on(good, 1))
	p.note(bad, verdict{err: errOwnAddress})
	check("only an exit with our address", control.StateConnecting, errOwnAddress, on(bad, 1))
	p.note(good, verdict{addresses: []netip.Addr{netip.MustParseAddr("5.6.7.8")}})
	check("answered", control.StateUp, nil, on(good, 1), on(bad, 0))
	check("in use with our address", control.StateConnecting, errOwnAddress, on(good, 1), on(bad, 2))
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
