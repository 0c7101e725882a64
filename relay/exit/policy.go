package exit

import (
	"fmt"
	"net/netip"
	"slices"
)

const (
	maxRules  = 128
	maxRanges = 32 // of ports in a record, docs/protocol.md section 2
)

// Policy says which destinations an exit connects: rules in order, of which the
// first that fits decides. Behind the last one public addresses are allowed and
// internal ones, the exit's own and its neighbors on a network included, are not. A rule that allows opens
// internal addresses only if its network lies within an internal one, or is a
// single address: "allow *:443" means public addresses. A rule that denies an IPv4
// network is also about IPv6 addresses that embed addresses of it. A Policy does
// not change.
type Policy struct {
	rules  []rule
	ports  []PortRange
	v4, v6 bool
}

// ParsePolicy reads rules; an error names the one that is wrong and says what to
// write. No rules: every public address and port.
func ParsePolicy(rules []string) (*Policy, error) {
	if len(rules) > maxRules {
		return nil, fmt.Errorf("%d rules: at most %d", len(rules), maxRules)
	}
	p := &Policy{}
	for _, text := range rules {
		r, err := parseRule(text)
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, r)
	}
	p.summarize()
	if len(p.ports) > maxRanges {
		return nil, fmt.Errorf("its ports are %d ranges, and a record has room for %d; deny fewer single ports", len(p.ports), maxRanges)
	}
	return p, nil
}

// summarize finds what the record says: the ports on which TCP or UDP to public
// addresses in general is allowed, and the families in which there is one. Rules
// about networks are not general.
func (p *Policy) summarize() {
	var accepted [1 << 16]bool
	open := func(pr Protocol, v6 bool) (some bool) {
		var decided [1 << 16]bool
		for port := 1; port < len(decided); port++ {
			allow := true
			for i := range p.rules {
				r := &p.rules[i]
				if r.network.IsValid() || r.protocols&pr == 0 || (v6 && !r.v6) || (!v6 && !r.v4) || !r.takes(pr, uint16(port)) {
					continue
				}
				allow = r.allow
				break
			}
			if allow {
				accepted[port], some = true, true
			}
		}
		return some
	}
	for _, pr := range []Protocol{TCP, UDP} {
		p.v4 = open(pr, false) || p.v4
		p.v6 = open(pr, true) || p.v6
	}
	for port := 1; port < len(accepted); port++ {
		switch {
		case !accepted[port]:
		case accepted[port-1]:
			p.ports[len(p.ports)-1].Last = uint16(port)
		default:
			p.ports = append(p.ports, PortRange{uint16(port), uint16(port)})
		}
	}
}

// Ports lists the ranges of ports on which TCP or UDP to public addresses is
// allowed, ascending, apart, at most 32.
func (p *Policy) Ports() []PortRange { return slices.Clone(p.ports) }

// Families tells in which address families there are such ports.
func (p *Policy) Families() (v4, v6 bool) { return p.v4, p.v6 }

// Check tells whether dst may be reached with a protocol (one of them); own are the
// exit's addresses, each with the network that it is in. ICMP has no port. It returns nil or a *session.Error: network
// unreachable where a rule denies the whole family, forbidden for everything else.
// An IPv4 address in IPv6 form counts as IPv4.
func (p *Policy) Check(protocol Protocol, dst netip.AddrPort, own []netip.Prefix) error {
	addr := dst.Addr()
	if !addr.IsValid() || addr.Zone() != "" || protocol != ICMP && dst.Port() == 0 {
		return errForbidden
	}
	addr = addr.Unmap()
	embedded := embeddedIPv4(addr)
	internal := refusedByDefault(addr) || isOwn(addr, own)
	for i := range p.rules {
		r := &p.rules[i]
		fits := r.fits(protocol, addr, dst.Port())
		if r.allow {
			if fits && (r.named || !internal) {
				return nil
			}
			continue
		}
		inside := r.network.IsValid() &&
			slices.ContainsFunc(embedded, func(a netip.Addr) bool { return r.fits(protocol, a, dst.Port()) })
		switch {
		case fits && r.family():
			return errFamily
		case fits || inside:
			return errForbidden
		}
	}
	if internal {
		return errForbidden
	}
	return nil
}

// shown tells whether one of our own addresses may be told: a public one, or one
// of a network that is open to clients anyway.
func (p *Policy) shown(a netip.Addr) bool {
	return !refusedByDefault(a) || slices.ContainsFunc(p.rules, func(r rule) bool {
		return r.allow && r.named && r.network.Contains(a)
	})
}
