package hostnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// tableName is of our two nftables tables, of the families inet and netdev.
// Nobody else may use the name.
const tableName = "cuttle"

// Filter says what the packet filter lets through. Its rules are a pure
// function of it: output, input and forward of this machine (family inet), and
// egress of every device that is not the TUN or loopback (family netdev).
type Filter struct {
	Device string           `json:"device"` // the TUN: everything may go into it
	Mark   uint32           `json:"mark"`   // of our own link sockets
	Mask   uint32           `json:"mask"`
	Own    []netip.Addr     `json:"own,omitempty"`    // of the TUN: nobody else may send to them
	Peers  []netip.AddrPort `json:"peers,omitempty"`  // where marked sockets may connect to (TCP); none: anywhere
	Listen []uint16         `json:"listen,omitempty"` // TCP ports of marked listeners

	Past   uint32     `json:"past,omitempty"` // marks what goes past the TUN; 0: nothing does
	Split  Split      `json:"split,omitzero"`
	Portal *Portal    `json:"portal,omitempty"`
	LAN    []Attached `json:"lan,omitempty"` // networks that may be reached beside the TUN
	Router *Router    `json:"router,omitempty"`

	User string `json:"user,omitempty"` // macOS, instead of a mark: whose sockets are links
}

// field is what a term looks at; the text is nft(8)'s.
type field string

const (
	inDevice   field = "iifname"
	outDevice  field = "oifname"
	packetMark field = "meta mark"
	socketMark field = "socket mark"
	protocol   field = "meta l4proto"
	etherType  field = "ether type"    // in the frame
	kindOf     field = "meta protocol" // what the kernel, or a packet socket, calls it
	source     field = "saddr"
	dest       field = "daddr"
	sourcePort field = "th sport"
	destPort   field = "th dport"
	errorType  field = "icmp type"
	type6      field = "icmpv6 type"
	hopLimit   field = "ip6 hoplimit"
	fragment6  field = "exthdr frag"
	peerDest   field = "daddr . tcp dport"
	peerSource field = "saddr . tcp sport"

	user        field = "meta skuid"
	cgroup      field = "socket cgroupv2"
	flowMark    field = "ct mark"
	known       field = "ct state established,related"
	stray       field = "ct state invalid"
	etherSource field = "ether saddr"
	clock       field = "meta time"
)

// term is one condition. Which members count depends on the field.
type term struct {
	on     field
	not    bool
	text   string       // of devices, MAC addresses and cgroups
	number uint32       // of all others but addresses
	mask   uint32       // of marks
	prefix netip.Prefix // of addresses
	family int          // of peers: 4 or 6
	long   uint64       // of cgroups and times
}

// verdict ends a rule; the text is nft(8)'s.
type verdict string

const (
	accept     verdict = "accept"
	drop       verdict = "drop"
	reset      verdict = "reject with tcp reset"
	prohibited verdict = "reject with icmpx admin-prohibited"
	masquerade verdict = "masquerade"
)

// entry is one rule: all terms hold, so the verdict counts. With a mark, the
// packet and its flow get that first.
type entry struct {
	terms      []term
	verdict    verdict
	mark, mask uint32
}

// chain is a base chain. Those of the kind filter, the zero one, at the hook
// that they are named after drop what no entry names; the others let it through.
type chain struct {
	name    string
	entries []entry
	kind    chainKind
}

// chainKind is type, hook and priority of a base chain as nft(8) writes them.
type chainKind string

const (
	reroutes chainKind = "type route hook output priority mangle"
	arrives  chainKind = "type filter hook prerouting priority mangle"
	hides    chainKind = "type nat hook postrouting priority srcnat"
)

func (ch chain) head() string {
	if ch.kind != "" {
		return string(ch.kind) + "; policy accept;"
	}
	return "type filter hook " + ch.name + " priority filter; policy drop;"
}

// Numbers of protocols (IANA) and of Ethernet types (IEEE 802).
const (
	protoICMP4 = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58

	etherIP4   = 0x0800
	etherARP   = 0x0806
	etherIP6   = 0x86dd
	etherEAPOL = 0x888e // IEEE 802.1X: without it a protected network ends
)

// Ports of DHCP (RFC 2131, RFC 8415) and of DNS (RFC 1035, RFC 7858).
const (
	dhcpServer, dhcpClient   = 67, 68
	dhcp6Server, dhcp6Client = 547, 546
	dnsPort, dnsTLSPort      = 53, 853
)

var (
	linkLocal6 = netip.MustParsePrefix("fe80::/10")
	linkGroups = netip.MustParsePrefix("ff02::/16")
	// dhcpAgents is where all DHCPv6 servers and relays of a link listen.
	dhcpAgents = netip.MustParsePrefix("ff02::1:2/128")
	// dhcpServers is where DHCPv4 questions may go. A lease of a server with a
	// public address is renewed by broadcast (RFC 2131 section 4.4.5, REBINDING).
	dhcpServers = []netip.Prefix{
		netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("169.254.0.0/16"),
	}
)

func device(on field, name string) term       { return term{on: on, text: name} }
func number(on field, n uint32) term          { return term{on: on, number: n} }
func marked(on field, mark, mask uint32) term { return term{on: on, number: mark, mask: mask} }
func network(on field, p netip.Prefix) term   { return term{on: on, prefix: p} }
func peers(on field, family int) term         { return term{on: on, family: family} }
func when(v verdict, terms ...term) entry     { return entry{terms: terms, verdict: v} }
func host(a netip.Addr) netip.Prefix          { return netip.PrefixFrom(a, a.BitLen()) }
func (t term) negated() term                  { t.not = true; return t }
func with(first []term, rest ...term) []term  { return append(slices.Clone(first), rest...) }
func (f Filter) mark(on field) term           { return marked(on, f.Mark, f.Mask) }
func (f Filter) peersOf(family int) (out []netip.AddrPort) {
	for _, p := range f.Peers {
		if p.Addr().Is4() == (family == 4) {
			out = append(out, p)
		}
	}
	return out
}

// chains are the rules of the family inet. Packets of links come first, so that
// they pass few rules.
func (f Filter) chains() []chain {
	out := []chain{{name: "output", entries: f.output()}, {name: "input", entries: f.input()}, {name: "forward", entries: f.forward()}}
	if f.Router != nil {
		out = append(out, chain{name: "direct", entries: f.fromDirect(), kind: arrives})
	}
	if f.Past == 0 {
		return out
	}
	return append(out, chain{name: "split", entries: f.split(), kind: reroutes},
		chain{name: "leave", entries: []entry{when(masquerade, device(outDevice, "lo").negated(), f.pastTerm(packetMark))}, kind: hides})
}

func (f Filter) output() []entry {
	var out []entry
	for _, family := range []int{4, 6} {
		if len(f.peersOf(family)) > 0 {
			out = append(out, when(accept, f.mark(packetMark), peers(peerDest, family)))
		}
	}
	for _, port := range f.Listen {
		out = append(out, when(accept, f.mark(packetMark), number(protocol, protoTCP), number(sourcePort, uint32(port))))
	}
	if len(f.Peers) == 0 {
		out = append(out, when(accept, f.mark(packetMark)))
	}
	out = append(out, when(accept, device(outDevice, "lo")), when(accept, device(outDevice, f.Device)))
	out = append(out, f.portalDNS()...)
	// Names are asked for nowhere but in the tunnel, whatever is allowed below.
	for _, port := range []uint32{dnsPort, dnsTLSPort} {
		out = append(out, when(reset, number(protocol, protoTCP), number(destPort, port)),
			when(prohibited, number(protocol, protoUDP), number(destPort, port)))
	}
	out = append(append(out, f.outPast()...), f.outLAN()...)
	out = append(out, ask(nil, nil)...)
	// No answer to the established: flows from before end here, and at once.
	return append(out, when(reset, number(protocol, protoTCP)), when(prohibited))
}

// ask lets through what the local link needs: DHCP, router and neighbor
// discovery (RFC 4861). v4 and v6 are terms that go before.
func ask(v4, v6 []term) []entry {
	var out []entry
	for _, p := range dhcpServers {
		out = append(out, when(accept, with(v4, number(protocol, protoUDP), number(sourcePort, dhcpClient), number(destPort, dhcpServer), network(dest, p))...))
	}
	for _, p := range []netip.Prefix{dhcpAgents, linkLocal6} {
		out = append(out, when(accept, with(v6, number(protocol, protoUDP), number(sourcePort, dhcp6Client), number(destPort, dhcp6Server), network(dest, p))...))
	}
	for _, kind := range []uint32{133, 135, 136} { // solicit routers; solicit and advertise neighbors
		out = append(out, when(accept, with(v6, number(protocol, protoICMP6), number(type6, kind), number(hopLimit, 255))...))
	}
	return out
}

func (f Filter) input() []entry {
	out := append(f.notBlocked(), f.inPast()...)
	for _, a := range f.Own { // CVE-2019-14899
		out = append(out, when(drop, device(inDevice, f.Device).negated(), device(inDevice, "lo").negated(), network(dest, host(a))))
	}
	for _, family := range []int{4, 6} {
		if len(f.peersOf(family)) > 0 {
			out = append(out, when(accept, peers(peerSource, family)))
		}
	}
	out = append(out, when(accept, device(inDevice, "lo")), when(accept, device(inDevice, f.Device)))
	if len(f.Peers) == 0 {
		// Fragments of IPv6 are put together after this hook only, and have no
		// socket before; what they are answered with is still filtered.
		out = append(out, when(accept, f.mark(socketMark)), when(accept, term{on: fragment6}))
	}
	for _, port := range f.Listen {
		out = append(out, when(accept, number(protocol, protoTCP), number(destPort, uint32(port))))
	}
	out = append(out,
		when(accept, number(protocol, protoUDP), number(sourcePort, dhcpServer), number(destPort, dhcpClient)),
		when(accept, number(protocol, protoUDP), number(sourcePort, dhcp6Server), number(destPort, dhcp6Client), network(source, linkLocal6)),
		when(accept, number(protocol, protoICMP6), number(type6, 134), number(hopLimit, 255), network(source, linkLocal6)))
	for _, kind := range []uint32{135, 136} {
		out = append(out, when(accept, number(protocol, protoICMP6), number(type6, kind), number(hopLimit, 255)))
	}
	// Errors of the path, for links; the kernel compares them with its sockets.
	out = append(out, when(accept, number(protocol, protoICMP4), number(errorType, 3)))
	for _, kind := range []uint32{1, 2} {
		out = append(out, when(accept, number(protocol, protoICMP6), number(type6, kind)))
	}
	return append(out, f.inLAN()...)
}

// egress are the rules of each physical device. They see the frames of packet
// sockets too, whose Ethernet type is read from the frame since the socket may
// claim another. Links do not depend on that: a device may have no Ethernet
// frames, or tags in them.
func (f Filter) egress(name string) []entry {
	var out []entry
	for _, family := range []int{4, 6} {
		if len(f.peersOf(family)) > 0 {
			out = append(out, when(accept, number(kindOf, etherOf(family == 4)), f.mark(packetMark), peers(peerDest, family)))
		}
	}
	for _, port := range f.Listen {
		for _, v4 := range []bool{true, false} {
			out = append(out, when(accept, number(kindOf, etherOf(v4)), f.mark(packetMark), number(protocol, protoTCP), number(sourcePort, uint32(port))))
		}
	}
	if len(f.Peers) == 0 {
		out = append(out, when(accept, f.mark(packetMark)))
	}
	out = append(out, when(accept, number(etherType, etherARP)), when(accept, number(etherType, etherEAPOL)))
	if f.Past != 0 {
		out = append(out, when(accept, f.pastTerm(packetMark)))
	}
	out = append(out, f.egressLAN(name)...)
	return append(out, ask([]term{number(etherType, etherIP4)}, []term{number(etherType, etherIP6)})...)
}

// etherOf is the Ethernet type of a family.
func etherOf(v4 bool) uint32 {
	if v4 {
		return etherIP4
	}
	return etherIP6
}

// text writes the rules as nft(8) would list them.
func (f Filter) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", tableName)
	f.writeSets(&b)
	for _, c := range f.chains() {
		fmt.Fprintf(&b, "  chain %s {\n    %s\n", c.name, c.head())
		writeEntries(&b, c.entries)
		b.WriteString("  }\n")
	}
	b.WriteString("}")
	return b.String()
}

func (f Filter) writeSets(b *strings.Builder) {
	for _, family := range []int{4, 6} {
		list := f.peersOf(family)
		if len(list) == 0 {
			continue
		}
		elements := make([]string, len(list))
		for i, p := range list {
			elements[i] = p.Addr().String() + " . " + strconv.Itoa(int(p.Port()))
		}
		fmt.Fprintf(b, "  set %s { type ipv%d_addr . inet_service; elements = { %s } }\n", setName(family), family, strings.Join(elements, ", "))
	}
}

// egressText writes the rules of the devices: those that have some of their own,
// and one for all others.
func (f Filter) egressText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table netdev %s {\n", tableName)
	f.writeSets(&b)
	names := f.devices()
	for _, name := range names {
		if name == anyDevice {
			fmt.Fprintf(&b, "  # one for each %sdevice but lo and %s, new ones included\n", map[bool]string{true: "other "}[len(names) > 1], f.Device)
		}
		fmt.Fprintf(&b, "  chain %s {\n    type filter hook egress device %q priority filter; policy drop;\n", egressChain(name), name)
		writeEntries(&b, f.egress(name))
		b.WriteString("  }\n")
	}
	b.WriteString("}")
	return b.String()
}

// anyDevice stands for the devices that have no rules of their own.
const anyDevice = "DEVICE"

// devices are those that have rules of their own, and anyDevice.
func (f Filter) devices() []string {
	var own []string
	for _, a := range f.LAN {
		own = append(own, a.Device)
	}
	if f.Router != nil {
		own = append(own, f.Router.Device)
	}
	slices.Sort(own)
	return append(slices.Compact(own), anyDevice)
}

func setName(family int) string { return "peers" + strconv.Itoa(family) }

func egressChain(device string) string { return "egress-" + device }

func writeEntries(b *strings.Builder, entries []entry) {
	for _, e := range entries {
		b.WriteString("    ")
		for _, t := range e.terms {
			b.WriteString(t.String())
			b.WriteByte(' ')
		}
		if e.mark != 0 {
			fmt.Fprintf(b, "meta mark set meta mark & %#x | %#x ct mark set ct mark & %#x | %#x ", ^e.mask, e.mark, ^e.mask, e.mark)
		}
		b.WriteString(string(e.verdict))
		b.WriteByte('\n')
	}
}

// String writes one condition as nft(8) would.
func (t term) String() string {
	not := ""
	if t.not {
		not = "!= "
	}
	switch t.on {
	case inDevice, outDevice:
		return fmt.Sprintf("%s %s%q", t.on, not, t.text)
	case cgroup:
		return fmt.Sprintf("%s level %d %q", t.on, t.number, t.text)
	case known, stray:
		return string(t.on)
	case etherSource:
		return fmt.Sprintf("%s %s", t.on, t.text)
	case clock:
		return fmt.Sprintf("%s < %s", t.on, deadline(t.long))
	case packetMark, socketMark, flowMark:
		return fmt.Sprintf("%s & %#x %s %#x", t.on, t.mask, map[bool]string{false: "==", true: "!="}[t.not], t.number)
	case source, dest:
		return fmt.Sprintf("%s %s %s%s", ipWord(t.prefix.Addr().Is4()), t.on, not, t.prefix)
	case peerDest, peerSource:
		return fmt.Sprintf("%s %s @%s", ipWord(t.family == 4), t.on, setName(t.family))
	case fragment6:
		return string(t.on) + " exists"
	case etherType, kindOf:
		return fmt.Sprintf("%s %#04x", t.on, t.number)
	default:
		return fmt.Sprintf("%s %s%d", t.on, not, t.number)
	}
}

func ipWord(v4 bool) string {
	if v4 {
		return "ip"
	}
	return "ip6"
}
