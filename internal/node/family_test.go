package node

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"cuttle/relay/netmap"
	"cuttle/stack"
)

const outside6 = "[2620:0:2d0::1]:443"

// TestFamilies: flows of IPv6 go to the exits that have it, and are refused without
// asking anybody when none has.
func TestFamilies(t *testing.T) {
	nw := meshWith(t, map[string]string{"x1": `policy = ["deny ipv6"]`}, "x1", "x2")
	c := nw.nodes["c"].client
	nw.linked(10)
	o := c.onward // it has no pool, so nothing can be asked
	last := func(to string) string {
		t.Helper()
		w, err := o.want(flowTo(to), ownerTCP)
		if err != nil {
			t.Fatal(err)
		}
		path, err := c.chooseFor(w, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, n := range nw.nodes {
			if n.id.ID == path[2].ID {
				return name
			}
		}
		return ""
	}
	seen := map[string]bool{}
	for range 40 {
		if x := last(outside6); x != "x2" {
			t.Fatalf("IPv6 goes to %s, which has none", x)
		}
		seen[last("198.51.100.1:443")] = true
	}
	if !seen["x1"] || !seen["x2"] {
		t.Errorf("IPv4 goes to %v in 40 choices, want both exits", seen)
	}
	if _, err := o.DialTCP(t.Context(), flowTo(outside6)); !errors.Is(err, errDown) {
		t.Errorf("with an exit that has IPv6: %v, want it tried", err)
	}

	if err := c.reroute(0, []string{nw.nodes["x1"].id.ID.String()}); err != nil {
		t.Fatal(err)
	}
	for name, dial := range map[string]func(stack.Flow) error{
		"TCP":  func(f stack.Flow) error { _, err := o.DialTCP(t.Context(), f); return err },
		"UDP":  func(f stack.Flow) error { _, err := o.DialUDP(t.Context(), f); return err },
		"echo": func(f stack.Flow) error { _, err := o.DialEcho(t.Context(), f); return err },
	} {
		if err := dial(flowTo(outside6)); !errors.Is(err, stack.ErrNetUnreachable) || !errors.Is(err, netmap.ErrNoExit) {
			t.Errorf("%s over IPv6 without an exit that has it: %v, want network unreachable at once", name, err)
		}
		for _, to := range []string{"198.51.100.1:443", "[fd55::1]:443"} { // an exit's record does not tell about private networks
			if err := dial(flowTo(to)); !errors.Is(err, errDown) {
				t.Errorf("%s to %v: %v, want it tried", name, netip.MustParseAddrPort(to), err)
			}
		}
	}
	for _, guard := range []string{"g1", "g2"} {
		nw.stop[guard]()
	}
	for deadline := time.Now().Add(time.Minute); len(c.guards()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("links stay")
		}
	}
	if _, err := o.DialTCP(t.Context(), flowTo(outside6)); !errors.Is(err, errDown) {
		t.Errorf("without any link: %v, want it to wait as all flows do", err)
	}
}
