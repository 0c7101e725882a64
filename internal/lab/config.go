package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Price of the lab's relays and exits, in tiers; together the guard's tier is
// far below what clients pay at most.
const (
	relayPrice = 1
	exitPrice  = 2
	maxTier    = 20
)

// fileOf names a file of one node in the state folder.
func (o Options) fileOf(node, file string) string { return filepath.Join(o.State, node, file) }

// file names a file that all share.
func (o Options) file(name string) string { return filepath.Join(o.State, name) }

// Paths below a node's folder.
const (
	configFile    = "cuttled.toml"
	stateFolder   = "state"
	controlSocket = "control.sock"
	logFile       = "log"
	consumingFile = "consuming.json"
	earningFile   = "earning.json"
)

// Paths below the state folder.
const (
	mapFile      = "network.map"
	passwordFile = "password"
	caFile       = "ca.pem"
	emulatorSock = "emulator.sock"
)

// keys are what is only known after the daemons have made it.
type keys struct {
	nodes   map[string]string // node address by name
	earning map[string]string // wallet address by name
	token   string
	hub     string
}

// render writes the node's configuration file. Strings are quoted as Go does,
// which TOML reads the same way for what stands here.
func (p Plan) render(n Node, k keys) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	o := p.Options
	line("# %s of the lab, written by cuttle-lab", n.Name)
	line("[node]\nstate = %q\ncontrol = %q", o.fileOf(n.Name, stateFolder), o.fileOf(n.Name, controlSocket))
	line("map = %q\nlog = %q", o.file(mapFile), o.Log)
	line("relay = %v\nexit = %v\naccept_clients = %v", n.Relays(), n.Role == RoleExit, n.Guard)
	if n.Relays() {
		line("\n[[listen]]\nmask = %q\naddress = %q", o.Mask, netip.AddrPortFrom(netip.IPv6Unspecified(), n.Port))
		if o.Mask == "https" {
			line("options = { name = %q }", n.Site)
		}
		line("\n[relay]\nprice = %d", relayPrice)
	}
	for _, name := range n.Neighbors {
		line("\n[[neighbor]]\ndescriptor = %q", p.descriptor(n, name, k))
	}
	if n.Role == RoleExit {
		line("\n[exit]\nprice = %d\nallow = [%q, %q, %q, %q]", exitPrice, policyV4, policyV6, plainV4, plainV6)
		policy := ""
		if n.NoIPv6 {
			policy = strconv.Quote("deny ipv6")
		}
		line("policy = [%s]\nresolver = %q", policy, netip.AddrPortFrom(webV4, dnsPort))
	}
	if n.Role == RoleClient {
		line("\n[client]\nenabled = true\nup = true\nhops = %d\npool = 3\nmax_tier = %d", o.Hops, maxTier)
		if o.Early != "" {
			line("early = %q", o.Early)
		}
	}
	if n.LAN {
		line("\n[router]\nlan = %q", LANInterface)
	}
	if o.Billing {
		p.renderBilling(line, n, k)
	}
	if o.Account {
		line("\n[billing]\nmode = \"account\"\nscan = \"1s\"\nsettle_above = \"0.000001\"\nsettle_after = \"10s\"")
		line("credit = \"1\"\ncredit_start = \"1\"\ncredit_strangers = \"10\"")
	}
	return b.String()
}

// renderBilling lets small debts be paid within seconds, so that a demo shows it.
func (p Plan) renderBilling(line func(string, ...any), n Node, k keys) {
	o := p.Options
	line("\n[billing]\nmode = \"paid\"\nchain_id = %d\nrpc = [%q]", chainID, o.nodesRPC())
	line("rpc_through_circuits = %v\ntoken = %q", n.Role == RoleClient && o.Day == 0, k.token)
	scan, after, due := 10*time.Second, 24*time.Hour, 48*time.Hour
	if o.Day > 0 {
		scan, after, due = o.Day/24, o.Day, 2*o.Day
	}
	line("confirmations = 3\nscan = %q\nsettle_above = \"0.0001\"\nsettle_after = %q\ndue_after = %q", scan, after, due)
	line("credit = \"1\"\ncredit_start = \"1\"\ncredit_strangers = \"10\"\nfee_cap = \"500\"")
	line("consuming = %q\npassword_file = %q", o.fileOf(n.Name, consumingFile), o.file(passwordFile))
	line("earning = %q", k.earning[n.Name])
	if o.Vouchers { // small, so that deposits, vouchers and cashing are all seen within a minute
		line("hub = %q\nwindow = \"0.0004\"\ndeposit = \"0.01\"\ncash_above = \"0.0001\"", k.hub)
	}
}

// nodesRPC is where nodes ask the chain; the lab itself asks at rpcURL.
func (o Options) nodesRPC() string {
	if o.RPCFail > 0 {
		return "http://" + netip.AddrPortFrom(chainV4, unsurePort).String()
	}
	return rpcURL()
}

func rpcURL() string { return "http://" + netip.AddrPortFrom(chainV4, chainPort).String() }

// descriptor is how n finds its neighbor: with addresses if n opens the link.
func (p Plan) descriptor(n Node, neighbor string, k keys) string {
	d := "cuttle://" + k.nodes[neighbor]
	dials := false
	for _, name := range n.Dials {
		dials = dials || name == neighbor
	}
	peer, ok := p.Node(neighbor)
	if !dials || !ok {
		return d
	}
	var ends []string
	for _, e := range peer.Endpoints() {
		ends = append(ends, e.String())
	}
	d += "@" + strings.Join(ends, ",") + "?mask=" + p.Options.Mask
	if p.Options.Mask == "https" {
		d += "&name=" + peer.Site
	}
	return d
}
