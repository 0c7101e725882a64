package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Attached is a network that an interface of the host is in.
type Attached struct {
	Device  string       `json:"device"`
	Network netip.Prefix `json:"network"`
}

// Cgroup is a cgroup (v2): its path below the root, without a slash in front,
// and the number by which the kernel knows it.
type Cgroup struct {
	Path string `json:"path"`
	ID   uint64 `json:"id"`
}

func (c Cgroup) level() uint32 { return uint32(strings.Count(c.Path, "/") + 1) }

// Split says what goes past the TUN, by the host's own routes. DNS never does,
// whoever asks.
type Split struct {
	Only     bool           `json:"only,omitempty"` // the other way round: what is listed goes into the TUN, everything else past it
	Users    []uint32       `json:"users,omitempty"`
	Cgroups  []Cgroup       `json:"cgroups,omitempty"`
	Networks []netip.Prefix `json:"networks,omitempty"` // destinations
}

func (s Split) empty() bool {
	return !s.Only && len(s.Users) == 0 && len(s.Cgroups) == 0 && len(s.Networks) == 0
}

// Portal lets the programs of one cgroup reach the login page of the local
// network: names by the network's own resolvers, and HTTP and HTTPS. The kernel
// closes it when its time is over, whether we live or not.
type Portal struct {
	Cgroup    Cgroup       `json:"cgroup"`
	Resolvers []netip.Addr `json:"resolvers,omitempty"`
	Until     int64        `json:"until"` // Unix nanoseconds
}

// Router makes the host the router of the network behind Device.
type Router struct {
	Device    string         `json:"device"`
	Addresses []netip.Prefix `json:"addresses"`         // ours on Device, with the network's length; one per family at most
	Blocked   []string       `json:"blocked,omitempty"` // MAC addresses that nothing is forwarded for
	Direct    []string       `json:"direct,omitempty"`  // MAC addresses whose traffic goes past the TUN, but for DNS
}

// private are the networks that may be a LAN (RFC 1918, RFC 3927, RFC 4193,
// RFC 4291 section 2.5.6). What a DHCP server calls local beside them, it cannot
// let out.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fc00::/7"), linkLocal6,
}

// lan are the attached networks that are private, in order.
func (c *Config) lan(host Host) []Attached {
	if !c.LAN {
		return nil
	}
	var out []Attached
	for _, a := range host.Attached {
		n := a.Network.Masked()
		fits := slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Contains(n.Addr()) && p.Bits() <= n.Bits() })
		if fits && !n.IsSingleIP() && a.Device != c.Device && (n.Addr().Is4() || host.IPv6) {
			out = append(out, Attached{a.Device, n})
		}
	}
	slices.SortFunc(out, func(a, b Attached) int {
		if n := strings.Compare(a.Device, b.Device); n != 0 {
			return n
		}
		return a.Network.Compare(b.Network)
	})
	return slices.Compact(out)
}

// pastMark marks what goes past the TUN: our own mark with the mask's lowest bit
// turned.
func (c *Config) pastMark() uint32 { return c.Mark ^ c.Mask&-c.Mask }

// past tells whether anything may go past the TUN.
func (c *Config) past() bool {
	return !c.Split.empty() || c.Portal != nil || c.Router != nil && len(c.Router.Direct) > 0
}

func (c *Config) checkSplit() error {
	for _, n := range c.Split.Networks {
		if !n.IsValid() || n.Addr().Is4In6() || n.Addr().Zone() != "" {
			return errors.New("a network of the split is not a plain prefix")
		}
	}
	groups := slices.Clone(c.Split.Cgroups)
	if c.Portal != nil {
		groups = append(groups, c.Portal.Cgroup)
		for _, a := range c.Portal.Resolvers {
			if !a.IsValid() || a.Is4In6() {
				return errors.New("a resolver of the portal is not a plain address")
			}
		}
	}
	for _, g := range groups {
		if g.ID == 0 || g.Path == "" || strings.HasPrefix(g.Path, "/") || strings.HasSuffix(g.Path, "/") {
			return fmt.Errorf("cgroup %q: want a path below the root, and the cgroup to exist", g.Path)
		}
	}
	return c.checkRouter()
}

func (c *Config) checkRouter() error {
	r := c.Router
	if r == nil {
		return nil
	}
	if !deviceOK(r.Device) || r.Device == c.Device || r.Device == "lo" {
		return fmt.Errorf("router: %q is no interface for a LAN", r.Device)
	}
	if len(r.Addresses) == 0 {
		return errors.New("router: want an address on the LAN")
	}
	for _, p := range r.Addresses {
		if !p.IsValid() || p.IsSingleIP() || !slices.ContainsFunc(private, func(n netip.Prefix) bool { return n.Contains(p.Addr()) && n.Bits() <= p.Bits() }) {
			return fmt.Errorf("router: %v is no address in a private network", p)
		}
	}
	for _, text := range append(slices.Clone(r.Blocked), r.Direct...) {
		if m, err := net.ParseMAC(text); err != nil || len(m) != 6 {
			return fmt.Errorf("router: %q is no MAC address of six bytes", text)
		}
	}
	return nil
}

func deviceOK(name string) bool {
	return name != "" && len(name) <= 15 && !strings.ContainsAny(name, "/ \t\n:") && name != "." && name != ".."
}

// forwarding6 lets the host forward IPv6. Setting it sets that of every interface,
// which counts whether they follow router advertisements.
const forwarding6 = "net/ipv6/conf/all/forwarding"

// routerSteps are what makes the host a router. Nothing is forwarded but what
// the filter allows, which knows the way into the TUN and back.
func (c *Config) routerSteps(host Host) []Step {
	r := c.Router
	if r == nil {
		return nil
	}
	var out []Step
	set := func(device, key, value string) {
		out = append(out, Step{Kind: Sysctl, Device: device, Key: key, Value: value, Stay: device != c.Device})
	}
	// Answers to direct devices come in by the other interfaces.
	devices := []string{r.Device, c.Device}
	if len(r.Direct) > 0 {
		for _, a := range host.Attached {
			if !slices.Contains(devices, a.Device) {
				devices = append(devices, a.Device)
			}
		}
	}
	for _, d := range devices {
		set(d, "net/ipv4/conf/"+d+"/forwarding", "1")
	}
	has6 := slices.ContainsFunc(r.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) && host.IPv6 && !host.IPv6Off
	if has6 {
		set(r.Device, "net/ipv6/conf/"+r.Device+"/disable_ipv6", "0")
		set(r.Device, "net/ipv6/conf/"+r.Device+"/accept_ra", "0")
		if host.ForceForwarding {
			// Hosts give up a router that answers them as no router would (RFC 4861
			// section 7.2.5).
			set(r.Device, "net/ipv6/conf/"+r.Device+"/forwarding", "1")
			for _, d := range devices {
				set(d, "net/ipv6/conf/"+d+"/force_forwarding", "1")
			}
		} else {
			// A host that forwards forgets the routes it was advertised, unless told so.
			for _, d := range host.AcceptsRA {
				if d != r.Device && d != c.Device {
					set(d, "net/ipv6/conf/"+d+"/accept_ra", "2")
				}
			}
			set("", forwarding6, "1")
		}
	}
	for _, p := range r.Addresses {
		if p.Addr().Is4() || has6 {
			out = append(out, Step{Kind: Address, Device: r.Device, Address: p.Addr(), Stay: true})
		}
	}
	out = append(out, Step{Kind: Link, Device: r.Device, Stay: true})
	for _, p := range r.Addresses {
		if p.Addr().Is4() || has6 {
			out = append(out, Step{Kind: LANRoute, Family: familyOf(p.Addr()), Table: c.Table, Device: r.Device, Network: p.Masked(), Stay: true})
		}
	}
	return out
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// split is the chain that marks what goes past the TUN, before it is routed
// again. DNS is not marked.
func (f Filter) split() []entry {
	out := []entry{when(accept, f.mark(packetMark)), when(accept, device(outDevice, "lo")),
		// A flow that has begun in the TUN stays there, and so do errors about it.
		when(accept, term{on: known}, f.pastTerm(flowMark).negated())}
	if p := f.Portal; p != nil {
		for _, r := range p.Resolvers {
			out = append(out, f.passing(group(p.Cgroup), term{on: clock, long: uint64(p.Until)}, number(protocol, protoUDP), number(destPort, dnsPort), network(dest, host(r))),
				f.passing(group(p.Cgroup), term{on: clock, long: uint64(p.Until)}, number(protocol, protoTCP), number(destPort, dnsPort), network(dest, host(r))))
		}
		for _, port := range []uint32{80, 443} {
			out = append(out, f.passing(group(p.Cgroup), term{on: clock, long: uint64(p.Until)}, number(protocol, protoTCP), number(destPort, port)))
		}
	}
	out = append(out, dns(accept)...)
	hit := f.passing
	if f.Split.Only {
		hit = func(t ...term) entry { return when(accept, t...) }
	}
	for _, u := range f.Split.Users {
		out = append(out, hit(number(user, u)))
	}
	for _, g := range f.Split.Cgroups {
		out = append(out, hit(group(g)))
	}
	for _, n := range f.Split.Networks {
		out = append(out, hit(network(dest, n)))
	}
	if f.Split.Only {
		out = append(out, f.passing())
	}
	return out
}

// fromDirect marks what the LAN's direct devices send. A flow that has begun in
// the TUN stays there: so flows are tracked before any device is direct.
func (f Filter) fromDirect() []entry {
	lan := device(inDevice, f.Router.Device)
	if f.Past == 0 {
		return []entry{when(accept, lan, term{on: known})}
	}
	out := []entry{when(accept, lan, term{on: known}, f.pastTerm(flowMark).negated())}
	for _, e := range dns(accept) {
		out = append(out, when(accept, with([]term{lan}, e.terms...)...))
	}
	for _, m := range f.Router.Direct {
		out = append(out, f.passing(lan, term{on: etherSource, text: m}))
	}
	return out
}

// dns gives a verdict to every question for a name.
func dns(v verdict) []entry {
	var out []entry
	for _, port := range []uint32{dnsPort, dnsTLSPort} {
		out = append(out, when(v, number(protocol, protoTCP), number(destPort, port)), when(v, number(protocol, protoUDP), number(destPort, port)))
	}
	return out
}

// passing marks a packet, and the flow, as one that goes past the TUN.
func (f Filter) passing(terms ...term) entry {
	return entry{terms: terms, verdict: accept, mark: f.Past, mask: f.Mask}
}

func (f Filter) pastTerm(on field) term { return marked(on, f.Past, f.Mask) }

func group(c Cgroup) term { return term{on: cgroup, text: c.Path, number: c.level(), long: c.ID} }

// portalDNS lets the portal's questions out, as long as it is open.
func (f Filter) portalDNS() []entry {
	var out []entry
	if p := f.Portal; p != nil {
		for _, r := range p.Resolvers {
			for _, proto := range []uint32{protoUDP, protoTCP} {
				out = append(out, when(accept, f.pastTerm(packetMark), term{on: clock, long: uint64(p.Until)}, number(protocol, proto), number(destPort, dnsPort), network(dest, host(r))))
			}
		}
	}
	return out
}

// outPast lets out what goes past the TUN; it comes after DNS was refused.
func (f Filter) outPast() []entry {
	if f.Past == 0 {
		return nil
	}
	// What belongs to no flow would leave with the TUN's address.
	return []entry{when(drop, f.pastTerm(packetMark), term{on: stray}), when(accept, f.pastTerm(packetMark))}
}

// ends are the first and the last address of an IPv4 network, which everybody in it
// takes for its own (RFC 922): none of a network of two (RFC 3021).
func ends(n netip.Prefix) []netip.Addr {
	if !n.Addr().Is4() || n.Bits() > 30 {
		return nil
	}
	first := n.Masked().Addr()
	last := first.As4()
	for bit := n.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return []netip.Addr{first, netip.AddrFrom4(last)}
}

// outLAN lets out what goes to the LAN, but not to everybody in it; it comes after
// DNS was refused.
func (f Filter) outLAN() []entry {
	var out []entry
	for _, a := range f.LAN {
		for _, end := range ends(a.Network) {
			out = append(out, when(drop, device(outDevice, a.Device), network(dest, host(end))))
		}
	}
	for _, a := range f.LAN {
		out = append(out, when(accept, device(outDevice, a.Device), network(dest, a.Network)))
	}
	if r := f.Router; r != nil {
		lan := device(outDevice, r.Device)
		out = append(out, when(accept, lan, number(protocol, protoUDP), number(sourcePort, dhcpServer), number(destPort, dhcpClient)))
		for _, p := range r.Addresses {
			if p.Addr().Is4() {
				out = append(out, when(accept, lan, number(protocol, protoICMP4), network(dest, p.Masked())))
				continue
			}
			for _, n := range []netip.Prefix{p.Masked(), linkLocal6, linkGroups} {
				out = append(out, when(accept, lan, number(protocol, protoICMP6), network(dest, n)))
			}
		}
	}
	return out
}

// inPast lets in what answers to that which went past the TUN, and the LAN.
func (f Filter) inPast() []entry {
	var out []entry
	if f.Past != 0 {
		out = append(out, when(accept, term{on: known}, f.pastTerm(flowMark)))
	}
	return out
}

func (f Filter) inLAN() []entry {
	var out []entry
	if f.Split.Only {
		return []entry{when(accept)}
	}
	for _, a := range f.LAN {
		out = append(out, when(accept, device(inDevice, a.Device), network(source, a.Network)))
	}
	if r := f.Router; r != nil {
		lan := device(inDevice, r.Device)
		out = append(out, when(accept, lan, number(protocol, protoUDP), number(sourcePort, dhcpClient), number(destPort, dhcpServer)),
			when(accept, lan, number(protocol, protoICMP4), number(errorType, 8)))
		for _, kind := range []uint32{128, 133} {
			out = append(out, when(accept, lan, number(protocol, protoICMP6), number(type6, kind)))
		}
	}
	return out
}

// notBlocked drops what blocked devices of the LAN send.
func (f Filter) notBlocked() []entry {
	if f.Router == nil {
		return nil
	}
	var out []entry
	for _, m := range f.Router.Blocked {
		out = append(out, when(drop, device(inDevice, f.Router.Device), term{on: etherSource, text: m}))
	}
	return out
}

// forward passes packets between the LAN and the TUN and nothing else.
func (f Filter) forward() []entry {
	r := f.Router
	if r == nil {
		return nil
	}
	in, back := device(inDevice, r.Device), device(outDevice, r.Device)
	var out []entry
	for _, e := range f.notBlocked() {
		out = append(out, when(reset, append(e.terms, number(protocol, protoTCP))...), when(prohibited, e.terms...))
	}
	if f.Past != 0 && len(r.Direct) > 0 {
		for _, e := range dns(drop) {
			out = append(out, when(drop, with([]term{in, device(outDevice, f.Device).negated()}, e.terms...)...))
		}
		out = append(out, when(drop, in, term{on: stray}), when(accept, in, f.pastTerm(packetMark), back.negated()),
			when(accept, back, term{on: known}, f.pastTerm(flowMark)))
	}
	for _, p := range r.Addresses {
		out = append(out, when(accept, in, device(outDevice, f.Device), network(source, p.Masked())),
			when(accept, device(inDevice, f.Device), back, network(dest, p.Masked())))
	}
	return append(out, when(reset, in, number(protocol, protoTCP)), when(prohibited, in))
}

// egressLAN are the rules of a device that leads to the LAN.
func (f Filter) egressLAN(name string) []entry {
	var out []entry
	word := func(p netip.Prefix) term {
		return number(etherType, map[bool]uint32{true: etherIP4, false: etherIP6}[p.Addr().Is4()])
	}
	refused := false
	for _, a := range f.LAN {
		for _, end := range ends(a.Network) {
			if a.Device == name {
				out = append(out, when(drop, word(a.Network), network(dest, host(end))))
			}
		}
	}
	for _, a := range f.LAN {
		if a.Device != name {
			continue
		}
		if !refused {
			refused = true
			for _, kind := range []uint32{etherIP4, etherIP6} {
				for _, e := range dns(drop) {
					out = append(out, when(drop, with([]term{number(etherType, kind)}, e.terms...)...))
				}
			}
		}
		out = append(out, when(accept, word(a.Network), network(dest, a.Network)))
	}
	if r := f.Router; r != nil && r.Device == name {
		for _, p := range r.Addresses {
			out = append(out, when(accept, word(p), network(dest, p.Masked())))
		}
		all := netip.MustParsePrefix("255.255.255.255/32")
		out = append(out, when(accept, number(etherType, etherIP4), number(protocol, protoUDP), number(sourcePort, dhcpServer), number(destPort, dhcpClient), network(dest, all)))
		for _, n := range []netip.Prefix{linkLocal6, linkGroups} {
			out = append(out, when(accept, number(etherType, etherIP6), number(protocol, protoICMP6), network(dest, n)))
		}
	}
	return out
}

// deadline shows the portal's end for people.
func deadline(ns uint64) string {
	return time.Unix(0, int64(ns)).UTC().Format("\"2006-01-02 15:04:05\"")
}
