package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"cuttle/internal/config"
	"cuttle/relay/exit"
)

// systemResolver is where the machine's own name servers are listed.
const systemResolver = "/etc/resolv.conf"

func newExit(cfg *config.Config, mark func(network, address string, c syscall.RawConn) error) (*exit.Exit, error) {
	policy, err := exitPolicy(cfg)
	if err != nil {
		return nil, err
	}
	resolvers, err := exitResolvers(cfg)
	if err != nil {
		return nil, err
	}
	e, flows := &cfg.Exit, exitConnections(cfg)
	return exit.New(exit.Config{
		Policy: policy, Resolvers: resolvers, Self: ownNetworks, Control: mark,
		DialTimeout: time.Duration(e.ConnectTimeout), ResolveTimeout: time.Duration(e.ResolveTimeout),
		TCPIdle: time.Duration(e.TCPIdle), HalfClosed: time.Duration(e.TCPHalfClosed),
		Limits: exit.Limits{
			Connections: flows, PerSession: flows / 2, Queries: e.Queries, QueriesPerSession: e.ClientQueries,
			Rate: e.ClientRate, Burst: e.ClientBurst, TotalRate: e.Rate, TotalBurst: 3 * e.Rate,
			QueryRate: e.ClientQueryRate, QueryBurst: 4 * e.ClientQueryRate,
			PerNeighbor: e.NeighborConnections, NeighborRate: e.NeighborRate,
			QueriesPerNeighbor: e.NeighborQueries, NeighborQueryRate: e.NeighborQueryRate,
		},
	})
}

// exitConnections is how many connections the exit holds, a session half of them at
// most.
func exitConnections(cfg *config.Config) int {
	if n := cfg.Exit.Connections; n > 0 {
		return n
	}
	return exitFlows(machineMemory())
}

// exitPolicy reads the rules of the configuration; exit.allow is short for rules in
// front of them.
func exitPolicy(cfg *config.Config) (*exit.Policy, error) {
	return exit.ParsePolicy(cfg.Exit.Rules())
}

// exitResolvers returns the configured resolvers, or the machine's own.
func exitResolvers(cfg *config.Config) ([]exit.Resolver, error) {
	if list, err := cfg.Exit.Resolvers(); err != nil || len(list) > 0 {
		return list, err
	}
	b, err := os.ReadFile(systemResolver)
	if err != nil {
		return nil, fmt.Errorf("find a resolver: %w; set exit.resolver", err)
	}
	if out := nameservers(string(b)); len(out) > 0 {
		return out, nil
	}
	return nil, errors.New("no resolver: /etc/resolv.conf names none; set exit.resolver")
}

// nameservers reads the nameserver lines of a resolv.conf (resolv.conf(5)).
func nameservers(text string) []exit.Resolver {
	var out []exit.Resolver
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if r, err := exit.ParseResolver(f[1]); err == nil {
			out = append(out, r)
		}
	}
	return out
}

// ownNetworks lists this machine's addresses, each with the network that it is in: an
// exit connects nobody to them.
func ownNetworks() []netip.Prefix {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil // loopback and private ones are refused anyway
	}
	var out []netip.Prefix
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func ownAddresses() []netip.Addr {
	var out []netip.Addr
	for _, p := range ownNetworks() {
		out = append(out, p.Addr().Unmap())
	}
	return out
}
