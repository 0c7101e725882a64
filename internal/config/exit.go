package config

import (
	"fmt"
	"net/netip"

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
	if r := e.Resolver; r != "" {
		if _, err := netip.ParseAddrPort(r); err != nil {
			return fmt.Errorf("exit.resolver %q: want IP:port, for example 9.9.9.9:53", r)
		}
	}
	return nil
}
