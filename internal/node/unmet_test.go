package node

import (
	"context"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/netmap"
)

// A wish that no exit of the map fits is said to stay, with the exits that there are;
// what links and time may change is not.
func TestUnmetWish(t *testing.T) {
	nw := mesh(t, "x1", "x2")
	nw.linked(10)
	nw.pool()
	n := nw.nodes["c"]
	c := n.client
	wait := func(what string, ok func(control.Status) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			st := n.Status()
			if ok(st) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, st)
			}
		}
	}
	wish := func(hops int, exits ...string) {
		t.Helper()
		if err := c.reroute(hops, exits); err != nil {
			t.Fatal(err)
		}
	}
	says := func(text string, stays bool) func(control.Status) bool {
		return func(st control.Status) bool {
			return len(st.Problems) == 1 && strings.Contains(st.Problems[0].Text, text) && st.Problems[0].Stays == stays
		}
	}
	c.set(control.StateConnecting, nil)
	x2 := nw.nodes["x2"].id.ID.String()
	for _, exits := range [][]string{{"ZZ"}, {"ZZ", nw.nodes["m1"].id.ID.String()}} {
		wish(3, exits...)
		wait("no such exit", says("no exit matches: wanted "+strings.Join(exits, ", "), true))
		if h := n.Status().Problems[0].Hint; !strings.Contains(h, "exits that name no country") || !strings.Contains(h, "--exit any") {
			t.Errorf("the hint is %q, want which exits there are and what to do", h)
		}
		wish(0, append(exits, x2)...)
		if st := n.Status(); len(st.Problems) > 0 && st.Problems[0].Stays {
			t.Errorf("after another wish: %+v, want the old one forgotten", st.Problems)
		}
		wait("an exit that is wanted", func(st control.Status) bool { return st.Exit == x2 && len(st.Problems) == 0 })
	}
	wish(3, "ZZ")
	wait("no such exit", says("no exit matches", true))
	get, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	own, err := c.pool.Get(get, circuit.Want{Key: circuit.Key{1}, Exits: []netmap.ExitWish{{ID: nw.nodes["x2"].id.ID}}})
	if err != nil {
		t.Fatal(err)
	}
	if st := n.Status(); st.Circuits == 0 || !says("no exit matches", true)(st) {
		t.Errorf("beside the circuit of a device that leaves elsewhere: %+v, want the wish said to stay", st)
	}
	c.proof.note(nw.nodes["x2"].id.ID, verdict{}) // as before another exit was wanted
	if st := n.Status(); st.State != control.StateConnecting || !says("no exit matches", true)(st) {
		t.Errorf("beside the circuit of a device, after an exit was proved: %+v, want the wish said to stay", st)
	}
	c.proof.reset()
	own.Close()
	wish(6, "any")
	wait("no route, which links may bring", says("no route", false))
	wish(3, "ZZ")
	wait("no such exit", says("no exit matches", true))
	for _, guard := range []string{"g1", "g2"} {
		nw.stop[guard]()
	}
	wait("no link, so that the clock may be wrong", func(st control.Status) bool {
		return st.Links == 0 && len(st.Problems) == 1 && !st.Problems[0].Stays
	})
	if c.unmet(netmap.ErrNoExit) {
		t.Error("without a link, what the pool found before is said to stay")
	}
	c.set(control.StateOff, nil)
}

// Nothing is said to stay while the record of an exit is not valid yet.
func TestUnmetButSoon(t *testing.T) {
	nw := mesh(t, "x1", "x2")
	nw.linked(10)
	nw.pool()
	c := nw.nodes["c"].client
	if err := c.reroute(3, []string{"ZZ"}); err != nil {
		t.Fatal(err)
	}
	if !c.unmet(netmap.ErrNoExit) {
		t.Fatal("a wish that no exit fits may still be met")
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	r, err := netmap.Sign(key, netmap.Record{KEM: nw.nodes["x1"].id.Handshake.Public(), Roles: netmap.Exit, From: now + 1000, Until: now + 2000, Families: netmap.IPv4})
	if err == nil {
		err = c.mapped.Add(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.unmet(netmap.ErrNoExit) {
		t.Error("said to stay though an exit's record becomes valid")
	}
}

// The hint names the countries of exits that are valid, each once.
func TestInsteadNamesExits(t *testing.T) {
	c := &client{mapped: &netmap.Map{}}
	id, err := LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	add := func(country string, roles netmap.Roles, until int64) {
		t.Helper()
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := netmap.Sign(key, netmap.Record{KEM: id.Handshake.Public(), Country: country, Roles: roles, From: now - 100, Until: until, Families: netmap.IPv4})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.mapped.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	want := func(text string) {
		t.Helper()
		if got := c.instead(); !strings.Contains(got, text) {
			t.Errorf("got %q, want %q in it", got, text)
		}
	}
	add("DE", netmap.Relay, now+1000)
	add("FI", netmap.Exit, now-1)
	want("has no exit")
	add("", netmap.Exit, now+1000)
	want("exits that name no country")
	add("SE", netmap.Exit, now+1000)
	add("AT", netmap.Exit|netmap.Relay, now+1000)
	add("SE", netmap.Exit, now+1000)
	want("exits in AT, SE: ")
	for _, country := range strings.Fields("BA BB BC BD BE BF BG BH BI BJ BK BL BM BN BO BP BQ BR BS") {
		add(country, netmap.Exit, now+1000)
	}
	want("BR, BS and others: ")
}
