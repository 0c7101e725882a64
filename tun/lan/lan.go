// Package lan serves the network behind a router: addresses by DHCPv4 (RFC 2131),
// and router advertisements with a prefix and name servers (RFC 4861, RFC 8106).
// The name servers that it announces are addresses behind the TUN, so that
// questions go there like everything else, and the package answers none itself.
//
// It opens sockets on one interface, which needs CAP_NET_BIND_SERVICE and
// CAP_NET_RAW, and changes nothing of the host: tun/hostnet gives the interface
// its addresses and forwards. It logs no address. internal/node runs a Server once;
// Leases may be called meanwhile. The mutex of the table guards all leases.
package lan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Config is what a Server needs.
type Config struct {
	Device   string
	Address  netip.Prefix // ours on Device, IPv4, with the network's length
	Network6 netip.Prefix // a /64 for the hosts; invalid: no router advertisements
	DNS      []netip.Addr // name servers for the hosts
	Lease    time.Duration
	File     string // where leases are kept; "": nowhere
	// Refused tells whether a MAC address gets nothing.
	Refused func(mac string) bool
	Log     *slog.Logger
}

// Server serves one LAN. Run it once.
type Server struct {
	cfg   Config
	table *table
}

// New checks cfg and reads the leases of an earlier run.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Device == "" || cfg.Log == nil || cfg.Refused == nil:
		return nil, errors.New("a LAN needs a device, a log and a word on who is refused")
	case !cfg.Address.IsValid() || !cfg.Address.Addr().Is4() || cfg.Address.Bits() < 16 || cfg.Address.Bits() > 28:
		return nil, fmt.Errorf("LAN address %v: want IPv4 with a length of 16 to 28", cfg.Address)
	case cfg.Network6.IsValid() && (cfg.Network6.Bits() != 64 || !cfg.Network6.Addr().Is6()):
		return nil, fmt.Errorf("LAN network %v: want an IPv6 network of length 64", cfg.Network6)
	case cfg.Lease < time.Minute || cfg.Lease > 30*24*time.Hour:
		return nil, fmt.Errorf("lease of %v: want a minute to thirty days", cfg.Lease)
	}
	return &Server{cfg: cfg, table: newTable(cfg.Address, cfg.Lease, cfg.File)}, nil
}

// Leases lists the leases that are in force.
func (s *Server) Leases() []Lease { return s.table.list(time.Now()) }

// Run serves until ctx ends (nil) or a socket fails.
func (s *Server) Run(ctx context.Context) error {
	link, err := net.InterfaceByName(s.cfg.Device)
	if err != nil {
		return fmt.Errorf("LAN: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wait sync.WaitGroup
	defer wait.Wait()
	failed := make(chan error, 2)
	start := func(name string, f func(context.Context, *net.Interface) error) {
		wait.Go(func() { // ends with ctx or by itself
			if err := f(ctx, link); err != nil {
				failed <- fmt.Errorf("%s for the LAN: %w", name, err)
			}
			cancel()
		})
	}
	start("dhcp", s.dhcp)
	if s.cfg.Network6.IsValid() {
		start("router advertisements", s.advertise)
	}
	<-ctx.Done()
	wait.Wait()
	close(failed)
	var all error
	for err := range failed {
		all = errors.Join(all, err)
	}
	return errors.Join(all, s.table.save())
}
