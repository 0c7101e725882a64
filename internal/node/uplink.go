package node

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"cuttle/internal/control"
	"cuttle/tun/hostnet"
)

// mayServe refuses an interface that is no LAN behind this machine: serving it
// would make this machine the router of somebody else's network, or cut its links.
func (n *Node) mayServe(device string) error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return &control.Error{Text: fmt.Sprintf("there is no interface %q", device), Hint: "`ip link` lists them"}
	}
	if link.Flags&net.FlagLoopback != 0 || device == n.cfg.Tun.Name {
		return &control.Error{Text: fmt.Sprintf("%s is this machine's own: there is no network behind it", device)}
	}
	up, err := hostnet.Uplinks(n.cfg.Tun.Mark, peerAddresses(n.cfg, n.links.known))
	if err != nil {
		return fmt.Errorf("look for the way out: %w", err)
	}
	if !slices.Contains(up, device) {
		own, err := link.Addrs()
		if err != nil {
			return fmt.Errorf("look for the way out: %w", err)
		}
		if !n.links.useAny(own) {
			return nil
		}
	}
	return &control.Error{
		Text: device + " is this machine's own way out: its network has a router already",
		Hint: "name the interface of the network that this machine is to serve",
	}
}

// useAny tells whether a link has one of these addresses.
func (nb *neighborhood) useAny(own []net.Addr) bool {
	var list []netip.Addr
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p.Addr().Unmap())
		}
	}
	nb.mu.Lock()
	defer nb.mu.Unlock()
	for _, l := range nb.live {
		if a, ok := l.link.LocalAddr().(*net.TCPAddr); ok && slices.Contains(list, a.AddrPort().Addr().Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

// leadsOut tells whether an interface that is to be a LAN has a default route: then
// it is none.
func leadsOut(device string) (bool, error) {
	up, err := hostnet.Uplinks(0, nil)
	if err != nil {
		return false, fmt.Errorf("look for the way out: %w", err)
	}
	return slices.Contains(up, device), nil
}
