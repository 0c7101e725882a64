package exit

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func policy(t testing.TB, rules ...string) *Policy {
	t.Helper()
	p, err := ParsePolicy(rules)
	if err != nil {
		t.Fatalf("policy %q: %v", rules, err)
	}
	return p
}

// codeWanted compares the code of err with want; 0 stands for no error.
func codeWanted(t testing.TB, what string, err error, want wire.Code) {
	t.Helper()
	var e *session.Error
	switch {
	case want == 0 && err == nil:
	case want != 0 && errors.As(err, &e) && e.Code == want:
	default:
		t.Errorf("%s: got %v, want code %d", what, err, want)
	}
}

var refused = []string{
	"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
	"169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1", "192.88.99.1",
	"192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.255.255.255",
	"240.0.0.1", "255.255.255.255",
	"::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:10.0.0.1",
	"64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:2::1",
	"2001:10::1", "2001:20::1", "2001:db8::1", "2002:0a00:0001::1", "2002:7f00:0001::", "2002:c0a8:0101::5", "3fff::1", "4000::1",
	"5f00::1", "fc00::1", "fd00:ec2::254", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
	// Teredo: server 192.168.0.1 with a public client, and public server with client 10.0.0.1.
	"2001:0:c0a8:1::f7f7:f7f7", "2001:0:808:808::f5ff:fffe",
}

var accepted = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255",
	"169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
	"223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2001:4860:4860::8888", "2002:808:808::1", "2606:4700::1111", "2a00:1450::1",
	"2001:0:808:808::f7f7:f7f7", "3ffe::1",
}

func TestPolicyWithoutRules(t *testing.T) {
	for _, p := range []*Policy{policy(t), policy(t, "allow *"), policy(t, "allow tcp *:1-65535", "allow 0.0.0.0/0", "allow ::/0", "allow 0.0.0.0/1", "allow 2002::/16")} {
		for _, s := range refused {
			codeWanted(t, s, p.Check(TCP, netip.AddrPortFrom(netip.MustParseAddr(s), 443), nil), wire.CodeForbidden)
		}
		for _, s := range accepted {
			codeWanted(t, s, p.Check(TCP, netip.AddrPortFrom(netip.MustParseAddr(s), 443), nil), 0)
		}
	}
}

func TestPolicy(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("8.8.4.4/24"), netip.MustParsePrefix("2a00::5/64"), netip.PrefixFrom(netip.MustParseAddr("::ffff:9.9.9.9"), 128)}
	rules := func(r ...string) []string { return r }
	mail := rules("deny *:25")
	tests := []struct {
		name  string
		rules []string
		by    Protocol
		dst   string
		want  wire.Code
	}{
		{"mail", mail, TCP, "8.8.8.8:25", wire.CodeForbidden},
		{"mail, UDP", mail, UDP, "[2a00::1]:25", wire.CodeForbidden},
		{"mail denied, ping", mail, ICMP, "8.8.8.8:0", 0},
		{"port 0", mail, TCP, "8.8.8.8:0", wire.CodeForbidden},
		{"highest port", mail, UDP, "8.8.8.8:65535", 0},
		{"listed port", rules("allow tcp *:80,443", "deny *"), TCP, "8.8.8.8:80", 0},
		{"listed port, other protocol", rules("allow tcp *:80,443", "deny *"), UDP, "8.8.8.8:80", wire.CodeForbidden},
		{"port between", rules("allow *:80,443", "deny *"), TCP, "8.8.8.8:81", wire.CodeForbidden},
		{"end of range", rules("allow *:1-100", "deny *"), TCP, "8.8.8.8:100", 0},
		{"behind range", rules("allow *:1-100", "deny *"), TCP, "8.8.8.8:101", wire.CodeForbidden},
		{"the first that fits", rules("deny 8.8.8.8:80", "allow 8.8.8.0/24", "deny *"), TCP, "8.8.8.8:80", wire.CodeForbidden},
		{"the second", rules("deny 8.8.8.8:80", "allow 8.8.8.0/24", "deny *"), TCP, "8.8.8.8:81", 0},
		{"the last", rules("deny 8.8.8.8:80", "allow 8.8.8.0/24", "deny *"), TCP, "9.8.8.8:81", wire.CodeForbidden},
		{"no ping", rules("deny icmp *"), ICMP, "8.8.8.8:0", wire.CodeForbidden},
		{"no ping, TCP", rules("deny icmp *"), TCP, "8.8.8.8:80", 0},
		{"internal network", rules("allow 10.99.0.0/24"), TCP, "10.99.0.2:80", 0},
		{"beside it", rules("allow 10.99.0.0/24"), TCP, "10.99.1.2:80", wire.CodeForbidden},
		{"as IPv4 in IPv6", rules("allow 10.99.0.0/24"), TCP, "[::ffff:10.99.0.2]:80", 0},
		{"does not reach into NAT64", rules("allow 10.99.0.0/24"), TCP, "[64:ff9b::10.99.0.2]:80", wire.CodeForbidden},
		{"internal network, one port", rules("allow 10.99.0.0/24:443"), TCP, "10.99.0.2:80", wire.CodeForbidden},
		{"internal network, one port, ping", rules("allow 10.99.0.0/24:443"), ICMP, "10.99.0.2:0", wire.CodeForbidden},
		{"internal IPv6 network, one port", rules("allow tcp [fd77::/16]:443"), TCP, "[fd77::1]:443", 0},
		{"wide networks mean public addresses", rules("allow 0.0.0.0/1", "allow ::/3"), TCP, "10.0.0.1:80", wire.CodeForbidden},
		{"NAT64 means what it embeds", rules("allow 64:ff9b::/96"), TCP, "[64:ff9b::10.0.0.1]:80", wire.CodeForbidden},
		{"one address of NAT64", rules("allow 64:ff9b::10.0.0.1"), TCP, "[64:ff9b::10.0.0.1]:80", 0},
		{"denied network", rules("deny 8.8.8.0/24"), TCP, "8.8.8.8:80", wire.CodeForbidden},
		{"denied network behind NAT64", rules("deny 8.8.8.0/24"), TCP, "[64:ff9b::8.8.8.8]:80", wire.CodeForbidden},
		{"denied network behind 6to4", rules("deny 8.8.8.0/24"), TCP, "[2002:808:808::1]:80", wire.CodeForbidden},
		{"denied before allowed", rules("deny 10.1.0.0/16", "allow 10.0.0.0/8"), TCP, "10.1.0.1:80", wire.CodeForbidden},
		{"family denied", rules("deny ipv6"), TCP, "[2a00::1]:80", wire.CodeNetworkUnreachable},
		{"family denied, ping", rules("deny ipv6"), ICMP, "[2a00::1]:0", wire.CodeNetworkUnreachable},
		{"other family", rules("deny ipv4"), TCP, "[2a01::1]:80", 0},
		{"IPv4 through NAT64 of an exit with IPv6 only", rules("deny ipv4"), TCP, "[64:ff9b::8.8.8.8]:80", 0},
		{"IPv4 in IPv6 is IPv4", rules("deny ipv4"), TCP, "[::ffff:8.8.8.8]:80", wire.CodeNetworkUnreachable},
		{"own address", nil, TCP, "8.8.4.4:80", wire.CodeForbidden},
		{"own address in an allowed public network", rules("allow 8.0.0.0/8"), TCP, "8.8.4.4:80", wire.CodeForbidden},
		{"own IPv6 address", nil, UDP, "[2a00::5]:80", wire.CodeForbidden},
		{"own, written in IPv6 form", nil, ICMP, "9.9.9.9:0", wire.CodeForbidden},
		{"own through 6to4", nil, TCP, "[2002:808:404::1]:80", wire.CodeForbidden},
		{"own through NAT64", nil, TCP, "[64:ff9b::8.8.4.4]:80", wire.CodeForbidden},
		{"a host of the exit's network", nil, TCP, "[2a00::1:2:3:4]:445", wire.CodeForbidden},
		{"the same in an allowed public network", rules("allow 2a00::/16"), TCP, "[2a00::1:2:3:4]:445", wire.CodeForbidden},
		{"the same over IPv4", nil, UDP, "8.8.4.1:53", wire.CodeForbidden},
		{"the same through NAT64", nil, TCP, "[64:ff9b::8.8.4.1]:80", wire.CodeForbidden},
		{"next to the exit's networks", nil, TCP, "[2a00:0:0:1::1]:80", 0},
		{"next to them over IPv4", nil, TCP, "8.8.5.1:80", 0},
		{"beside an own address that is in no network", nil, TCP, "9.9.9.10:80", 0},
		{"a host of the exit's network, allowed", rules("allow 2a00::7"), TCP, "[2a00::7]:80", 0},
		{"own, allowed", rules("allow 8.8.4.4:80"), TCP, "8.8.4.4:80", 0},
		{"zone", rules("allow fe80::/10"), TCP, "[fe80::1%eth0]:80", wire.CodeForbidden},
	}
	for _, tt := range tests {
		codeWanted(t, tt.name, policy(t, tt.rules...).Check(tt.by, netip.MustParseAddrPort(tt.dst), own), tt.want)
	}
	codeWanted(t, "no address", policy(t).Check(TCP, netip.AddrPort{}, nil), wire.CodeForbidden)
}

// TestPolicySummary: what the record says, and that it is what the policy does to a
// public address.
func TestPolicySummary(t *testing.T) {
	all := []PortRange{{1, 65535}}
	tests := []struct {
		rules  []string
		ports  []PortRange
		v4, v6 bool
	}{
		{nil, all, true, true},
		{[]string{"deny *:25"}, []PortRange{{1, 24}, {26, 65535}}, true, true},
		{[]string{"deny *:25", "deny *:135-139,445"}, []PortRange{{1, 24}, {26, 134}, {140, 444}, {446, 65535}}, true, true},
		{[]string{"allow *:443,80", "deny *"}, []PortRange{{80, 80}, {443, 443}}, true, true},
		{[]string{"allow tcp *:10-20", "allow udp *:15-30,31", "allow ipv6:33", "deny *"}, []PortRange{{10, 31}, {33, 33}}, true, true},
		{[]string{"deny ipv6"}, all, true, false},
		{[]string{"allow ipv6:443", "deny *"}, []PortRange{{443, 443}}, false, true},
		{[]string{"allow icmp *", "deny *"}, nil, false, false},
		{[]string{"deny 8.8.8.0/24:80", "allow 10.0.0.0/8:81", "deny tcp *:82"}, all, true, true},
	}
	for _, tt := range tests {
		p := policy(t, tt.rules...)
		v4, v6 := p.Families()
		if got := p.Ports(); !reflect.DeepEqual(got, tt.ports) || v4 != tt.v4 || v6 != tt.v6 {
			t.Errorf("policy %q: got ports %v, families %v %v; want %v, %v %v", tt.rules, got, v4, v6, tt.ports, tt.v4, tt.v6)
		}
		agrees(t, p)
	}
}

// agrees checks the summary of a policy against what it does to public addresses
// that no rule names.
func agrees(t *testing.T, p *Policy) {
	t.Helper()
	var any4, any6 bool
	for port := 1; port < 1<<16; port += 1 + port/64 {
		at := func(addr string, by Protocol) bool {
			return p.Check(by, netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)), nil) == nil
		}
		open4, open6 := at("93.184.215.14", TCP) || at("93.184.215.14", UDP), at("2a00::1", TCP) || at("2a00::1", UDP)
		any4, any6 = any4 || open4, any6 || open6
		said := slices.ContainsFunc(p.Ports(), func(r PortRange) bool { return r.First <= uint16(port) && uint16(port) <= r.Last })
		if said != (open4 || open6) {
			t.Fatalf("rules %v, port %d: the record says %v, the policy %v and %v", p.rules, port, said, open4, open6)
		}
	}
	if v4, v6 := p.Families(); any4 && !v4 || any6 && !v6 {
		t.Errorf("rules %v: families %v %v, want %v %v", p.rules, v4, v6, any4, any6)
	}
}

// TestRuleText: rules and how they are written back (testdata/rules.golden).
func TestRuleText(t *testing.T) {
	b, err := os.ReadFile("testdata/rules.golden")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(b)) {
		text, _, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " => ")
		if !ok {
			got.WriteString(line)
			continue
		}
		out := ""
		if r, err := parseRule(text); err != nil {
			out = "error: " + strings.TrimSuffix(err.Error(), "; "+example)
			if out == "error: "+err.Error() {
				t.Errorf("rule %q: error %q does not say what to write", text, err)
			}
		} else {
			out = r.String()
			if again, err := parseRule(out); err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("rule %q: written as %q it reads as %+v, %v; want %+v", text, out, again, err, r)
			}
		}
		fmt.Fprintf(&got, "%s => %s\n", text, out)
	}
	if got.String() != string(b) {
		t.Errorf("rules read otherwise than testdata/rules.golden says:\n%s", got.String())
	}
}

func TestPolicyErrors(t *testing.T) {
	odd := make([]string, 0, 40)
	for port := 2; port <= 80; port += 2 {
		odd = append(odd, fmt.Sprintf("deny *:%d", port))
	}
	for want, rules := range map[string][]string{
		"at most 128":   make([]string, 129),
		"room for 32":   odd,
		`rule "x"`:      {"allow *", "x"},
		"icmp has no p": {"allow icmp *:7"},
	} {
		if _, err := ParsePolicy(rules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

// FuzzParsePolicy: what parses is written back the same, and keeps its promises,
// whatever the words.
func FuzzParsePolicy(f *testing.F) {
	f.Add("allow tcp *:443,1-2;deny *")
	f.Add("allow [fd77::/16]:80;deny ipv6;allow 0.0.0.0/0")
	f.Add("deny icmp 8.8.8.8;allow udp ipv4:65535-1")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePolicy(strings.Split(text, ";"))
		if err != nil {
			return
		}
		named := false
		for _, r := range p.rules {
			again, err := parseRule(r.String())
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%q is written as %q and read as %+v, %v", text, r, again, err)
			}
			named = named || r.allow && r.named
		}
		last := 0
		for _, r := range p.Ports() {
			if int(r.First) <= last || r.Last < r.First {
				t.Errorf("%q: ranges %v not ascending and apart", text, p.Ports())
			}
			last = int(r.Last) + 1
		}
		for _, s := range refused {
			if !named && p.Check(TCP, netip.AddrPortFrom(netip.MustParseAddr(s), 443), nil) == nil {
				t.Errorf("%q: %s is accepted", text, s)
			}
		}
	})
}
