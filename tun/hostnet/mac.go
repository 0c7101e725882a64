package hostnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// macOS has no routing tables, no rules and no marks. What it has is pf(4), whose
// rules hold for every interface, present and to come, and a routing table in which
// the longer prefix wins. So a plan for it is:
//
//   - pf: an anchor of our own, evaluated before all others, that lets nothing pass but
//     what docs/states.md names. Links are told by peer, port and user (pf.go);
//   - routes: the two halves of each family are refused, and the four quarters go into
//     the TUN. When the TUN dies the quarters go with it, and the halves stay. Our links'
//     sockets are bound to the uplink, whose own routes they use;
//   - scutil(8): a service of the dynamic store that is primary and names our name servers.
//
// All of this is in files that every system compiles, and the tests of which run on
// every system; the files *_darwin.go hold system calls only.

// The kinds of steps on macOS.
const (
	MacHook   Kind = "pf-hook"   // the main ruleset evaluates our anchor, first
	MacFilter Kind = "pf-rules"  // Filter: our anchor
	MacOn     Kind = "pf-on"     // pf is on, for as long as we want
	MacReject Kind = "reject"    // Network: half of all addresses, refused
	MacLink   Kind = "utun"      // Device, MTU: up
	MacAddr   Kind = "utun-addr" // Device, Address
	MacRoute  Kind = "utun-net"  // Network, Address: a quarter of all addresses, through the TUN with this address
	MacNames  Kind = "dns"       // Device, Address, Value (name servers)
)

// Programs of macOS that a plan needs (docs/decisions/0013). Arguments are fixed
// here, and what they read comes by standard input.
const (
	pfctl  = "/sbin/pfctl"
	scutil = "/usr/sbin/scutil"
)

// The halves and the quarters of all addresses.
var (
	halves = map[int][]netip.Prefix{
		4: prefixes("0.0.0.0/1", "128.0.0.0/1"),
		6: prefixes("::/1", "8000::/1"),
	}
	quarters = map[int][]netip.Prefix{
		4: prefixes("0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"),
		6: prefixes("::/2", "4000::/2", "8000::/2", "c000::/2"),
	}
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// macPlan is NewPlan for macOS. Its pf needs no feature that could be missing, and
// both families are always there.
func macPlan(cfg Config, host Host) (Plan, error) {
	if number, ok := strings.CutPrefix(cfg.Device, "utun"); !ok || !isNumber(number) {
		return Plan{}, fmt.Errorf("tun name %q: want utun and a number on macOS", cfg.Device)
	}
	p := Plan{Missing: cfg.macMissing()}
	add := func(s Step) { p.Steps = append(p.Steps, s) }
	f := Filter{Device: cfg.Device, Own: slices.Clone(cfg.Addresses), Peers: slices.Clone(cfg.Peers), Listen: slices.Clone(cfg.Listen), LAN: cfg.lan(host), User: macUser}
	add(Step{Kind: MacHook})
	add(Step{Kind: MacFilter, Filter: &f})
	add(Step{Kind: MacOn})
	for _, family := range []int{4, 6} {
		for _, n := range halves[family] {
			add(Step{Kind: MacReject, Family: family, Network: n})
		}
	}
	add(Step{Kind: MacLink, Device: cfg.Device, MTU: cfg.MTU})
	for _, a := range cfg.Addresses {
		add(Step{Kind: MacAddr, Family: familyOf(a), Device: cfg.Device, Address: a})
	}
	for _, a := range cfg.Addresses {
		for _, n := range quarters[familyOf(a)] {
			add(Step{Kind: MacRoute, Family: familyOf(a), Device: cfg.Device, Address: a, Network: n})
		}
	}
	if i := slices.IndexFunc(cfg.Addresses, netip.Addr.Is4); i >= 0 && cfg.ResolvConf != "" {
		add(Step{Kind: MacNames, Device: cfg.Device, Address: cfg.Addresses[i], Value: join(cfg.DNS)})
	}
	return p, nil
}

// macUser is whose sockets are links: the daemon's. It has to be root, who alone
// may make a TUN.
const macUser = "root"

// macMissing tells what was asked for and is not let through. Everything in it
// stays closed.
func (c *Config) macMissing() []string {
	var out []string
	if len(c.Peers) == 0 {
		out = append(out, "no neighbor that is known by address, or this node is an exit: without marks links cannot be told apart here, so none gets out")
	}
	if !c.Split.empty() {
		out = append(out, "split tunnelling: what it lists goes into the tunnel, too")
	}
	if c.Portal != nil {
		out = append(out, "portal: login pages of the local network are not let through")
	}
	if c.Router != nil {
		out = append(out, "router: nothing is forwarded")
	}
	return out
}

// macText shows a step of macOS as an administrator would write it.
func (s Step) macText() string {
	switch s.Kind {
	case MacHook:
		return "pfctl -R -f - # unless the filter rules begin with it\n  " + pfHook
	case MacFilter:
		if s.Filter != nil {
			return "pfctl -a " + pfAnchor + " -f -\n" + indent(s.Filter.pfRules()) + "pfctl -F states"
		}
	case MacOn:
		return "pfctl -E"
	case MacReject:
		return fmt.Sprintf("route -n add %s -net %s %s -reject", macFamily(s.Family), s.Network, loopbackOf(s.Family))
	case MacLink:
		if s.MTU != 0 {
			return fmt.Sprintf("ifconfig %s mtu %d up", s.Device, s.MTU)
		}
		return fmt.Sprintf("ifconfig %s up", s.Device)
	case MacAddr:
		if s.Address.Is4() {
			return fmt.Sprintf("ifconfig %s inet %s %s netmask 255.255.255.255 alias", s.Device, s.Address, s.Address)
		}
		return fmt.Sprintf("ifconfig %s inet6 %s prefixlen 128 alias", s.Device, s.Address)
	case MacRoute:
		return fmt.Sprintf("route -n add %s -net %s %s", macFamily(s.Family), s.Network, s.Address)
	case MacNames:
		return "scutil\n" + indent(s.namesScript()) + "end of scutil"
	default:
	}
	return fmt.Sprintf("unknown step %q", string(s.Kind))
}

func macFamily(f int) string {
	if f == 6 {
		return "-inet6"
	}
	return "-inet"
}

// loopbackOf is what refused routes lead to.
func loopbackOf(family int) netip.Addr {
	if family == 6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return b.String()
}

// The keys of the dynamic store (scutil(8)) that are ours: those of a service that
// no other program has. OverridePrimary makes its name servers the system's.
const (
	storeNames   = "State:/Network/Service/cuttle/DNS"
	storeAddress = "State:/Network/Service/cuttle/IPv4"
)

// namesScript is what scutil is told.
func (s Step) namesScript() string {
	return "d.init\n" +
		"d.add InterfaceName " + s.Device + "\n" +
		"d.add Addresses * " + s.Address.String() + "\n" +
		"d.add DestAddresses * " + s.Address.String() + "\n" +
		"d.add OverridePrimary # 1\n" +
		"set " + storeAddress + "\n" +
		"d.init\n" +
		"d.add ServerAddresses * " + s.Value + "\n" +
		"set " + storeNames + "\n" +
		"quit\n"
}

// noNamesScript undoes it. A key that is not there is no error to scutil.
func noNamesScript() string { return "remove " + storeNames + "\nremove " + storeAddress + "\nquit\n" }

// askScript asks for one key of the dynamic store.
func askScript(key string) string { return "show " + key + "\nquit\n" }

// storedArray reads one array of addresses out of what scutil shows of a key:
//
//	<dictionary> {
//	  ServerAddresses : <array> {
//	    0 : 192.0.2.1
//	  }
//	}
//
// Anything else is an empty one.
func storedArray(shown, name string) []string {
	var out []string
	inside := false
	for line := range strings.Lines(shown) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " : ")
		switch {
		case ok && !inside:
			inside = key == name && value == "<array> {"
		case inside && !ok:
			return out
		case inside && len(out) < maxStored:
			out = append(out, value)
		}
	}
	return out
}

// maxStored bounds an array of the dynamic store that is read.
const maxStored = 64
