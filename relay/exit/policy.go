package exit

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// PolicyText is a policy as the operator writes it. The zero value is the
// default: all ports but 25 (mail between servers), both families, no private
// network.
type PolicyText struct {
	Ports    []string // "443", "6000-7000"; the only ones, for every destination
	Allow    []string // networks that are refused by default but may be reached: "10.99.0.0/24"
	Refuse   []string // networks refused in any case, before Allow
	Families []string // "ipv4", "ipv6"
}

// maxRules bounds each list of a policy; a record has room for as many ranges
// of ports (docs/protocol.md section 2).
const maxRules = 32

// Policy says which destinations an exit connects. It does not change.
type Policy struct {
	ports  []PortRange // ascending, apart
	allow  []netip.Prefix
	refuse []netip.Prefix
	v4, v6 bool
}

// ParsePolicy reads a policy; an error names the entry that is wrong.
func ParsePolicy(t PolicyText) (*Policy, error) {
	p := &Policy{}
	var err error
	if p.ports, err = parsePorts(t.Ports); err != nil {
		return nil, err
	}
	if p.allow, err = parseNetworks("allow", t.Allow); err != nil {
		return nil, err
	}
	for _, n := range p.allow {
		if n.Bits() == 0 {
			return nil, fmt.Errorf("exit policy: allow %v: would open everything, the exit itself included; public addresses need no entry", n)
		}
	}
	if p.refuse, err = parseNetworks("refuse", t.Refuse); err != nil {
		return nil, err
	}
	for _, f := range t.Families {
		switch f {
		case "ipv4":
			p.v4 = true
		case "ipv6":
			p.v6 = true
		default:
			return nil, fmt.Errorf("exit policy: family %q: want \"ipv4\" or \"ipv6\"", f)
		}
	}
	if len(t.Families) == 0 {
		p.v4, p.v6 = true, true
	}
	return p, nil
}

func parsePorts(list []string) ([]PortRange, error) {
	if len(list) == 0 {
		return []PortRange{{1, 24}, {26, 65535}}, nil
	}
	if len(list) > maxRules {
		return nil, fmt.Errorf("exit policy: %d ranges of ports: at most %d", len(list), maxRules)
	}
	var ranges []PortRange
	for _, s := range list {
		first, last, isRange := strings.Cut(s, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if errors.Join(err1, err2) != nil || a == 0 || a > b {
			return nil, fmt.Errorf("exit policy: port %q: want a port from 1 to 65535, or a range like \"6000-7000\"", s)
		}
		ranges = append(ranges, PortRange{uint16(a), uint16(b)})
	}
	slices.SortFunc(ranges, func(a, b PortRange) int { return int(a.First) - int(b.First) })
	merged := ranges[:1]
	for _, r := range ranges[1:] {
		if last := &merged[len(merged)-1]; int(r.First) <= int(last.Last)+1 {
			last.Last = max(last.Last, r.Last)
		} else {
			merged = append(merged, r)
		}
	}
	return merged, nil
}

func parseNetworks(what string, list []string) ([]netip.Prefix, error) {
	if len(list) > maxRules {
		return nil, fmt.Errorf("exit policy: %d networks in %s: at most %d", len(list), what, maxRules)
	}
	var networks []netip.Prefix
	for _, s := range list {
		n, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("exit policy: %s %q: want a network like \"192.0.2.0/24\" or \"2001:db8::/32\"", what, s)
		}
		if n != n.Masked() {
			return nil, fmt.Errorf("exit policy: %s %q: has bits behind the mask; did you mean %v?", what, s, n.Masked())
		}
		if n.Addr().Is4In6() {
			return nil, fmt.Errorf("exit policy: %s %q: write the IPv4 network", what, s)
		}
		networks = append(networks, n)
	}
	return networks, nil
}

// Ports lists the ranges of ports that are accepted, ascending, at most 32.
func (p *Policy) Ports() []PortRange { return slices.Clone(p.ports) }

// Families tells which address families the policy accepts.
func (p *Policy) Families() (v4, v6 bool) { return p.v4, p.v6 }

// Check tells whether dst may be dialed; own are the exit's addresses. It returns
// nil or a *session.Error: network unreachable for a family that is not offered,
// forbidden for everything else. An IPv4 address in IPv6 form counts as IPv4.
func (p *Policy) Check(dst netip.AddrPort, own []netip.Addr) error {
	if err := p.CheckHost(dst.Addr(), own); err != nil {
		return err
	}
	if !slices.ContainsFunc(p.ports, func(r PortRange) bool { return r.First <= dst.Port() && dst.Port() <= r.Last }) {
		return errForbidden
	}
	return nil
}

// CheckHost is Check without the port, for what has none.
func (p *Policy) CheckHost(addr netip.Addr, own []netip.Addr) error {
	if !addr.IsValid() || addr.Zone() != "" {
		return errForbidden
	}
	addr = addr.Unmap()
	if addr.Is4() && !p.v4 || addr.Is6() && !p.v6 {
		return errFamily
	}
	in := func(networks []netip.Prefix, addr netip.Addr) bool {
		return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
	}
	switch {
	case in(p.refuse, addr), slices.ContainsFunc(embeddedIPv4(addr), func(a netip.Addr) bool { return in(p.refuse, a) }):
		return errForbidden
	case in(p.allow, addr): // the operator knows
	case refusedByDefault(addr) || isOwn(addr, own):
		return errForbidden
	}
	return nil
}
