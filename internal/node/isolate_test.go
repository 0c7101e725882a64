package node

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/wire"
	"cuttle/stack"
	"cuttle/tun/hostnet"
)

// What the policy names keeps flows apart, and nothing else does.
func TestIsolationKeys(t *testing.T) {
	by := func(local, _ netip.AddrPort) (uint32, error) {
		if local.Port() == 9 {
			return 0, hostnet.ErrNoOwner
		}
		return uint32(local.Port()), nil
	}
	flow := func(src, dst string) stack.Flow {
		return stack.NewFlow(netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
	}
	base := flow("10.0.0.1:1", "192.0.2.1:80")
	for _, tc := range []struct {
		policy string
		other  stack.Flow
		names  bool
		apart  bool
	}{
		{"", flow("10.0.0.2:2", "192.0.2.2:80"), false, false},
		{"destination", flow("10.0.0.2:2", "192.0.2.1:443"), false, false},
		{"destination", flow("10.0.0.1:1", "192.0.2.2:80"), false, true},
		{"destination", base, true, true},
		{"user", flow("10.0.0.2:1", "192.0.2.2:80"), false, false},
		{"user", flow("10.0.0.1:2", "192.0.2.1:80"), false, true},
		{"user", flow("10.0.0.1:9", "192.0.2.1:80"), false, true},
		{"device", flow("10.0.0.1:2", "192.0.2.2:80"), false, false},
		{"device", flow("10.0.0.2:1", "192.0.2.1:80"), false, true},
		{"device,user", flow("10.0.0.1:1", "192.0.2.7:80"), true, false},
	} {
		i := newIsolation(config.Client{Isolate: strings.Split(tc.policy, ",")})
		a, b := i.key(base, by, false), i.key(tc.other, by, tc.names)
		if apart := a != b; apart != tc.apart {
			t.Errorf("policy %q: kept apart %v, want %v", tc.policy, apart, tc.apart)
		}
		if i.key(stack.Flow{}, by, false) != (circuit.Key{}) {
			t.Error("the node's own flows have no key of their own")
		}
	}
	i := newIsolation(config.Client{Isolate: []string{"destination"}})
	if i.key(flow("[fd00::1]:1", "[2001:db8::1]:80"), by, false) != i.key(flow("[fd00::1]:1", "[2001:db8::2]:80"), by, false) {
		t.Error("two addresses of one /64 are two destinations")
	}
}

// Memory of exits that failed is per host, and bounded.
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	host := visit{host: netip.MustParseAddr("192.0.2.1")}
	x := wire.NodeID{1}
	r.note(host, x)
	r.note(host, x)
	if got := r.avoid(host); !slices.Equal(got, []wire.NodeID{x}) || r.avoid(visit{host: netip.MustParseAddr("192.0.2.2")}) != nil || r.avoid(visit{circuit.Key{1}, host.host}) != nil {
		t.Errorf("avoided: %d exits for the host, want 1, and none for another host or isolation key", len(got))
	}
	r.worked(host, x)
	if r.avoid(host) != nil {
		t.Error("an exit that works is avoided")
	}
	for n := range 2 * refusalMost {
		host = visit{host: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})}
		for e := range byte(2 * refusalExits) {
			r.note(host, wire.NodeID{e})
		}
	}
	if len(r.hosts) != refusalMost || len(r.hosts[host]) != refusalExits {
		t.Errorf("%d hosts remembered, %d exits of one; want %d and %d", len(r.hosts), len(r.hosts[host]), refusalMost, refusalExits)
	}
}

// exitsOf is where flows to an address go out, by the pool's circuits in use.
func (nw *network) exitInUse() string {
	hops := nw.inUse()
	return hops[len(hops)-1]
}

// greeter is a server on loopback that says hello to whoever connects, until the test's end.
func greeter(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // for the whole test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	return ln
}

// An exit whose policy refuses a host is avoided for that host only, and the flow
// goes out elsewhere at once.
func TestRefusedElsewhere(t *testing.T) {
	ln := greeter(t)
	nw := mesh(t, "x1", "x2")
	nw.stop["x1"]() // which now forbids what x2 allows
	nw.cfgs["x1"].Exit.Allow = nil
	nw.start("x1")
	nw.linked(10)
	o := nw.pool()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for range 3 { // until one has gone by x1 at least: then it is remembered
		conn, err := o.DialTCP(ctx, flowTo(ln.Addr().String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, nw.logs)
		}
		got, err := io.ReadAll(struct{ io.Reader }{conn})
		if err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		nw.nodes["c"].client.pool.Renew(true)
	}
	x1 := nw.nodes["x1"].id.ID
	w, err := o.want(flowTo(ln.Addr().String()), ownerTCP)
	if err != nil {
		t.Fatal(err)
	}
	key := w.Key
	o.refusals.note(visit{key, netip.MustParseAddr("127.0.0.1")}, x1)
	for range 3 {
		nw.nodes["c"].client.pool.Renew(true)
		conn, err := o.DialTCP(ctx, flowTo(ln.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		if x := nw.exitInUse(); x != "x2" {
			t.Errorf("the exit in use is %s, which refuses the host", x)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if o.refusals.avoid(visit{key, netip.MustParseAddr("127.0.0.2")}) != nil {
		t.Error("another host has an exit to avoid")
	}
}

// Hops and exits change at run time; what cannot be met is refused with the reason.
func TestReroute(t *testing.T) {
	nw := mesh(t, "x1", "x2")
	nw.pool()
	c := nw.nodes["c"].client
	x2 := nw.nodes["x2"].id.ID.String()
	wait := func(what string, ok func([]control.Circuit) bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
			if ok(nw.nodes["c"].Circuits()) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v\n%v", what, nw.nodes["c"].Circuits(), c.pool.Failure())
			}
		}
	}
	if err := c.reroute(0, []string{x2}); err != nil {
		t.Fatal(err)
	}
	wait("circuits to x2 only", func(all []control.Circuit) bool {
		return len(all) == 3 && !slices.ContainsFunc(all, func(c control.Circuit) bool { return c.Exit != x2 })
	})
	if err := c.reroute(5, []string{"any"}); err != nil {
		t.Fatal(err)
	}
	wait("circuits of five hops", func(all []control.Circuit) bool {
		return len(all) > 0 && !slices.ContainsFunc(all, func(c control.Circuit) bool { return len(c.Hops) != 5 })
	})
	for _, tc := range []struct {
		hops int
		exit []string
		want string
	}{
		{6, nil, "no route"}, {3, []string{"QQ"}, "no exit matches: wanted QQ"},
	} {
		if err := c.reroute(tc.hops, tc.exit); err != nil {
			t.Fatal(err)
		}
		wait("a reason", func(all []control.Circuit) bool {
			err := c.pool.Failure()
			return len(all) == 0 && err != nil && strings.Contains(err.Error(), tc.want)
		})
	}
	for _, bad := range []struct {
		hops int
		exit []string
	}{{7, nil}, {-1, nil}, {0, []string{"Germany"}}} {
		var e *control.Error
		if err := c.reroute(bad.hops, bad.exit); !errors.As(err, &e) || e.Hint == "" {
			t.Errorf("reroute(%d, %v) = %v, want a refusal with a hint", bad.hops, bad.exit, err)
		}
	}
}

// TestEveryHops: new circuits have exactly as many hops as are wanted at the moment, from
// one to six and back, and carry flows.
func TestEveryHops(t *testing.T) {
	ln := greeter(t)
	names := []string{"c", "r1", "r2", "r3", "r4", "r5", "x"}
	links := [][2]string{{"c", "r1"}, {"c", "x"}, {"r1", "r2"}, {"r2", "r3"}, {"r3", "r4"}, {"r4", "r5"}}
	for _, r := range names[1:6] {
		links = append(links, [2]string{r, "x"})
	}
	nw := newMesh(t, "plain", names, links, "x")
	nw.linked(len(links))
	o := nw.pool()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, hops := range []int{1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1} {
		if err := nw.nodes["c"].client.reroute(hops, nil); err != nil {
			t.Fatal(err)
		}
		conn, err := o.DialTCP(ctx, flowTo(ln.Addr().String()))
		if err != nil {
			t.Fatalf("over %d hops: %v\n%s", hops, err, nw.logs)
		}
		if now := nw.inUse(); len(now) != hops || now[hops-1] != "x" {
			t.Errorf("a flow goes over %v, want %d hops", now, hops)
		}
		if got, err := io.ReadAll(struct{ io.Reader }{conn}); err != nil || string(got) != "hello" {
			t.Errorf("over %d hops: read %q, %v", hops, got, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		for ready := 0; ready == 0; time.Sleep(time.Millisecond) { // until nothing is left of before, but what was built since
			circuits := nw.nodes["c"].Circuits()
			ready = len(circuits)
			for _, c := range circuits {
				if len(c.Hops) != hops {
					ready = 0
				}
			}
			if ctx.Err() != nil {
				t.Fatalf("%d hops wanted, circuits are %+v", hops, circuits)
			}
		}
	}
}
