package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inspectNetworks reads what LAN access and the router depend on.
func (h *Host) inspectNetworks() (err error) {
	if h.Attached, err = Networks(); err != nil {
		return err
	}
	if !h.IPv6 {
		return nil
	}
	_, err = os.Stat(filepath.Join(sysctlRoot, "net/ipv6/conf/default/force_forwarding"))
	h.ForceForwarding = err == nil
	files, err := filepath.Glob(filepath.Join(sysctlRoot, "net/ipv6/conf/*/accept_ra"))
	if err != nil {
		return err
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the interface has gone
		}
		if err != nil {
			return fmt.Errorf("read who follows router advertisements: %w", err)
		}
		if name := filepath.Base(filepath.Dir(path)); strings.TrimSpace(string(b)) == "1" && name != "all" && name != "lo" {
			h.AcceptsRA = append(h.AcceptsRA, name)
		}
	}
	return nil
}

// Networks lists the networks that this host's interfaces are in, but for
// loopback, in a fixed order.
func Networks() ([]Attached, error) {
	links, err := listLinks()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Attached
	for _, l := range links {
		if a := l.Attrs(); a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 {
			continue
		}
		addresses, err := listAddresses(l, netlink.FAMILY_ALL)
		if errors.Is(err, unix.ENODEV) {
			continue // it has gone
		}
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addresses {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				bits, _ := a.Mask.Size()
				out = append(out, Attached{l.Attrs().Name, netip.PrefixFrom(ip.Unmap(), bits).Masked()})
			}
		}
	}
	slices.SortFunc(out, func(a, b Attached) int {
		if n := strings.Compare(a.Device, b.Device); n != 0 {
			return n
		}
		return a.Network.Compare(b.Network)
	})
	return slices.Compact(out), nil
}

// Station gives the MAC address of a neighbor on a LAN, by the kernel's table.
func Station(device string, a netip.Addr) (net.HardwareAddr, error) {
	link, err := linkByName(device)
	if err != nil {
		return nil, err
	}
	list, err := whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(link.Attrs().Index, family(familyOf(a))) })
	if err != nil {
		return nil, fmt.Errorf("list neighbors: %w", err)
	}
	for _, n := range list {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a && len(n.HardwareAddr) == 6 {
			return n.HardwareAddr, nil
		}
	}
	return nil, fs.ErrNotExist
}
