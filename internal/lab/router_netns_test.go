//go:build linux && netns

package lab

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cuttle/internal/capture"
	"cuttle/internal/control"
	"cuttle/internal/lab/netns"
)

// TestRouter has two hosts that know nothing of Cuttle go through the onion, one
// of them blocked for a while, and nothing get past a router whose daemon is dead.
func TestRouter(t *testing.T) {
	o := options(t)
	o.Router, o.Nodes, o.Exits = true, 5, 2
	l := up(t, o)
	ctx := t.Context()
	if err := l.Lease(ctx); err != nil {
		t.Fatal(err)
	}
	exits := func(host, url string) {
		t.Helper()
		if seen, err := get(t, l, host, url); err != nil || !exitAddress(l.plan, seen) {
			t.Errorf("from %s by %s the server sees %q, %v; want an exit", host, url, seen, err)
		}
	}
	for _, host := range []string{"host1", "host2"} {
		for _, name := range []string{WebName, "v4.lab", "v6.lab"} {
			exits(host, "http://"+name+"/ip")
		}
	}
	body, err := get(t, l, "host1", "http://"+WebName+"/bytes/300000")
	if err != nil || len(body) < 290_000 {
		t.Errorf("download through the router: %d bytes, %v", len(body), err)
	}

	c, err := l.Control("client")
	if err != nil {
		t.Fatal(err)
	}
	devices := leases(t, c)
	policy := func(host string, p control.Policy) {
		t.Helper()
		d := devices[hostAddress(t, l, host)]
		d.Policy = p
		if _, err := c.SetDevice(ctx, d); err != nil {
			t.Fatalf("%s %s: %v", host, p, err)
		}
	}
	policy("host2", control.PolicyBlocked)
	for _, address := range []string{webV4.String(), "[" + webV6.String() + "]"} {
		if seen, err := get(t, l, "host2", "http://"+address+"/ip"); err == nil {
			t.Errorf("a blocked device got through (the server sees %q)", seen)
		}
	}
	exits("host1", "http://"+WebName+"/ip")
	policy("host2", control.PolicyDirect)
	router, _ := l.plan.Node("client")
	if seen, err := get(t, l, "host2", "http://v4.lab/ip"); err != nil || seen != router.Hosts()[0].String() {
		t.Errorf("from a direct device the server sees %q, %v; want the router %v", seen, err, router.Hosts()[0])
	}
	exits("host1", "http://v4.lab/ip")
	policy("host2", control.PolicyTunnel)
	exits("host2", "http://"+WebName+"/ip")

	deviceExits(t, l, c)
	routerDead(t, l)
}

// deviceExits has each host leave at an exit of its own, change it, and be refused
// when there is none.
func deviceExits(t *testing.T, l *Lab, c *control.Client) {
	t.Helper()
	wish := func(host string, exits ...string) control.Device {
		t.Helper()
		d := leases(t, c)[hostAddress(t, l, host)]
		d.Policy, d.Exit = control.PolicyTunnel, exits
		if _, err := c.SetDevice(t.Context(), d); err != nil {
			t.Fatalf("%s shall leave at %q: %v", host, exits, err)
		}
		return leases(t, c)[hostAddress(t, l, host)]
	}
	leaves := func(host, exit string) {
		t.Helper()
		n, _ := l.plan.Node(exit)
		for _, name := range []string{"v4.lab", "v6.lab"} {
			seen, err := get(t, l, host, "http://"+name+"/ip")
			if a, parsed := netip.ParseAddr(seen); err != nil || parsed != nil || !slices.Contains(n.Hosts(), a) {
				t.Errorf("from %s by %s the server sees %q, %v; want %s (%v)", host, name, seen, err, exit, n.Hosts())
			}
		}
	}
	n4, n5 := l.state.Keys["n4"], l.state.Keys["n5"]
	for _, turn := range [][2]string{{"n4", "n5"}, {"n5", "n5"}} {
		for i, host := range []string{"host1", "host2"} {
			if d := wish(host, l.state.Keys[turn[i]]); d.Problem != "" {
				t.Errorf("%s cannot leave at %s: %s", host, turn[i], d.Problem)
			}
		}
		leaves("host1", turn[0])
		leaves("host2", turn[1])
	}
	wish("host1", "QQ", n4, n5)
	leaves("host1", "n4")

	if d := wish("host2", "QQ"); !strings.Contains(d.Problem, "no exit matches") {
		t.Errorf("a device whose exit is not there has the problem %q", d.Problem)
	}
	if _, err := get(t, l, "host2", "http://"+webV4.String()+"/ip"); err == nil || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("a device whose exit is not there: %v, want it refused at once", err)
	}
	if _, err := get(t, l, "host2", "http://"+WebName+"/ip"); err == nil {
		t.Error("a device whose exit is not there gets through by name")
	}
	st, err := c.Status(t.Context())
	if err != nil || !slices.ContainsFunc(st.Problems, func(p control.Problem) bool { return strings.Contains(p.Text, "1 of the LAN's devices") }) {
		t.Errorf("status tells %+v (%v), want that a device is refused", st.Problems, err)
	}
	leaves("host1", "n4")
	wish("host1")
	if d := wish("host2"); d.Problem != "" {
		t.Errorf("a device without a wish has the problem %q", d.Problem)
	}
	for _, host := range []string{"host1", "host2"} {
		if seen, err := get(t, l, host, "http://"+WebName+"/ip"); err != nil || !exitAddress(l.plan, seen) {
			t.Errorf("from %s, which wishes nothing any more, the server sees %q, %v", host, seen, err)
		}
	}
}

// routerDead kills the daemon and wants the hosts cut off and nothing on the wire.
func routerDead(t *testing.T, l *Lab) {
	t.Helper()
	ctx := t.Context()
	router, _ := l.plan.Node("client")
	scanner, err := capture.NewScanner(capture.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Signal(ctx, "client", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // the kernel closes the links of the dead daemon
	var wire *capture.Capture
	err = netns.Do(router.Namespace, func() (err error) {
		wire, err = capture.Start(Interface, scanner)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"host1", "host2"} {
		for _, url := range []string{"http://10.99.0.2/ip", "http://[fd99::2]/ip"} {
			if seen, err := get(t, l, host, url); err == nil {
				t.Errorf("%s got through a dead router by %s (the server sees %q)", host, url, seen)
			}
		}
	}
	seen, err := wire.Stop()
	if err != nil {
		t.Fatal(err)
	}
	// Retransmissions of the dead daemon's links are its own.
	foreign := slices.DeleteFunc(seen.Examples, func(s string) bool {
		return slices.ContainsFunc(router.Neighbors, func(n string) bool {
			peer, _ := l.plan.Node(n)
			return slices.ContainsFunc(peer.Hosts(), func(a netip.Addr) bool { return strings.Contains(s, a.String()) })
		})
	})
	if len(foreign) > 0 {
		t.Errorf("a dead router let out %q", foreign)
	}
	if err := errors.Join(l.Start(ctx, "client"), l.Wait(ctx, "client")); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, l, "host1", "http://"+WebName+"/ip"); err != nil {
		t.Errorf("after the router has come back: %v", err)
	}
}

// leases are the router's devices by their address.
func leases(t *testing.T, c *control.Client) map[string]control.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h, err := c.Host(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]control.Device)
	for _, d := range h.Router.Devices {
		out[d.Address] = d
	}
	if len(out) != 2 {
		t.Errorf("the router knows %+v, want two devices", h.Router.Devices)
	}
	return out
}

// hostAddress is what a host was given.
func hostAddress(t *testing.T, l *Lab, name string) string {
	t.Helper()
	n, err := l.node(name)
	if err != nil {
		t.Fatal(err)
	}
	list, err := interfaces(n.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		for _, a := range i.Addrs {
			if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is4() {
				return p.Addr().String()
			}
		}
	}
	t.Fatalf("%s has no address: %+v", name, list)
	return ""
}
