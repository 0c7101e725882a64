package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route leads to a network through a device.
type Route struct {
	To     netip.Prefix
	Device string
	By     netip.Addr // next hop on the device's cable; zero: the network is there itself
	From   netip.Addr // our address for what begins here; zero: the kernel's choice
}

// SetRoutes adds routes in a namespace, in place of those to the same networks.
func SetRoutes(name string, routes ...Route) error {
	h, err := open(name)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, r := range routes {
		link, err := h.LinkByName(r.Device)
		if err != nil {
			return fmt.Errorf("find %s in %s: %w", r.Device, name, err)
		}
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index,
			Dst:       &net.IPNet{IP: r.To.Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), r.To.Addr().BitLen())},
		}
		if r.By.IsValid() {
			route.Gw, route.Flags = r.By.AsSlice(), int(netlink.FLAG_ONLINK)
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		if r.From.IsValid() {
			route.Src = r.From.AsSlice()
		}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s in %s: %w", r.To, name, err)
		}
	}
	return nil
}

// SetDevice gives a device that some program has made in the namespace its
// addresses and MTU (0: as it is), and sets it up.
func SetDevice(name, device string, mtu int, addresses ...netip.Prefix) error {
	h, err := open(name)
	if err != nil {
		return err
	}
	defer h.Close()
	if mtu > 0 {
		link, err := h.LinkByName(device)
		if err != nil {
			return fmt.Errorf("find %s in %s: %w", device, name, err)
		}
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU of %s in %s: %w", device, name, err)
		}
	}
	return End{Namespace: name, Interface: device, Addresses: addresses}.configure()
}

// RemoveAddress takes an address of a device away, and no other that lies in the same
// network.
func RemoveAddress(name, device string, address netip.Prefix) error {
	// Else the kernel takes those away, too, that came after it.
	if err := Sysctl(name, "net/ipv4/conf/all/promote_secondaries", "1"); err != nil {
		return err
	}
	h, err := open(name)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", device, name, err)
	}
	gone := &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}
	if err := h.AddrDel(link, &netlink.Addr{IPNet: gone}); err != nil {
		return fmt.Errorf("take %s from %s in %s: %w", address, device, name, err)
	}
	return nil
}

// HasDevice tells whether the namespace has a device that is up.
func HasDevice(name, device string) (bool, error) {
	h, err := open(name)
	if err != nil {
		return false, err
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find %s in %s: %w", device, name, err)
	}
	return link.Attrs().RawFlags&unix.IFF_UP != 0, nil
}
