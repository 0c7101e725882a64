package exit

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func policy(t testing.TB, text PolicyText) *Policy {
	t.Helper()
	p, err := ParsePolicy(text)
	if err != nil {
		t.Fatalf("policy %+v: %v", text, err)
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

func TestDefaultPolicy(t *testing.T) {
	p := policy(t, PolicyText{})
	for _, s := range refused {
		codeWanted(t, s, p.Check(netip.AddrPortFrom(netip.MustParseAddr(s), 443), nil), wire.CodeForbidden)
	}
	for _, s := range accepted {
		codeWanted(t, s, p.Check(netip.AddrPortFrom(netip.MustParseAddr(s), 443), nil), 0)
	}
}

func TestPolicy(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("8.8.4.4"), netip.MustParseAddr("2a00::5"), netip.MustParseAddr("::ffff:9.9.9.9")}
	tests := []struct {
		name string
		text PolicyText
		dst  string
		want wire.Code
	}{
		{"mail", PolicyText{}, "8.8.8.8:25", wire.CodeForbidden},
		{"port 0", PolicyText{}, "8.8.8.8:0", wire.CodeForbidden},
		{"highest port", PolicyText{}, "8.8.8.8:65535", 0},
		{"listed port", PolicyText{Ports: []string{"443", "80"}}, "8.8.8.8:80", 0},
		{"port between", PolicyText{Ports: []string{"443", "80"}}, "8.8.8.8:81", wire.CodeForbidden},
		{"end of range", PolicyText{Ports: []string{"1-100"}}, "8.8.8.8:100", 0},
		{"behind range", PolicyText{Ports: []string{"1-100"}}, "8.8.8.8:101", wire.CodeForbidden},
		{"allowed network", PolicyText{Allow: []string{"10.99.0.0/24"}}, "10.99.0.2:80", 0},
		{"beside it", PolicyText{Allow: []string{"10.99.0.0/24"}}, "10.99.1.2:80", wire.CodeForbidden},
		{"allowed, as IPv4 in IPv6", PolicyText{Allow: []string{"10.99.0.0/24"}}, "[::ffff:10.99.0.2]:80", 0},
		{"allowed does not reach into NAT64", PolicyText{Allow: []string{"10.99.0.0/24"}}, "[64:ff9b::10.99.0.2]:80", wire.CodeForbidden},
		{"allowed network, port not listed", PolicyText{Allow: []string{"10.99.0.0/24"}, Ports: []string{"443"}}, "10.99.0.2:80", wire.CodeForbidden},
		{"refused network", PolicyText{Refuse: []string{"8.8.8.0/24"}}, "8.8.8.8:80", wire.CodeForbidden},
		{"refused network behind NAT64", PolicyText{Refuse: []string{"8.8.8.0/24"}}, "[64:ff9b::8.8.8.8]:80", wire.CodeForbidden},
		{"refused network behind 6to4", PolicyText{Refuse: []string{"8.8.8.0/24"}}, "[2002:808:808::1]:80", wire.CodeForbidden},
		{"refused network behind NAT64, allowed", PolicyText{Allow: []string{"64:ff9b::/96"}, Refuse: []string{"8.8.8.0/24"}}, "[64:ff9b::8.8.8.8]:80", wire.CodeForbidden},
		{"refused before allowed", PolicyText{Allow: []string{"10.0.0.0/8"}, Refuse: []string{"10.1.0.0/16"}}, "10.1.0.1:80", wire.CodeForbidden},
		{"family not offered", PolicyText{Families: []string{"ipv4"}}, "[2a00::1]:80", wire.CodeNetworkUnreachable},
		{"family offered", PolicyText{Families: []string{"ipv6"}}, "[2a00::1]:80", 0},
		{"IPv4 in IPv6 is IPv4", PolicyText{Families: []string{"ipv6"}}, "[::ffff:8.8.8.8]:80", wire.CodeNetworkUnreachable},
		{"own address", PolicyText{}, "8.8.4.4:80", wire.CodeForbidden},
		{"own IPv6 address", PolicyText{}, "[2a00::5]:80", wire.CodeForbidden},
		{"own, written in IPv6 form", PolicyText{}, "9.9.9.9:80", wire.CodeForbidden},
		{"own through 6to4", PolicyText{}, "[2002:808:404::1]:80", wire.CodeForbidden},
		{"own through NAT64", PolicyText{}, "[64:ff9b::8.8.4.4]:80", wire.CodeForbidden},
		{"own, allowed", PolicyText{Allow: []string{"8.8.4.4/32"}}, "8.8.4.4:80", 0},
		{"zone", PolicyText{Allow: []string{"fe80::/10"}}, "[fe80::1%eth0]:80", wire.CodeForbidden},
	}
	for _, tt := range tests {
		codeWanted(t, tt.name, policy(t, tt.text).Check(netip.MustParseAddrPort(tt.dst), own), tt.want)
	}
	codeWanted(t, "no address", policy(t, PolicyText{}).Check(netip.AddrPort{}, nil), wire.CodeForbidden)
}

func TestPolicyPorts(t *testing.T) {
	tests := []struct {
		in   []string
		want []PortRange
	}{
		{nil, []PortRange{{1, 24}, {26, 65535}}},
		{[]string{"443", "80"}, []PortRange{{80, 80}, {443, 443}}},
		{[]string{"10-20", "15-30", "31", "33"}, []PortRange{{10, 31}, {33, 33}}},
		{[]string{"1-65535", "65535"}, []PortRange{{1, 65535}}},
	}
	for _, tt := range tests {
		if got := policy(t, PolicyText{Ports: tt.in}).Ports(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("ports %q: got %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestPolicyErrors(t *testing.T) {
	tests := []struct {
		text PolicyText
		want string // part of the message
	}{
		{PolicyText{Ports: []string{"http"}}, `"http"`},
		{PolicyText{Ports: []string{"0"}}, `"0"`},
		{PolicyText{Ports: []string{"65536"}}, `"65536"`},
		{PolicyText{Ports: []string{"20-10"}}, `"20-10"`},
		{PolicyText{Ports: []string{"-10"}}, `"-10"`},
		{PolicyText{Ports: []string{"1-2-3"}}, `"1-2-3"`},
		{PolicyText{Ports: make([]string, 33)}, "at most 32"},
		{PolicyText{Allow: []string{"10.0.0.1"}}, `allow "10.0.0.1"`},
		{PolicyText{Allow: []string{"10.0.0.1/8"}}, "did you mean 10.0.0.0/8"},
		{PolicyText{Allow: []string{"0.0.0.0/0"}}, "would open everything"},
		{PolicyText{Allow: []string{"::/0"}}, "would open everything"},
		{PolicyText{Allow: []string{"::ffff:10.0.0.0/104"}}, "write the IPv4 network"},
		{PolicyText{Refuse: []string{"web.lab"}}, `refuse "web.lab"`},
		{PolicyText{Families: []string{"inet6"}}, `"inet6"`},
	}
	for _, tt := range tests {
		if _, err := ParsePolicy(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("policy %+v: got error %v, want one with %q", tt.text, err, tt.want)
		}
	}
}

// FuzzParsePolicy: what parses keeps its promises, whatever the words.
func FuzzParsePolicy(f *testing.F) {
	f.Add("443,1-2", "10.99.0.0/24", "8.8.8.0/24", "ipv4")
	f.Add("", "fd77::/16", "", "ipv4,ipv6")
	f.Add("65535-1", "0.0.0.0/0", "x", "ipv5")
	words := func(s string) []string {
		if s == "" {
			return nil
		}
		return strings.Split(s, ",")
	}
	f.Fuzz(func(t *testing.T, ports, allow, refuse, families string) {
		p, err := ParsePolicy(PolicyText{words(ports), words(allow), words(refuse), words(families)})
		if err != nil {
			return
		}
		last := 0
		for _, r := range p.Ports() {
			if int(r.First) <= last || r.Last < r.First {
				t.Errorf("ports %q: ranges %v not ascending and apart", ports, p.Ports())
			}
			last = int(r.Last) + 1
		}
		if allow == "" {
			for _, s := range refused {
				if p.Check(netip.AddrPortFrom(netip.MustParseAddr(s), 443), nil) == nil {
					t.Errorf("ports %q refuse %q: %s is accepted", ports, refuse, s)
				}
			}
		}
	})
}
