package exit

import (
	"net/netip"
	"slices"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// special4 are the IPv4 networks that are not the public Internet: the IANA
// special-purpose registry (RFC 6890 and its updates), multicast and class E.
var special4 = prefixes(
	"0.0.0.0/8",       // this network (RFC 791); 0.0.0.0 is the machine itself
	"10.0.0.0/8",      // private (RFC 1918)
	"100.64.0.0/10",   // carrier-grade NAT (RFC 6598)
	"127.0.0.0/8",     // loopback (RFC 1122)
	"169.254.0.0/16",  // link-local (RFC 3927), 169.254.169.254 of clouds
	"172.16.0.0/12",   // private (RFC 1918)
	"192.0.0.0/24",    // protocol assignments (RFC 6890)
	"192.0.2.0/24",    // documentation (RFC 5737)
	"192.88.99.0/24",  // 6to4 relays (RFC 7526)
	"192.168.0.0/16",  // private (RFC 1918)
	"198.18.0.0/15",   // benchmarks (RFC 2544)
	"198.51.100.0/24", // documentation (RFC 5737)
	"203.0.113.0/24",  // documentation (RFC 5737)
	"224.0.0.0/4",     // multicast (RFC 5771)
	"240.0.0.0/4",     // reserved (RFC 1112), 255.255.255.255
)

// special6 are networks within global6 that are not the public Internet.
var special6 = prefixes(
	"2001::/23",     // protocol assignments (RFC 2928): benchmarks, ORCHID; Teredo is looked at before
	"2001:db8::/32", // documentation (RFC 3849)
	"3fff::/20",     // documentation (RFC 9637)
)

var (
	// global6 is all of IPv6 that is routed as unicast (RFC 4291 section 2.4 and
	// IANA). Outside: loopback, link-local, fc00::/7 (with fd00:ec2::254 of a
	// cloud), multicast, and forms that embed IPv4.
	global6 = netip.MustParsePrefix("2000::/3")
	nat64   = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixto4  = netip.MustParsePrefix("2002::/16")    // RFC 3056
	teredo  = netip.MustParsePrefix("2001::/32")    // RFC 4380
)

// refusedByDefault tells whether addr is not a public unicast address, or embeds
// an IPv4 address that is not.
func refusedByDefault(addr netip.Addr) bool {
	in := func(networks []netip.Prefix) bool {
		return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
	}
	if addr.Is4() {
		return in(special4)
	}
	if embedded := embeddedIPv4(addr); len(embedded) > 0 {
		return slices.ContainsFunc(embedded, refusedByDefault)
	}
	return !global6.Contains(addr) || in(special6)
}

// Internal tells whether a rule that allows n means what is refused otherwise: n
// is a single address, or lies within a network that is not public. Networks that
// embed IPv4 addresses say nothing about those.
func Internal(n netip.Prefix) bool {
	within := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(s netip.Prefix) bool { return s.Bits() <= n.Bits() && s.Contains(n.Addr()) })
	}
	switch {
	case n.IsSingleIP():
		return true
	case n.Addr().Is4():
		return within(special4)
	case n.Overlaps(nat64) || n.Overlaps(sixto4) || n.Overlaps(teredo):
		return false
	}
	return !n.Overlaps(global6) || within(special6)
}

// isOwn tells whether addr, or an IPv4 address it embeds, is one of the exit's or in a
// network that the exit is in: over IPv6 the hosts of a home or office have public
// addresses, and are reached from outside by nobody but the exit.
func isOwn(addr netip.Addr, own []netip.Prefix) bool {
	inside := embeddedIPv4(addr)
	return slices.ContainsFunc(own, func(n netip.Prefix) bool {
		if a := n.Addr(); a.Is4In6() {
			n = netip.PrefixFrom(a.Unmap(), max(n.Bits()-96, 0))
		}
		return n.Contains(addr) || slices.ContainsFunc(inside, n.Contains)
	})
}

// embeddedIPv4 gives the IPv4 addresses to which a packet for addr would be
// translated or tunnelled.
func embeddedIPv4(addr netip.Addr) []netip.Addr {
	if !addr.Is6() {
		return nil
	}
	b := addr.As16()
	v4 := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case nat64.Contains(addr):
		return []netip.Addr{v4(12)}
	case sixto4.Contains(addr):
		return []netip.Addr{v4(2)}
	case teredo.Contains(addr): // server, and the client's address inverted
		for i := 12; i < 16; i++ {
			b[i] = ^b[i]
		}
		return []netip.Addr{v4(4), v4(12)}
	}
	return nil
}
