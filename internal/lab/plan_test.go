package lab

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cuttle/internal/lab/emulate"
)

func plan(t *testing.T, change func(*Options)) Plan {
	t.Helper()
	o := Defaults()
	if change != nil {
		change(&o)
	}
	p, err := NewPlan(o)
	if err != nil {
		t.Fatalf("NewPlan: %v", err)
	}
	return p
}

func TestPlanAddressesAndRoles(t *testing.T) {
	p := plan(t, func(o *Options) { o.Billing = true })
	want := map[string]struct {
		role  Role
		addrs string
	}{
		"client": {RoleClient, "[10.77.101.2/24 fd77:101::2/64]"},
		"n1":     {RoleRelay, "[10.77.1.2/24 fd77:1::2/64]"},
		"n2":     {RoleRelay, "[10.77.2.2/24 fd77:2::2/64]"},
		"n3":     {RoleRelay, "[10.77.3.2/24 fd77:3::2/64]"},
		"n4":     {RoleExit, "[10.77.4.2/24 fd77:4::2/64]"},
		"n5":     {RoleExit, "[10.77.5.2/24 fd77:5::2/64]"},
		"web":    {RoleWeb, "[10.99.0.2/24 fd99::2/64 10.99.0.3/24 fd99::3/64]"},
		"chain":  {RoleChain, "[10.99.1.2/24]"},
	}
	if len(p.Nodes) != len(want) {
		t.Errorf("%d nodes, want %d", len(p.Nodes), len(want))
	}
	for _, n := range p.Nodes {
		w := want[n.Name]
		if n.Role != w.role || fmt.Sprint(n.Addrs) != w.addrs || n.Namespace != "cuttle-"+n.Name {
			t.Errorf("%s is a %s at %v in %s, want %s at %s", n.Name, n.Role, n.Addrs, n.Namespace, w.role, w.addrs)
		}
		for i, gw := range n.Gateways {
			if !n.Addrs[i].Contains(gw) {
				t.Errorf("%s cannot reach its gateway %v", n.Name, gw)
			}
		}
	}
}

func TestPlanTopology(t *testing.T) {
	for _, change := range []func(*Options){
		nil,
		func(o *Options) { o.Clients = 3; o.Mask = "plain" },
		func(o *Options) { o.Nodes, o.Exits, o.Hops = 1, 1, 1 },
		func(o *Options) { o.Nodes, o.Exits, o.Hops = 6, 3, 6 },
		func(o *Options) { o.Nodes, o.Exits, o.Clients = maxNodes, 1, maxClients },
	} {
		p := plan(t, change)
		seen := make(map[netip.Prefix]string)
		for _, n := range p.Nodes {
			for _, a := range n.Addrs {
				if other := seen[a.Masked()]; other != "" && other != n.Name {
					t.Errorf("%s and %s share the network %v", n.Name, other, a.Masked())
				}
				seen[a.Masked()] = n.Name
			}
			checkNeighbors(t, p, n)
		}
	}
}

func checkNeighbors(t *testing.T, p Plan, n Node) {
	t.Helper()
	o := p.Options
	switch {
	case n.Relays():
		if len(n.Neighbors) != o.Nodes-1 {
			t.Errorf("%s has %d neighbors, want all %d others", n.Name, len(n.Neighbors), o.Nodes-1)
		}
		for _, name := range n.Neighbors {
			peer, _ := p.Node(name)
			if slices.Contains(n.Dials, name) == slices.Contains(peer.Dials, n.Name) {
				t.Errorf("of %s and %s exactly one must dial", n.Name, name)
			}
		}
		if n.Port == 0 || o.Mask == "https" && n.Port != 443 {
			t.Errorf("%s listens on port %d", n.Name, n.Port)
		}
	case n.Role == RoleClient:
		if len(n.Neighbors) == 0 || len(n.Neighbors) > maxGuards || !reflect.DeepEqual(n.Dials, n.Neighbors) {
			t.Errorf("%s has guards %v and dials %v", n.Name, n.Neighbors, n.Dials)
		}
		for _, name := range n.Neighbors {
			guard, _ := p.Node(name)
			if !guard.Guard || (guard.Role == RoleExit) != (o.Hops == 1) {
				t.Errorf("%s cannot begin a path at %s", n.Name, name)
			}
		}
	}
}

func TestPlanFollowsTheSeed(t *testing.T) {
	one := plan(t, func(o *Options) { o.Mask = "plain" })
	again := plan(t, func(o *Options) { o.Mask = "plain" })
	other := plan(t, func(o *Options) { o.Mask = "plain"; o.Seed = 2 })
	if !reflect.DeepEqual(one, again) {
		t.Error("one seed gives two plans")
	}
	a, _ := one.Node("n1")
	b, _ := other.Node("n1")
	if a.Port == b.Port {
		t.Errorf("two seeds give the same port %d", a.Port)
	}
	if a.Port < 20_000 || a.Port > 60_000 {
		t.Errorf("port %d, want 20000 to 60000", a.Port)
	}
}

func TestShapedPairs(t *testing.T) {
	p := plan(t, nil)
	pairs := p.Shaped()
	if len(pairs) != 10+5 { // relays among themselves, and the client with each
		t.Errorf("%d pairs, want 15", len(pairs))
	}
	for _, pair := range pairs {
		if !pair[0].Runs() || !pair[1].Relays() || pair[0].Name == pair[1].Name {
			t.Errorf("%s - %s is shaped", pair[0].Name, pair[1].Name)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no nodes":               func(o *Options) { o.Nodes = 0 },
		"too many nodes":         func(o *Options) { o.Nodes = maxNodes + 1 },
		"no exit":                func(o *Options) { o.Exits = 0 },
		"more exits than nodes":  func(o *Options) { o.Exits = 6 },
		"only exits":             func(o *Options) { o.Exits = 5 },
		"no hops":                func(o *Options) { o.Hops = 0 },
		"too many hops":          func(o *Options) { o.Hops, o.Nodes = 7, 10 },
		"more hops than nodes":   func(o *Options) { o.Hops = 6 },
		"clients below zero":     func(o *Options) { o.Clients = -1 },
		"unknown mask":           func(o *Options) { o.Mask = "carnival" },
		"state is the root":      func(o *Options) { o.State = "/" },
		"state is relative":      func(o *Options) { o.State = "lab" },
		"prefix is a path":       func(o *Options) { o.Prefix = "../" },
		"no prefix":              func(o *Options) { o.Prefix = "" },
		"a shape without sense":  func(o *Options) { o.Shape.Loss = 2 },
		"a day without a chain":  func(o *Options) { o.Day = minDay },
		"vouchers, no chain":     func(o *Options) { o.Vouchers = true },
		"a short day":            func(o *Options) { o.Billing, o.Day = true, time.Second },
		"nothing gets through":   func(o *Options) { o.Billing, o.RPCFail = true, 100 },
		"a delay without reason": func(o *Options) { o.Shape = emulate.Shape{Delay: time.Hour} },
	} {
		o := Defaults()
		change(&o)
		if _, err := NewPlan(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRender(t *testing.T) {
	p := plan(t, func(o *Options) { o.Billing, o.Early = true, "all" })
	k := keys{nodes: map[string]string{}, earning: map[string]string{"client": "0xc", "n4": "0x4"}, token: "0xt"}
	for _, n := range p.Nodes {
		k.nodes[n.Name] = "key-of-" + n.Name
	}
	for _, c := range []struct {
		node    string
		has     []string
		without []string
	}{
		{"client", []string{
			"[client]\nenabled = true", "hops = 3", "max_tier = 20\nearly = \"all\"\n", `consuming = "/run/cuttle-lab/client/consuming.json"`, `earning = "0xc"`, `token = "0xt"`,
			"rpc_through_circuits = true", "@10.77.1.2:443,[fd77:1::2]:443?mask=https&name=www.", `control = "/run/cuttle-lab/client/control.sock"`,
		}, []string{"[exit]", "[[listen]]", "relay = true"}},
		{"n1", []string{"accept_clients = true", "relay = true\nexit = false", `address = "[::]:443"`, `descriptor = "cuttle://key-of-n2"`, "rpc_through_circuits = false"},
			[]string{"[client]", "[exit]", "@10.77", "key-of-n1"}},
		{"n4", []string{"exit = true", `allow = ["10.99.0.0/16", "fd99::/32", "203.0.113.0/24", "2001:db8::/32"]`, `resolver = "10.99.0.2:53"`, `cuttle://key-of-n1@10.77.1.2:443`, `descriptor = "cuttle://key-of-n5"`},
			[]string{"[client]"}},
	} {
		n, _ := p.Node(c.node)
		text := p.render(n, k)
		for _, s := range c.has {
			if !strings.Contains(text, s) {
				t.Errorf("%s lacks %q:\n%s", c.node, s, text)
			}
		}
		for _, s := range c.without {
			if strings.Contains(text, s) {
				t.Errorf("%s has %q:\n%s", c.node, s, text)
			}
		}
	}
}
