package lab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// Role is what a node is there for.
type Role string

// The roles.
const (
	RoleClient Role = "client"
	RoleRelay  Role = "relay"
	RoleExit   Role = "exit"
	RoleWeb    Role = "web"
	RoleChain  Role = "chain"
	RoleHost   Role = "host" // behind the router, knows nothing of Cuttle
)

// LANInterface is the name of the router's interface to the LAN, and lanHosts how
// many hosts are there.
const (
	LANInterface = "lan0"
	lanHosts     = 2
)

// Interface is the name of every node's interface to the router.
const Interface = "phys0"

// Fixed places of the lab's outside world.
const (
	WebName     = "web.lab"
	chainID     = 1337
	chainPort   = 8545
	faucetPort  = 8546
	unsurePort  = 8547 // the chain's JSON-RPC behind a proxy that loses calls, with --rpc-fail
	dnsPort     = 53
	echoPort    = 7
	movedHost   = 77 // the last byte of the IPv4 address of a node that has moved
	policyV4    = "10.99.0.0/16"
	policyV6    = "fd99::/32"
	plainV4     = "203.0.113.0/24" // of documentation; to a client they are like any on the Internet,
	plainV6     = "2001:db8::/32"  // other than private ones
	unreachable = "10.99.7.0/24"   // the router answers host unreachable
	blackhole   = "10.99.8.0/24"   // the router says nothing
	unreachV6   = "fd99:0:7::/64"
	blackholeV6 = "fd99:0:8::/64"
)

var (
	webV4      = netip.MustParseAddr("10.99.0.2")
	webV6      = netip.MustParseAddr("fd99::2")
	refusesV4  = netip.MustParseAddr("10.99.0.3") // the web server's machine, nothing listens
	refusesV6  = netip.MustParseAddr("fd99::3")
	chainV4    = netip.MustParseAddr("10.99.1.2")
	unreachV4A = netip.MustParseAddr("10.99.7.7")
	unreachV6A = netip.MustParseAddr("fd99:0:7::7")
	blackV4A   = netip.MustParseAddr("10.99.8.8")
	blackV6A   = netip.MustParseAddr("fd99:0:8::8")
	publicV6   = netip.MustParseAddr("2620:0:2d0:200::8") // nobody's here; unlike the others no private one
)

// Node is one namespace beside the router, with what runs in it.
type Node struct {
	Name      string
	Role      Role
	Namespace string
	Addrs     []netip.Prefix // of phys0; the first of each family is the one others use
	Gateways  []netip.Addr
	Port      uint16   // where a relay listens
	Site      string   // the name its mask shows
	Neighbors []string // relays it lists
	Dials     []string // those of them it opens the link to
	Guard     bool     // some client's first hop
	NoIPv6    bool     // an exit that lets none out
	LAN       bool     // a client that is the router of the LAN, at LANInterface
}

// Relays tells whether the node carries others' circuits.
func (n Node) Relays() bool { return n.Role == RoleRelay || n.Role == RoleExit }

// Runs tells whether the node runs cuttled.
func (n Node) Runs() bool { return n.Relays() || n.Role == RoleClient }

// Hosts are the node's addresses without their prefixes.
func (n Node) Hosts() []netip.Addr {
	hosts := make([]netip.Addr, len(n.Addrs))
	for i, p := range n.Addrs {
		hosts[i] = p.Addr()
	}
	return hosts
}

// Endpoints are where a relay listens.
func (n Node) Endpoints() []netip.AddrPort {
	var ends []netip.AddrPort
	for _, a := range n.Hosts() {
		ends = append(ends, netip.AddrPortFrom(a, n.Port))
	}
	return ends
}

// Plan is the whole network on paper.
type Plan struct {
	Options Options
	Router  string // its namespace
	Switch  string // of the LAN, "" without one
	Nodes   []Node // clients, relays, web, and chain if there is billing
}

// NewPlan draws the network that the options ask for. The same options give
// the same plan.
func NewPlan(o Options) (Plan, error) {
	if err := o.Check(); err != nil {
		return Plan{}, err
	}
	random := rand.New(rand.NewPCG(o.Seed, 0x6c61_622d_706c_616e))
	p := Plan{Options: o, Router: o.Prefix + "net"}
	relays := planRelays(o, random)
	for k := 1; k <= o.Clients; k++ {
		p.Nodes = append(p.Nodes, planClient(o, k, relays, random))
	}
	p.Nodes = append(p.Nodes, relays...)
	p.Nodes = append(p.Nodes, Node{
		Name: "web", Role: RoleWeb, Namespace: o.Prefix + "web",
		Addrs: []netip.Prefix{
			netip.PrefixFrom(webV4, 24), netip.PrefixFrom(webV6, 64), netip.PrefixFrom(refusesV4, 24), netip.PrefixFrom(refusesV6, 64),
		},
		Gateways: []netip.Addr{netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("fd99::1")},
	})
	if o.Router {
		p.Nodes[0].LAN = true
		p.Switch = o.Prefix + "lan"
		for i := 1; i <= lanHosts; i++ {
			name := fmt.Sprintf("host%d", i)
			p.Nodes = append(p.Nodes, Node{Name: name, Role: RoleHost, Namespace: o.Prefix + name})
		}
	}
	if o.Billing {
		p.Nodes = append(p.Nodes, Node{
			Name: "chain", Role: RoleChain, Namespace: o.Prefix + "chain", Addrs: []netip.Prefix{netip.PrefixFrom(chainV4, 24)},
			Gateways: []netip.Addr{netip.MustParseAddr("10.99.1.1")},
		})
	}
	return p, nil
}

// planRelays makes n1 to nN, each a neighbor of all others; the younger one
// dials.
func planRelays(o Options, random *rand.Rand) []Node {
	relays := make([]Node, o.Nodes)
	for i := range relays {
		n := planNode(o, fmt.Sprintf("n%d", i+1), RoleRelay, i+1)
		if i >= o.Nodes-o.Exits {
			n.Role, n.NoIPv6 = RoleExit, i < o.Nodes-o.Exits+o.NoIPv6
		}
		n.Port = uint16(20_000 + random.IntN(40_001))
		if o.Mask == "https" {
			n.Port = 443
		}
		n.Site = site(random)
		for j := 1; j <= o.Nodes; j++ {
			if j-1 == i {
				continue
			}
			n.Neighbors = append(n.Neighbors, fmt.Sprintf("n%d", j))
			if j-1 < i {
				n.Dials = append(n.Dials, fmt.Sprintf("n%d", j))
			}
		}
		relays[i] = n
	}
	return relays
}

// planClient makes the k-th client with up to three guards, which it marks.
func planClient(o Options, k int, relays []Node, random *rand.Rand) Node {
	name := "client"
	if o.Clients > 1 {
		name = fmt.Sprintf("client%d", k)
	}
	n := planNode(o, name, RoleClient, 100+k)
	var fit []int // where a path may begin: not at an exit, unless it ends there too
	for i, r := range relays {
		if (r.Role == RoleExit) == (o.Hops == 1) {
			fit = append(fit, i)
		}
	}
	random.Shuffle(len(fit), func(a, b int) { fit[a], fit[b] = fit[b], fit[a] })
	most := maxGuards
	if o.Guards > 0 {
		most = o.Guards
	}
	fit = fit[:min(most, len(fit))]
	slices.Sort(fit)
	for _, i := range fit {
		relays[i].Guard = true
		n.Neighbors = append(n.Neighbors, relays[i].Name)
	}
	n.Dials = n.Neighbors
	return n
}

// planNode gives the i-th place on the star: 10.77.i.2 and fd77:i::2, where i is
// written the same way in both.
func planNode(o Options, name string, role Role, i int) Node {
	return Node{
		Name: name, Role: role, Namespace: o.Prefix + name,
		Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.77.%d.2/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd77:%d::2/64", i)),
		},
		Gateways: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.77.%d.1", i)), netip.MustParseAddr(fmt.Sprintf("fd77:%d::1", i))},
	}
}

// site makes up a host name.
func site(random *rand.Rand) string {
	first := []string{"north", "green", "silver", "quiet", "river", "stone", "amber", "cedar"}
	second := []string{"garden", "bridge", "harbor", "meadow", "bakery", "cycles", "studio", "clinic"}
	return fmt.Sprintf("www.%s-%s-%d.example", first[random.IntN(len(first))], second[random.IntN(len(second))], random.IntN(900)+100)
}

// Node finds a node by name.
func (p Plan) Node(name string) (Node, bool) {
	i := slices.IndexFunc(p.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return p.Nodes[i], true
}

// Clients are the nodes whose traffic is captured.
func (p Plan) Clients() []Node {
	return slices.DeleteFunc(slices.Clone(p.Nodes), func(n Node) bool { return n.Role != RoleClient })
}

// Namespaces are all names, the router's first.
func (p Plan) Namespaces() []string {
	names := []string{p.Router}
	if p.Switch != "" {
		names = append(names, p.Switch)
	}
	for _, n := range p.Nodes {
		names = append(names, n.Namespace)
	}
	return names
}

// Shaped are the pairs that the options' shape is for.
func (p Plan) Shaped() [][2]Node {
	var pairs [][2]Node
	for i, a := range p.Nodes {
		for _, b := range p.Nodes[i+1:] {
			if a.Runs() && b.Relays() {
				pairs = append(pairs, [2]Node{a, b})
			}
		}
	}
	return pairs
}
