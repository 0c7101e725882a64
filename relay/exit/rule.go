package exit

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Protocol is what a destination is asked for with; a rule names a set of them.
type Protocol uint8

// The protocols.
const (
	TCP  Protocol = 1 << iota
	UDP           // datagrams
	ICMP          // echo requests; they have no port

	anyProtocol = TCP | UDP | ICMP
)

var protocolNames = map[string]Protocol{"tcp": TCP, "udp": UDP, "icmp": ICMP}

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// rule is one entry of a policy, as text
//
//	("allow" | "deny") ["tcp" | "udp" | "icmp"] WHERE [":" PORTS]
//
// WHERE is *, ipv4, ipv6, an address or a network, in brackets if it is IPv6 and
// ports follow; PORTS are numbers and ranges with commas between them.
type rule struct {
	allow     bool
	protocols Protocol
	v4, v6    bool         // families it is about
	network   netip.Prefix // the zero value: all of the families
	ports     []PortRange  // ascending, apart; empty: all
	named     bool         // the network is an internal one, or one address: the operator means it
}

const example = `write for example "allow tcp *:443", "deny 192.0.2.0/24", "allow udp [2001:db8::/32]:1024-65535" or "deny ipv6"`

// parseRule reads a rule; the error says what is wrong and what to write.
func parseRule(text string) (rule, error) {
	bad := func(format string, args ...any) (rule, error) {
		return rule{}, fmt.Errorf("rule %q: %s; %s", text, fmt.Sprintf(format, args...), example)
	}
	words := strings.Fields(text)
	if len(words) < 2 || len(words) > 3 {
		return bad("a rule has two or three words")
	}
	r := rule{protocols: anyProtocol}
	switch words[0] {
	case "allow":
		r.allow = true
	case "deny":
	default:
		return bad("it begins with %q", words[0])
	}
	if len(words) == 3 {
		p, ok := protocolNames[words[1]]
		if !ok {
			return bad("protocol %q is not tcp, udp or icmp", words[1])
		}
		r.protocols = p
	}
	where, ports, hasPorts, err := splitWhere(words[len(words)-1])
	if err == nil {
		err = r.parseWhere(where)
	}
	if err == nil && hasPorts {
		r.ports, err = parsePorts(ports)
	}
	if err == nil && hasPorts && r.protocols == ICMP {
		err = errors.New("icmp has no ports")
	}
	if err != nil {
		return bad("%v", err)
	}
	return r, nil
}

// splitWhere parts what is before the ports from them.
func splitWhere(s string) (where, ports string, hasPorts bool, err error) {
	if inside, ok := strings.CutPrefix(s, "["); ok {
		where, rest, closed := strings.Cut(inside, "]")
		if !closed || !strings.Contains(where, ":") {
			return "", "", false, errors.New("brackets are for an IPv6 network")
		}
		if rest == "" {
			return where, "", false, nil
		}
		if ports, ok = strings.CutPrefix(rest, ":"); !ok {
			return "", "", false, fmt.Errorf("%q follows the bracket", rest)
		}
		return where, ports, true, nil
	}
	if strings.Count(s, ":") > 1 {
		return s, "", false, nil // IPv6 without ports
	}
	where, ports, hasPorts = strings.Cut(s, ":")
	return where, ports, hasPorts, nil
}

func (r *rule) parseWhere(s string) error {
	switch s {
	case "*":
		r.v4, r.v6 = true, true
		return nil
	case "ipv4":
		r.v4 = true
		return nil
	case "ipv6":
		r.v6 = true
		return nil
	}
	n, err := netip.ParsePrefix(s)
	if addr, single := netip.ParseAddr(s); single == nil && addr.Zone() == "" {
		n, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("%q is not *, ipv4, ipv6, an address or a network", s)
	case n != n.Masked():
		return fmt.Errorf("%q has bits behind the mask; did you mean %v?", s, n.Masked())
	case n.Addr().Is4In6():
		return fmt.Errorf("%q: write the IPv4 network", s)
	}
	r.network, r.named = n, Internal(n)
	r.v4, r.v6 = n.Addr().Is4(), n.Addr().Is6()
	return nil
}

// parsePorts reads ports and ranges; overlapping ones become one.
func parsePorts(s string) ([]PortRange, error) {
	var ranges []PortRange
	for word := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(word, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if errors.Join(err1, err2) != nil || a == 0 || a > b {
			return nil, fmt.Errorf("port %q is neither one from 1 to 65535 nor a range like 6000-7000", word)
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

// String writes the rule so that parseRule reads it.
func (r rule) String() string {
	var b strings.Builder
	b.WriteString(map[bool]string{true: "allow ", false: "deny "}[r.allow])
	for name, p := range protocolNames {
		if r.protocols == p {
			b.WriteString(name + " ")
		}
	}
	switch {
	case r.network.IsValid() && r.v6 && len(r.ports) > 0:
		fmt.Fprintf(&b, "[%v]", r.network)
	case r.network.IsValid():
		b.WriteString(r.network.String())
	case r.v4 && r.v6:
		b.WriteString("*")
	case r.v4:
		b.WriteString("ipv4")
	default:
		b.WriteString("ipv6")
	}
	for i, p := range r.ports {
		b.WriteString(map[bool]string{true: ":", false: ","}[i == 0])
		b.WriteString(strconv.Itoa(int(p.First)))
		if p.Last != p.First {
			b.WriteString("-" + strconv.Itoa(int(p.Last)))
		}
	}
	return b.String()
}

// fits tells whether the rule is about addr (not an IPv4 address in IPv6 form)
// and, unless p is ICMP, port.
func (r *rule) fits(p Protocol, addr netip.Addr, port uint16) bool {
	if r.protocols&p == 0 || addr.Is4() && !r.v4 || addr.Is6() && !r.v6 {
		return false
	}
	return (!r.network.IsValid() || r.network.Contains(addr)) && r.takes(p, port)
}

// takes is fits for the port alone. Rules with ports are not about ICMP.
func (r *rule) takes(p Protocol, port uint16) bool {
	if len(r.ports) == 0 {
		return true
	}
	return p != ICMP && slices.ContainsFunc(r.ports, func(q PortRange) bool { return q.First <= port && port <= q.Last })
}

// family tells whether the rule takes a whole family, and not both, away.
func (r *rule) family() bool {
	return !r.allow && !r.network.IsValid() && r.v4 != r.v6 && r.protocols == anyProtocol && len(r.ports) == 0
}
