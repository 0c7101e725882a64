package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// LAN is the [lan] table.
type LAN struct {
	Allow bool `toml:"allow"`
}

// Split is the [split] table: what goes past the tunnel.
type Split struct {
	Mode     string         `toml:"mode"`
	Users    []string       `toml:"users"`
	Networks []netip.Prefix `toml:"networks"`
	Cgroups  []string       `toml:"cgroups"`
}

// Router is the [router] table: the LAN behind this machine.
type Router struct {
	LAN     string       `toml:"lan"`
	Address netip.Prefix `toml:"address"`
	Lease   Duration     `toml:"lease"`
	Device  []Device     `toml:"device"`
}

// Device is one [[router.device]] table.
type Device struct {
	MAC    string   `toml:"mac"`
	Name   string   `toml:"name"`
	Policy string   `toml:"policy"`
	Exit   []string `toml:"exit"`
}

func (c *Config) checkHost() error {
	s := &c.Split
	if s.Mode != "exclude" && s.Mode != "only" {
		return fmt.Errorf("split.mode %q: want exclude or only", s.Mode)
	}
	for _, g := range s.Cgroups {
		if g == "" || strings.HasPrefix(g, "/") || strings.HasSuffix(g, "/") || strings.Contains(g, "..") {
			return fmt.Errorf("split.cgroups: %q: want a path below the root without a slash in front, for example user.slice/work", g)
		}
	}
	r := &c.Router
	if len(r.LAN) > 15 || strings.ContainsAny(r.LAN, "/ %:") || r.LAN != "" && r.LAN == c.Tun.Name {
		return fmt.Errorf("router.lan %q: want the name of the interface to the LAN, or empty", r.LAN)
	}
	a := r.Address
	if !a.IsValid() || !a.Addr().Is4() || !a.Addr().IsPrivate() || a.Bits() < 16 || a.Bits() > 28 || a.Masked().Addr() == a.Addr() {
		return fmt.Errorf("router.address %q: want a private IPv4 address with a length of 16 to 28, for example 192.168.77.1/24", a)
	}
	if r.Lease <= 0 {
		return fmt.Errorf("router.lease must be above zero, for example \"12h\"")
	}
	for i := range r.Device {
		if err := r.Device[i].check(); err != nil {
			return fmt.Errorf("router.device %d: %w", i+1, err)
		}
	}
	return nil
}

func (d *Device) check() error {
	m, err := net.ParseMAC(d.MAC)
	if err != nil || len(m) != 6 {
		return fmt.Errorf("mac %q: want six bytes, for example 02:00:00:00:00:01", d.MAC)
	}
	d.MAC = m.String()
	switch d.Policy {
	case "":
		d.Policy = "tunnel"
	case "tunnel", "direct", "blocked":
	default:
		return fmt.Errorf("policy %q: want tunnel, direct or blocked", d.Policy)
	}
	return nil
}
