package hostnet

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func TestPlanGolden(t *testing.T) {
	at := func(device, network string) Attached { return Attached{device, netip.MustParsePrefix(network)} }
	home := Host{IPv6: true, Filter: true, Egress: true, ForceForwarding: true, Attached: []Attached{
		at("cuttle0", "10.255.255.1/32"), at("eth0", "192.168.1.0/24"), at("eth0", "fd12::/64"), at("eth0", "2001:db8:1::/64"), at("eth0", "fe80::/64"),
		at("eth1", "203.0.113.0/24"), at("eth1", "10.9.9.9/32"), at("eth1", "192.0.0.0/8"),
	}}
	old := home
	old.ForceForwarding, old.AcceptsRA = false, []string{"eth0", "lan0"}
	exclude := Cgroup{"cuttle/exclude", 4711}
	split := Split{Users: []uint32{1001}, Cgroups: []Cgroup{exclude}, Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:5::/48")}}
	only := split
	only.Only = true
	router := Router{Device: "lan0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.77.1/24"), netip.MustParsePrefix("fd77:1:2:3::1/64")}}
	devices := router
	devices.Blocked, devices.Direct = []string{"02:00:00:00:00:0b"}, []string{"02:00:00:00:00:0d"}
	tests := []struct {
		name string
		cfg  Config
		host Host
	}{
		{"lan", Config{Device: "cuttle0", LAN: true}, home},
		{"split", Config{Device: "cuttle0", Split: split}, home},
		{"only", Config{Device: "cuttle0", Split: only}, home},
		{"portal", Config{Device: "cuttle0", Portal: &Portal{Cgroup: Cgroup{"cuttle/portal", 42}, Until: 1800000000000000000,
			Resolvers: []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("fd12::1")}}}, home},
		{"router", Config{Device: "cuttle0", Router: &router}, home},
		{"router-devices", Config{Device: "cuttle0", LAN: true, Router: &devices}, home},
		{"resolved", Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{Filter: true, IPv6: true, Resolver: OwnerResolved}},
		{"networkmanager", Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{Filter: true, Resolver: OwnerManager}},
		{"resolvconf", Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{Filter: true, Resolver: OwnerResolvconf}},
		{"router-old", Config{Device: "cuttle0", Router: &devices}, old},
		{"default", Config{Device: "cuttle0", MTU: 1500, ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, Filter: true, Egress: true}},
		{"strict", Config{Device: "cuttle0"}, Host{IPv6: true, StrictFilter: true, AnswersAll: true, Filter: true, Egress: true}},
		{"ipv4", Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{Filter: true}},
		{"ipv6-off", Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, IPv6Off: true, Filter: true, Egress: true}},
		{"chosen", Config{Device: "tun7", MTU: 9000, Mark: 0x80000, Mask: 0xff0000, Table: 77, Priority: 100,
			Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd00::1")},
			DNS:       []netip.Addr{netip.MustParseAddr("100.64.0.53")},
			Peers:     []netip.AddrPort{netip.MustParseAddrPort("203.0.113.5:443"), netip.MustParseAddrPort("[2001:db8::5]:443"), netip.MustParseAddrPort("203.0.113.6:8443")},
			Listen:    []uint16{443, 8443}, ResolvConf: "/run/resolv.conf"}, Host{IPv6: true, Filter: true, Egress: true}},
	}
	for _, test := range tests {
		p, err := NewPlan(test.cfg, test.host)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", test.name+".plan")
		if *update {
			if err := os.WriteFile(path, []byte(p.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.String(); got != string(want) {
			t.Errorf("plan %s is\n%s\nwant\n%s", test.name, got, want)
		}
	}
}

func TestPlanOrder(t *testing.T) {
	p, err := NewPlan(Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, StrictFilter: true, AnswersAll: true, Filter: true, Egress: true})
	if err != nil {
		t.Fatal(err)
	}
	text := p.String()
	for _, family := range []string{"ip -4 ", "ip -6 "} {
		block, rule, way := strings.Index(text, family+"route add unreachable"), strings.Index(text, family+"rule"), strings.Index(text, family+"route add default dev")
		if block < 0 || rule < block || way < rule {
			t.Errorf("%sunreachable route, rule and way through the TUN are at %d, %d and %d: not in this order", family, block, rule, way)
		}
	}
}

func TestPlanRefusals(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Device: "a-name-that-is-too-long"},
		{Device: "../eth0"},
		{Device: "cuttle0", MTU: 500},
		{Device: "cuttle0", Mark: 0x10001, Mask: 0xffff},
		{Device: "cuttle0", Table: 254},
		{Device: "cuttle0", Table: -1},
		{Device: "cuttle0", Priority: 32766},
		{Device: "cuttle0", ResolvConf: "resolv.conf"},
		{Device: "cuttle0", Peers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.5:0")}},
		{Device: "cuttle0", Listen: []uint16{0}},
		{Device: "cuttle0", Priority: 1},
		{Device: "cuttle0", Split: Split{Cgroups: []Cgroup{{"/cuttle", 1}}}},
		{Device: "cuttle0", Split: Split{Cgroups: []Cgroup{{"cuttle", 0}}}},
		{Device: "cuttle0", Split: Split{Networks: []netip.Prefix{{}}}},
		{Device: "cuttle0", Portal: &Portal{Cgroup: Cgroup{"cuttle", 1}, Resolvers: []netip.Addr{{}}}},
		{Device: "cuttle0", Router: &Router{Device: "cuttle0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.1.1/24")}}},
		{Device: "cuttle0", Router: &Router{Device: "lan0"}},
		{Device: "cuttle0", Router: &Router{Device: "lan0", Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}}},
		{Device: "cuttle0", Router: &Router{Device: "lan0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.1.1/24")}, Blocked: []string{"tablet"}}},
		{Device: "cuttle0", DNS: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
	} {
		if p, err := NewPlan(cfg, Host{IPv6: true, Filter: true, Egress: true}); err == nil {
			t.Errorf("config %+v gave a plan:\n%s", cfg, p)
		}
	}
}

func TestPlanNeedsFilter(t *testing.T) {
	if p, err := NewPlan(Config{Device: "cuttle0"}, Host{IPv6: true}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a kernel without nftables got a plan (%v):\n%s", err, p)
	}
}

// TestBlock wants the block to close without a TUN, in the plan's order.
func TestBlock(t *testing.T) {
	p, err := NewPlan(Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, StrictFilter: true, Filter: true, Egress: true})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []Kind
	for _, s := range p.Block().Steps {
		kinds = append(kinds, s.Kind)
	}
	if want := []Kind{PacketFilter, EgressFilter, UnreachableRoute, UnreachableRoute, Rule, Rule, Sysctl}; !slices.Equal(kinds, want) {
		t.Errorf("block has steps %q, want %q", kinds, want)
	}
}
