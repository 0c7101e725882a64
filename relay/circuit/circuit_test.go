package circuit

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/wire"
)

// TestTransfersBothWays moves packets of all sizes and both classes through one
// to six hops, both ways at the same time, and checks every byte.
func TestTransfersBothWays(t *testing.T) {
	const packets = 3000
	for hops := 1; hops <= wire.MaxHops; hops++ {
		t.Run(fmt.Sprintf("%d hops", hops), func(t *testing.T) {
			up := newVerifier(packets)
			var sending sync.WaitGroup
			defer sending.Wait()
			down := newVerifier(packets)
			tn := newNet(t, hops+1, func(i int, cfg *SwitchConfig) {
				if i != hops {
					return
				}
				cfg.Serve = func(x *Terminal) (Handler, error) {
					sending.Go(func() {
						if err := sendPackets(x, packets); err != nil {
							t.Errorf("exit: %v", err)
						}
					})
					return up.handle, nil
				}
			})
			tn.chain()
			c := tn.mustBuild(upTo(hops)...)
			c.Attach(down.handle)
			if err := sendPackets(c, packets); err != nil {
				t.Fatal(err)
			}
			if err := wait(t, up.done, "end of upload"); err != nil {
				t.Errorf("upload: %v", err)
			}
			if err := wait(t, down.done, "end of download"); err != nil {
				t.Errorf("download: %v", err)
			}
			checkCounts(t, tn, hops)
			if s := c.Status(); !s.Open || len(s.Hops) != hops || s.Sent < packets || s.Received < packets {
				t.Errorf("status %+v", s)
			}
			c.Close()
			for i := 1; i <= hops; i++ {
				waitClosed(t, tn.nodes[i].sw)
			}
		})
	}
}

// checkCounts compares both ends' cell counts of every link, once the last
// cells have been counted.
func checkCounts(t *testing.T, tn *testNet, hops int) {
	t.Helper()
	settle := func(equal func() bool) {
		for deadline := time.Now().Add(10 * time.Second); !equal() && time.Now().Before(deadline); {
			runtime.Gosched()
		}
	}
	for i := range hops {
		la, lb := tn.nodes[i].link(tn.nodes[i+1].cfg.ID), tn.nodes[i+1].link(tn.nodes[i].cfg.ID)
		settle(func() bool {
			a, b := la.Status().Cells, lb.Status().Cells
			return a[link.Sent][link.WePay] == b[link.Received][link.TheyPay] && a[link.Received][link.WePay] == b[link.Sent][link.TheyPay]
		})
		a := la.Status().Cells
		b := lb.Status().Cells
		if a[link.Sent][link.WePay] != b[link.Received][link.TheyPay] {
			t.Errorf("link %d: sent %d, the neighbor received %d", i, a[link.Sent][link.WePay], b[link.Received][link.TheyPay])
		}
		if a[link.Received][link.WePay] != b[link.Sent][link.TheyPay] {
			t.Errorf("link %d: received %d, the neighbor sent %d", i, a[link.Received][link.WePay], b[link.Sent][link.TheyPay])
		}
	}
}

func TestBuildRefusals(t *testing.T) {
	serve := func(*Terminal) (Handler, error) { return func(byte, wire.Class, []byte) error { return nil }, nil }
	for name, test := range map[string]struct {
		change func(i int, cfg *SwitchConfig)
		hops   []int
		links  [][2]int
		want   BuildError
	}{
		"first hop not connected":  {nil, []int{2}, [][2]int{{0, 1}, {1, 2}}, BuildError{Hop: 0, Reason: wire.ReasonNotConnected}},
		"second hop not connected": {nil, []int{1, 3}, [][2]int{{0, 1}, {1, 2}}, BuildError{Hop: 1, Reason: wire.ReasonNotConnected}},
		"third hop not connected":  {nil, []int{1, 2, 3}, [][2]int{{0, 1}, {1, 2}}, BuildError{Hop: 2, Reason: wire.ReasonNotConnected}},
		"first hop serves nobody": {func(i int, cfg *SwitchConfig) { cfg.Relay = i != 1 }, []int{1, 2}, [][2]int{{0, 1}, {1, 2}},
			BuildError{Hop: 0, Reason: wire.ReasonNotServed}},
		"first hop is exit only": {func(i int, cfg *SwitchConfig) {
			if i == 1 {
				cfg.Relay, cfg.Serve = false, serve
			}
		}, []int{1, 2}, [][2]int{{0, 1}, {1, 2}}, BuildError{Hop: 1, Reason: wire.ReasonNotServed}},
		"straight back": {nil, []int{1, 0}, [][2]int{{0, 1}}, BuildError{Hop: 1, Reason: wire.ReasonNotServed}},
	} {
		t.Run(name, func(t *testing.T) {
			tn := newNet(t, 4, test.change)
			for _, l := range test.links {
				tn.connect(l[0], l[1], nil, nil)
			}
			_, err := tn.build(test.hops...)
			var got *BuildError
			if !errors.As(err, &got) || got.Hop != test.want.Hop || got.Reason != test.want.Reason {
				t.Fatalf("got %v, want hop %d refused: %v", err, test.want.Hop+1, test.want.Reason)
			}
			for _, n := range tn.nodes {
				waitClosed(t, n.sw)
			}
		})
	}
}

func TestTierTooLow(t *testing.T) {
	tn := newNet(t, 4, nil)
	tn.chain()
	// The client believes in a lower price than node 1 asks.
	r1, r2, r3 := tn.nodes[1].record(), tn.nodes[2].record(), tn.nodes[3].record()
	r1.RelayPrice = 0
	b := Builder{Links: tn.nodes[0].link}
	_, err := b.Build(t.Context(), records(r1, r2, r3))
	var got *BuildError
	if !errors.As(err, &got) || got.Hop != 1 || got.Reason != wire.ReasonTierTooLow {
		t.Fatalf("got %v, want hop 2 refused: tier too low", err)
	}
}

func TestSessionRefused(t *testing.T) {
	serve := func(*Terminal) (Handler, error) { return func(byte, wire.Class, []byte) error { return nil }, nil }
	for name, change := range map[string]func(i int, cfg *SwitchConfig){
		"no exit":                func(int, *SwitchConfig) {},
		"exit price not covered": func(i int, cfg *SwitchConfig) { cfg.Serve, cfg.ExitPrice = serve, 9 },
		"exit fails": func(i int, cfg *SwitchConfig) {
			cfg.Serve = func(*Terminal) (Handler, error) { return nil, errors.New("full") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			tn := newNet(t, 3, change)
			tn.chain()
			r1, r2 := tn.nodes[1].record(), tn.nodes[2].record()
			r2.ExitPrice = 2
			b := Builder{Links: tn.nodes[0].link}
			c, err := b.Build(t.Context(), records(r1, r2))
			if err != nil {
				t.Fatal(err)
			}
			c.Attach(func(byte, wire.Class, []byte) error { return nil })
			if err := c.Send(wire.PayloadSession, wire.Reliable, []byte("x")); err != nil {
				t.Fatal(err)
			}
			wait(t, c.Done(), "close of the circuit")
			for _, n := range tn.nodes {
				waitClosed(t, n.sw)
			}
		})
	}
}

// TestRelayKilled kills each relay of a circuit in turn.
func TestRelayKilled(t *testing.T) {
	for victim := 1; victim <= 3; victim++ {
		t.Run(fmt.Sprintf("hop %d", victim), func(t *testing.T) {
			tn := newNet(t, 4, func(i int, cfg *SwitchConfig) {
				if i == 3 {
					cfg.Serve = func(*Terminal) (Handler, error) { return func(byte, wire.Class, []byte) error { return nil }, nil }
				}
			})
			tn.chain()
			c := tn.mustBuild(1, 2, 3)
			c.Attach(func(byte, wire.Class, []byte) error { return nil })
			if err := sendPackets(c, 100); err != nil {
				t.Fatal(err)
			}
			for {
				tn.nodes[3].mu.Lock()
				n := len(tn.nodes[3].terminals)
				tn.nodes[3].mu.Unlock()
				if n > 0 {
					break
				}
				if err := c.Send(wire.PayloadSession, wire.Reliable, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			tn.nodes[victim].kill()
			wait(t, c.Done(), "end of the circuit")
			wait(t, tn.nodes[3].terminals[0].Done(), "end of the terminal")
			if err := c.Send(wire.PayloadSession, wire.Reliable, []byte("x")); !errors.Is(err, ErrClosed) {
				t.Errorf("Send on a dead circuit: %v, want ErrClosed", err)
			}
			if err := tn.nodes[3].terminals[0].Send(wire.PayloadSession, wire.Reliable, []byte("x")); !errors.Is(err, ErrClosed) {
				t.Errorf("Send on a dead terminal: %v, want ErrClosed", err)
			}
			for _, n := range tn.nodes {
				waitClosed(t, n.sw)
			}
		})
	}
}
