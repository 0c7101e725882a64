package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Defaults of a Config.
const (
	DefaultMark     = 0x6375 // "cu"
	DefaultTable    = 51966  // 0xcafe
	DefaultPriority = 5300   // of our rules: before main (32766), after local (0)

	tunMetric         = 1
	unreachableMetric = 4000
)

// defaultMask covers the default mark; other programs keep the upper bits.
const defaultMask = 0xffff

// Addresses of the TUN and of the name server that the resolver file names. The
// server is nobody: it only has to be routed into the TUN, where every DNS
// question is answered. IPv6 ones are of a fixed unique local prefix (RFC 4193).
var (
	defaultAddresses = []netip.Addr{netip.MustParseAddr("10.255.255.1"), netip.MustParseAddr("fd63:7574:746c::1")}
	defaultDNS       = []netip.Addr{netip.MustParseAddr("10.255.255.53"), netip.MustParseAddr("fd63:7574:746c::53")}
)

// NameServers are the addresses behind the TUN that names are asked for.
func NameServers() []netip.Addr { return slices.Clone(defaultDNS) }

// Config says how the host's traffic is to be captured. Zero fields but Device
// mean defaults; an empty ResolvConf leaves the resolver file alone.
type Config struct {
	Device     string       // name of the TUN interface
	MTU        int          // of the TUN interface, bytes; 0 leaves it as it is
	Addresses  []netip.Addr // of the TUN interface
	DNS        []netip.Addr // name servers for the resolver file
	Mark, Mask uint32       // of our own link sockets
	Table      int          // our routing table
	Priority   int          // of our rules
	ResolvConf string       // path of the resolver file

	// Peers is where marked sockets may connect to, by TCP; empty: anywhere.
	// Listen are the TCP ports of marked listeners.
	Peers  []netip.AddrPort
	Listen []uint16

	LAN    bool    // let programs reach private networks that the host is in
	Split  Split   // what goes past the TUN
	Portal *Portal // open for a time; nil: closed
	Router *Router // nil: the host is none
}

// Host is what a plan depends on.
type Host struct {
	Mac bool // macOS: of all else, only Attached counts

	IPv6         bool // the kernel knows IPv6: it is kept in, used or not
	IPv6Off      bool // the administrator has turned it off: it gets no way out
	StrictFilter bool // an interface drops packets that would not be answered through it (rp_filter 1)
	AnswersAll   bool // interfaces answer ARP for the addresses of others, the TUN's included (arp_ignore 0)
	Filter       bool // the kernel has nftables for IPv4 and IPv6 together; a plan needs it
	Egress       bool // the kernel has nftables' egress hook

	ForceForwarding bool       // the kernel can forward IPv6 of single interfaces
	AcceptsRA       []string   // interfaces that follow router advertisements while the host does not forward
	Attached        []Attached // networks that the host is in
	Resolver        Owner      // of /etc/resolv.conf
}

// Kind is what a Step changes.
type Kind string

// The kinds of steps.
const (
	Sysctl           Kind = "sysctl"      // Key, Value
	PacketFilter     Kind = "filter"      // Filter
	EgressFilter     Kind = "egress"      // Filter
	UnreachableRoute Kind = "unreachable" // Family, Table
	Rule             Kind = "rule"        // Family, Table, Mark, Mask, Priority
	Link             Kind = "link"        // Device up, MTU
	Address          Kind = "address"     // Device, Address
	TunRoute         Kind = "route"       // Family, Table, Device
	LANRoute         Kind = "lan"         // Family, Table, Device, Network
	PastRule         Kind = "past"        // Family, Mark, Mask, Priority: marked packets ask the main table
	Resolver         Kind = "resolver"    // Key (path), Value (content)
	ResolvedLink     Kind = "resolved"    // Device, Value (name servers)
	ManagerDNS       Kind = "nm-dns"      // Value (name servers)
	ResolvconfSource Kind = "resolvconf"  // Device, Value (content)
)

// Step is one change of the host. Which fields count depends on Kind.
type Step struct {
	Kind     Kind       `json:"kind"`
	Family   int        `json:"family,omitempty"` // 4 or 6
	Table    int        `json:"table,omitempty"`
	Priority int        `json:"priority,omitempty"`
	Mark     uint32     `json:"mark,omitempty"`
	Mask     uint32     `json:"mask,omitempty"`
	Device   string     `json:"device,omitempty"`
	MTU      int        `json:"mtu,omitempty"`
	Address  netip.Addr `json:"address,omitzero"`
	Key      string     `json:"key,omitempty"`
	Value    string     `json:"value,omitempty"`
	Filter   *Filter    `json:"filter,omitempty"`

	Network netip.Prefix `json:"network,omitzero"`
	Stay    bool         `json:"stay,omitempty"` // of the LAN: in force without a TUN, too, and no loss when the device is gone
}

// same tells whether two steps make the same change.
func (s Step) same(o Step) bool { return reflect.DeepEqual(s, o) }

// target names what the step changes: steps with one target replace each other.
func (s Step) target() string {
	switch s.Kind {
	case Sysctl, Resolver:
		return string(s.Kind) + " " + s.Key
	case PacketFilter, EgressFilter:
		return string(s.Kind)
	case Link:
		return string(s.Kind) + " " + s.Device
	case ResolvedLink, ManagerDNS, ResolvconfSource, MacHook, MacFilter, MacOn, MacNames:
		return string(s.Kind)
	case MacLink, MacAddr, MacReject, MacRoute:
	case UnreachableRoute, Rule, Address, TunRoute, LANRoute, PastRule:
	}
	return s.String()
}

// closes tells whether the step keeps traffic in by itself, without a TUN, or
// belongs to what is let through even then.
func (s Step) closes() bool {
	switch s.Kind {
	case PacketFilter, EgressFilter, UnreachableRoute, Rule, LANRoute, PastRule, MacHook, MacFilter, MacOn, MacReject:
		return true
	case MacLink, MacAddr, MacRoute, MacNames:
	case Sysctl:
		return s.Device == "" || s.Stay // those of the TUN go with it
	case Link, Address, TunRoute, Resolver, ResolvedLink, ManagerDNS, ResolvconfSource:
	}
	return s.Stay
}

// keepsIn tells whether the step is a layer of what keeps traffic in: it lets
// nothing through that was not let through before.
func (s Step) keepsIn() bool {
	switch s.Kind {
	case PacketFilter, EgressFilter, UnreachableRoute, Rule, MacHook, MacFilter, MacOn, MacReject:
		return true
	case Sysctl, Link, Address, TunRoute, LANRoute, PastRule, Resolver, ResolvedLink, ManagerDNS, ResolvconfSource:
	case MacLink, MacAddr, MacRoute, MacNames:
	}
	return false
}

// widens tells whether the step routes something beside the TUN.
func (s Step) widens() bool { return s.Kind == LANRoute || s.Kind == PastRule }

// String shows the step as an administrator would write it.
func (s Step) String() string {
	switch s.Kind {
	case Sysctl:
		return fmt.Sprintf("sysctl %s = %s", s.Key, s.Value)
	case PacketFilter:
		if s.Filter != nil {
			return s.Filter.text()
		}
	case EgressFilter:
		if s.Filter != nil {
			return s.Filter.egressText()
		}
	case UnreachableRoute:
		return fmt.Sprintf("ip -%d route add unreachable default table %d metric %d", s.Family, s.Table, unreachableMetric)
	case Rule:
		return fmt.Sprintf("ip -%d rule add not fwmark %#x/%#x lookup %d priority %d", s.Family, s.Mark, s.Mask, s.Table, s.Priority)
	case Link:
		mtu := ""
		if s.MTU != 0 {
			mtu = fmt.Sprintf(" mtu %d", s.MTU)
		}
		return fmt.Sprintf("ip link set %s%s up", s.Device, mtu)
	case Address:
		return fmt.Sprintf("ip address add %s dev %s noprefixroute", netip.PrefixFrom(s.Address, s.Address.BitLen()), s.Device)
	case TunRoute:
		return fmt.Sprintf("ip -%d route add default dev %s table %d metric %d", s.Family, s.Device, s.Table, tunMetric)
	case LANRoute:
		return fmt.Sprintf("ip -%d route add %s dev %s table %d metric %d", s.Family, s.Network, s.Device, s.Table, tunMetric)
	case PastRule:
		return fmt.Sprintf("ip -%d rule add fwmark %#x/%#x lookup main priority %d", s.Family, s.Mark, s.Mask, s.Priority)
	case ResolvedLink:
		return fmt.Sprintf("resolvectl dns %s %s; resolvectl domain %s ~.; resolvectl default-route %s yes; resolvectl {llmnr,mdns,dnssec,dnsovertls} %s no",
			s.Device, s.Value, s.Device, s.Device, s.Device)
	case ManagerDNS:
		return fmt.Sprintf("org.freedesktop.NetworkManager GlobalDnsConfiguration = %s", ours(s.Value).text())
	case ResolvconfSource:
		return fmt.Sprintf("resolvconf -a %s.cuttle < %q", s.Device, s.Value)
	case Resolver:
		return fmt.Sprintf("write %s: %q", s.Key, s.Value)
	case MacHook, MacFilter, MacOn, MacReject, MacLink, MacAddr, MacRoute, MacNames:
		return s.macText()
	}
	return fmt.Sprintf("unknown step %q", string(s.Kind))
}

// Plan is what Apply does, in order.
type Plan struct {
	Steps   []Step
	Missing []string // what this kernel cannot do, and what that means
}

// Block is the part of the plan that keeps traffic in and needs no TUN: with it
// in force nothing leaves but links and what the local network needs.
func (p Plan) Block() Plan {
	b := Plan{Missing: p.Missing}
	for _, s := range p.Steps {
		if s.closes() {
			b.Steps = append(b.Steps, s)
		}
	}
	return b
}

// Shut is what keeps traffic in and lets nothing through beside links: for when
// the plan for cfg on a host cannot be computed. It asks the host nothing, so a
// kernel without a part of it refuses that, and the rest holds.
func Shut(cfg Config) (Plan, error) {
	cfg.LAN, cfg.Split, cfg.Portal, cfg.Router = false, Split{}, nil, nil
	p, err := NewPlan(cfg, unread)
	return p.Block(), err
}

// Filter is what the plan's packet filter lets through; the zero one without.
func (p Plan) Filter() Filter {
	for _, s := range p.Steps {
		if (s.Kind == PacketFilter || s.Kind == MacFilter) && s.Filter != nil {
			return *s.Filter
		}
	}
	return Filter{}
}

// String lists what is missing and the steps.
func (p Plan) String() string {
	var b strings.Builder
	for _, m := range p.Missing {
		b.WriteString("# missing: " + m + "\n")
	}
	for _, s := range p.Steps {
		b.WriteString(s.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// NewPlan computes the plan for cfg on host. It reads and changes nothing.
func NewPlan(cfg Config, host Host) (Plan, error) {
	cfg.fill()
	if err := cfg.check(); err != nil {
		return Plan{}, err
	}
	if host.Mac {
		return macPlan(cfg, host)
	}
	if !host.Filter {
		return Plan{}, fmt.Errorf("this kernel does not take the packet filter (nftables, family inet, with all that its rules need), without which nothing is let through: %w", ErrUnsupported)
	}
	families := []int{4}
	if host.IPv6 {
		families = append(families, 6)
	}
	var p Plan
	add := func(s Step) { p.Steps = append(p.Steps, s) }
	filter := cfg.filter(host)
	add(Step{Kind: PacketFilter, Filter: &filter})
	if host.Egress {
		add(Step{Kind: EgressFilter, Filter: &filter})
	} else {
		p.Missing = append(p.Missing, "this kernel has no egress hook: programs with packet sockets (CAP_NET_RAW) are not kept in")
	}
	for _, f := range families {
		add(Step{Kind: UnreachableRoute, Family: f, Table: cfg.Table})
	}
	for _, a := range filter.LAN {
		if cfg.Router == nil || a.Device != cfg.Router.Device {
			add(Step{Kind: LANRoute, Family: familyOf(a.Network.Addr()), Table: cfg.Table, Device: a.Device, Network: a.Network, Stay: true})
		}
	}
	for _, f := range families {
		if filter.Past != 0 {
			add(Step{Kind: PastRule, Family: f, Mark: filter.Past, Mask: cfg.Mask, Priority: cfg.Priority - 1})
		}
		add(Step{Kind: Rule, Family: f, Table: cfg.Table, Mark: cfg.Mark, Mask: cfg.Mask, Priority: cfg.Priority})
	}
	// What may fail and keeps nothing in comes after what keeps traffic in.
	if host.StrictFilter {
		// Answers to our links come in unmarked, and the strict filter would
		// look for their way back in our table and find the TUN.
		add(Step{Kind: Sysctl, Key: "net/ipv4/conf/all/rp_filter", Value: "2"})
	}
	if host.AnswersAll {
		add(Step{Kind: Sysctl, Key: "net/ipv4/conf/all/arp_ignore", Value: "1"})
	}
	use6 := host.IPv6 && !host.IPv6Off
	if use6 {
		add(Step{Kind: Sysctl, Device: cfg.Device, Key: "net/ipv6/conf/" + cfg.Device + "/disable_ipv6", Value: "0"})
	}
	for _, a := range cfg.Addresses {
		if a.Is4() || use6 {
			add(Step{Kind: Address, Device: cfg.Device, Address: a})
		}
	}
	add(Step{Kind: Link, Device: cfg.Device, MTU: cfg.MTU})
	if !use6 {
		families = families[:1]
	}
	for _, f := range families {
		add(Step{Kind: TunRoute, Family: f, Table: cfg.Table, Device: cfg.Device})
	}
	p.Steps = append(p.Steps, cfg.routerSteps(host)...)
	if cfg.ResolvConf != "" {
		add(cfg.resolverStep(host, use6))
	}
	return p, nil
}

func (c *Config) filter(host Host) Filter {
	f := Filter{Device: c.Device, Mark: c.Mark, Mask: c.Mask}
	for _, a := range c.Addresses {
		if a.Is4() || host.IPv6 {
			f.Own = append(f.Own, a)
		}
	}
	f.Peers = append(f.Peers, c.Peers...)
	f.Listen = append(f.Listen, c.Listen...)
	f.LAN, f.Split, f.Portal, f.Router = c.lan(host), c.Split, c.Portal, c.Router
	if c.past() {
		f.Past = c.pastMark()
	}
	return f
}

func (c *Config) fill() {
	if len(c.Addresses) == 0 {
		c.Addresses = defaultAddresses
	}
	if len(c.DNS) == 0 {
		c.DNS = defaultDNS
	}
	if c.Mark == 0 {
		c.Mark = DefaultMark
	}
	if c.Mask == 0 {
		c.Mask = defaultMask
		if c.Mark > defaultMask {
			c.Mask = 0xffffffff
		}
	}
	if c.Table == 0 {
		c.Table = DefaultTable
	}
	if c.Priority == 0 {
		c.Priority = DefaultPriority
	}
}

func (c *Config) check() error {
	switch {
	case !deviceOK(c.Device):
		return fmt.Errorf("tun name %q: want 1 to 15 characters without slash, colon and space", c.Device)
	case c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535):
		return fmt.Errorf("tun mtu %d: want 1280 to 65535", c.MTU)
	case c.Mark&^c.Mask != 0:
		return fmt.Errorf("mark %#x has bits outside of its mask %#x", c.Mark, c.Mask)
	case c.Table < 1 || c.Table >= 253 && c.Table <= 255 || c.Table > 0x7fffffff:
		return fmt.Errorf("table %d: want a number that is not default, main or local (253 to 255)", c.Table)
	case c.Priority < 2 || c.Priority >= 32766:
		return fmt.Errorf("rule priority %d: want 2 to 32765, before the main table's rule", c.Priority)
	case c.ResolvConf != "" && !filepath.IsAbs(c.ResolvConf):
		return errors.New("path of the resolver file must be absolute")
	}
	for _, a := range append(append([]netip.Addr{}, c.Addresses...), c.DNS...) {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("tun or name server address %q is not a plain address", a)
		}
	}
	for _, p := range c.Peers {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" || p.Port() == 0 {
			return errors.New("a peer is not an address with a port")
		}
	}
	if slices.Contains(c.Listen, 0) {
		return errors.New("a listener has no port")
	}
	return c.checkSplit()
}

// resolverFile is the content of the resolver file, resolv.conf(5).
func resolverFile(servers []netip.Addr, ipv6 bool) string {
	var b strings.Builder
	b.WriteString("# Written by cuttled. The file that was here comes back when it goes down.\n")
	for _, a := range servers {
		if a.Is4() || ipv6 {
			fmt.Fprintf(&b, "nameserver %s\n", a)
		}
	}
	return b.String()
}

// names tells whether the step is about who is asked for names: whoever it is,
// the question ends in the TUN.
func (s Step) names() bool {
	switch s.Kind {
	case Resolver, ResolvedLink, ManagerDNS, ResolvconfSource, MacNames:
		return true
	case MacHook, MacFilter, MacOn, MacReject, MacLink, MacAddr, MacRoute:
	case Sysctl, PacketFilter, EgressFilter, UnreachableRoute, Rule, Link, Address, TunRoute, LANRoute, PastRule:
	}
	return false
}

// name is the step in a few words, for errors.
func (s Step) name() string {
	switch s.Kind {
	case PacketFilter, EgressFilter:
		return string(s.Kind) + " rules"
	case MacHook, MacFilter, MacOn, MacNames:
		return string(s.Kind)
	default:
		return s.String()
	}
}
