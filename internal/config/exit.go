package config

import (
	"fmt"
	"strings"
	"time"

	"cuttle/relay/exit"
)

func (c *Config) checkExit() error {
	e := &c.Exit
	for _, n := range e.Allow {
		if !exit.Internal(n) {
			return fmt.Errorf("exit.allow %v: is not within a private or reserved network; public addresses are for exit.policy", n)
		}
	}
	if _, err := exit.ParsePolicy(e.Rules()); err != nil {
		return fmt.Errorf("exit.policy: %w", err)
	}
	if _, err := e.Resolvers(); err != nil {
		return fmt.Errorf("exit.resolver: %w", err)
	}
	return e.checkLimits()
}

// Resolvers reads exit.resolver, a list with spaces between; nil: it is empty.
func (e *Exit) Resolvers() ([]exit.Resolver, error) {
	var out []exit.Resolver
	for _, text := range strings.Fields(e.Resolver) {
		r, err := exit.ParseResolver(text)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (e *Exit) checkLimits() error {
	for key, v := range map[string]struct {
		is          Duration
		least, most time.Duration
	}{
		"connect_timeout": {e.ConnectTimeout, time.Second, 2 * time.Minute},
		"resolve_timeout": {e.ResolveTimeout, time.Second, time.Minute},
		"tcp_idle":        {e.TCPIdle, time.Minute, 7 * 24 * time.Hour},
		"tcp_half_closed": {e.TCPHalfClosed, time.Minute, 7 * 24 * time.Hour},
		"udp_idle":        {e.UDPIdle, 30 * time.Second, 24 * time.Hour},
	} {
		if d := time.Duration(v.is); d < v.least || d > v.most {
			return fmt.Errorf("exit.%s %v: want %v to %v", key, d, v.least, v.most)
		}
	}
	if n := e.Connections; n != 0 && (n < 16 || n > 1<<20) {
		return fmt.Errorf("exit.connections %d: want 0 (chosen) or 16 to %d", n, 1<<20)
	}
	for key, v := range map[string]int{
		"rate": e.Rate, "queries": e.Queries,
		"client_rate": e.ClientRate, "client_burst": e.ClientBurst, "client_queries": e.ClientQueries, "client_query_rate": e.ClientQueryRate,
		"neighbor_query_rate": e.NeighborQueryRate,
	} {
		if v < 1 || v > 1<<20 {
			return fmt.Errorf("exit.%s %d: want 1 to %d", key, v, 1<<20)
		}
	}
	for key, v := range map[string]int{
		"neighbor_connections": e.NeighborConnections, "neighbor_rate": e.NeighborRate, "neighbor_queries": e.NeighborQueries,
	} {
		if v < 0 || v > 1<<20 {
			return fmt.Errorf("exit.%s %d: want 0 (three quarters of the limit of all) or 1 to %d", key, v, 1<<20)
		}
	}
	return nil
}
