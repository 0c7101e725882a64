package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumps bounds how often something is listed that changes meanwhile.
const dumps = 8

// whole lists something until the kernel has not changed it meanwhile: a dump that
// was interrupted may lack entries (NLM_F_DUMP_INTR, netlink(7)).
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for range dumps {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, errChanging
}

func listLinks() ([]netlink.Link, error) { return whole(netlink.LinkList) }

func listAddresses(l netlink.Link, family int) ([]netlink.Addr, error) {
	return whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, family) })
}

func listRules(family int) ([]netlink.Rule, error) {
	return whole(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
}

func listRoutes(family int, filter netlink.Route, by uint64) ([]netlink.Route, error) {
	return whole(func() ([]netlink.Route, error) { return netlink.RouteListFiltered(family, &filter, by) })
}

// linkByName finds an interface. Old kernels are asked for all of them.
func linkByName(name string) (netlink.Link, error) {
	found, err := whole(func() ([]netlink.Link, error) {
		l, err := netlink.LinkByName(name)
		return []netlink.Link{l}, err
	})
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// Uplinks lists the interfaces that lead out of this machine: those with a default
// route in any table, the TUN included, and those by which sockets with the mark
// reach the peers.
func Uplinks(mark uint32, peers []netip.AddrPort) ([]string, error) {
	var indexes []int
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := listRoutes(family, netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if prefix(r.Dst) != "everything" || r.Type != unix.RTN_UNICAST {
				continue
			}
			indexes = append(indexes, r.LinkIndex)
			for _, hop := range r.MultiPath {
				indexes = append(indexes, hop.LinkIndex)
			}
		}
	}
	for _, p := range peers {
		routes, err := netlink.RouteGetWithOptions(p.Addr().AsSlice(), &netlink.RouteGetOptions{Mark: mark})
		if err != nil {
			continue // there is no way to it
		}
		for _, r := range routes {
			indexes = append(indexes, r.LinkIndex)
		}
	}
	links, err := listLinks()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, l := range links {
		if slices.Contains(indexes, l.Attrs().Index) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}
