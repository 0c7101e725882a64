// Package lab builds a whole network on one machine: real cuttled processes in
// network namespaces around a router that stands for the Internet, an outside
// web server, and, if asked, a chain with a token to pay with.
//
// A Plan is pure: names, addresses, roles and neighbors from Options. A Lab is
// the running thing: Build makes namespaces and servers, Start the daemons, and
// Down removes all of it, also from another process or after a crash, by the
// state file that is written before anything is made. The package refuses to
// touch the namespace it is called in, and ends no process whose number and
// start time it has not recorded.
//
// cmd/cuttle-lab, internal/lab/demo and internal/lab/bench use it. Verbs that
// change a lab hold a file lock beside its state folder; a Lab value belongs to
// one goroutine. All but the plan needs Linux and root.
package lab

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cuttle/internal/lab/emulate"
)

// Options are what a lab is made of. They are kept in its state file.
type Options struct {
	Nodes   int           `json:"nodes"`            // relays, exits included
	Exits   int           `json:"exits"`            // the last ones of them
	Hops    int           `json:"hops"`             // of each circuit
	Clients int           `json:"clients"`          // with the VPN up
	Guards  int           `json:"guards,omitempty"` // first hops that a client knows; 0: as many as there may be
	Mask    string        `json:"mask"`
	Shape   emulate.Shape `json:"shape"` // of every path between relays, and between clients and relays
	Billing bool          `json:"billing"`
	Account bool          `json:"account,omitempty"` // billing without a chain, by account
	NoIPv6  int           `json:"no_ipv6,omitempty"` // so many exits, the first ones, let no IPv6 out
	Early   string        `json:"early,omitempty"`   // the clients' client.early; empty: cuttled's default
	// These three: with Billing only.
	Vouchers bool          `json:"vouchers,omitempty"` // neighbors are paid with vouchers on the channel hub
	Day      time.Duration `json:"day,omitempty"`      // what a day of the accountants takes, 24 scans; 0: a scan every 10 s
	RPCFail  int           `json:"rpc_fail,omitempty"` // of 100 calls to the chain that nodes make, so many fail
	Router   bool          `json:"router,omitempty"`   // the first client is the router of a LAN with hosts
	Seed     uint64        `json:"seed"`
	State    string        `json:"state"`             // folder of everything the lab writes
	Prefix   string        `json:"prefix"`            // of its namespaces' names
	Bin      string        `json:"bin"`               // folder of cuttled and cuttle-lab-chain
	Log      string        `json:"log"`               // level of the daemons
	Profile  string        `json:"profile,omitempty"` // folder for CPU profiles of the daemons, written when they end
}

// Defaults are the options of a lab nobody has asked anything of.
func Defaults() Options {
	return Options{Nodes: 5, Exits: 2, Hops: 3, Clients: 1, Mask: "https", Seed: 1, State: "/run/cuttle-lab", Prefix: "cuttle-", Log: "info"}
}

const (
	maxNodes   = 60 // a record lists at most 64 neighbors
	maxClients = 100
	maxGuards  = 3
	maxHops    = 6
	minDay     = 24 * time.Second
)

// masks are those that cuttled speaks.
var masks = []string{"https", "plain"}

// Check says what is wrong with the options.
func (o Options) Check() error {
	switch {
	case o.Nodes < 1 || o.Nodes > maxNodes:
		return fmt.Errorf("--nodes must be between 1 and %d", maxNodes)
	case o.Exits < 1 || o.Exits > o.Nodes:
		return errors.New("--exits must be between 1 and the number of nodes")
	case o.Hops < 1 || o.Hops > maxHops:
		return fmt.Errorf("--hops must be between 1 and %d", maxHops)
	case o.Hops > o.Nodes:
		return errors.New("--hops needs as many --nodes, since no circuit uses a relay twice")
	case o.Hops > 1 && o.Exits == o.Nodes:
		return errors.New("--exits must leave a relay for the first hop")
	case o.Clients < 0 || o.Clients > maxClients:
		return fmt.Errorf("--clients must be between 0 and %d", maxClients)
	case o.Guards < 0 || o.Guards > maxGuards:
		return fmt.Errorf("a client has at most %d guards", maxGuards)
	case o.NoIPv6 < 0 || o.NoIPv6 > o.Exits:
		return errors.New("there are not so many exits to be without IPv6")
	case o.Billing && o.Account:
		return errors.New("either --billing, on a chain, or --account")
	case !o.Billing && (o.Vouchers || o.Day != 0 || o.RPCFail != 0):
		return errors.New("--vouchers, --day and --rpc-fail need --billing")
	case o.Day != 0 && o.Day < minDay:
		return fmt.Errorf("--day must be at least %s, 24 scans", minDay)
	case o.RPCFail < 0 || o.RPCFail > 90:
		return errors.New("--rpc-fail must be between 0 and 90 percent")
	case o.Router && o.Clients < 1:
		return errors.New("--router needs a client: the first one is the router")
	case !slices.Contains(masks, o.Mask):
		return fmt.Errorf("--mask must be one of %s", strings.Join(masks, ", "))
	case !filepath.IsAbs(o.State) || filepath.Clean(o.State) == "/":
		return errors.New("--state must be an absolute path of a folder of its own")
	case o.Prefix == "" || len(o.Prefix) > 32 || strings.ContainsAny(o.Prefix, "/ \t\n"):
		return errors.New("--prefix must be a short word")
	}
	return o.Shape.Check()
}
