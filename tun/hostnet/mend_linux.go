package hostnet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attempts bounds how often egress chains are tried while devices come and go.
const attempts = 4

func (k *system) load(s Step) error {
	if s.Filter == nil {
		return errors.New("filter step without a filter")
	}
	if err := loadFilter(*s.Filter); err != nil {
		return err
	}
	list, err := listTable(nftables.TableFamilyINet)
	if err == nil && list == "" {
		err = errors.New("the packet filter has gone again at once")
	}
	k.filter = list
	return err
}

func (k *system) loadEgress(s Step) error {
	if s.Filter == nil {
		return errors.New("filter step without a filter")
	}
	var failed error
	for range attempts {
		keys, names, err := devices(s.Filter.Device)
		if err != nil {
			return err
		}
		if failed = loadEgress(*s.Filter, names); failed != nil {
			continue // one of the devices has gone since, probably
		}
		if k.egress, err = listTable(nftables.TableFamilyNetdev); err != nil {
			return err
		}
		k.devices = keys
		return nil
	}
	return failed
}

// holds tells whether a step is in force, whole.
func (k *system) holds(s Step) (bool, error) {
	if s.Stay && s.Device != "" {
		if _, err := linkByName(s.Device); errors.As(err, &netlink.LinkNotFoundError{}) {
			return true, nil // nothing is there to be kept
		}
	}
	switch s.Kind {
	case Sysctl:
		v, err := readSysctl(s.Key)
		return v == s.Value, err
	case PacketFilter:
		list, err := listTable(nftables.TableFamilyINet)
		return list != "" && list == k.filter, err
	case EgressFilter:
		keys, _, err := devices(s.Filter.Device)
		if err != nil || !slices.Equal(keys, k.devices) {
			return false, err
		}
		list, err := listTable(nftables.TableFamilyNetdev)
		return list != "" && list == k.egress, err
	case UnreachableRoute:
		return tableHolds(unreachable(s))
	case Rule, PastRule:
		return ruleHolds(rule(s))
	case Resolver:
		f, gone, err := readFile(s.Key)
		return !gone && err == nil && f.Target == "" && string(f.Content) == s.Value, err
	case ResolvedLink:
		return resolvedHolds(s)
	case ManagerDNS:
		g, err := readManager()
		return g.text() == ours(s.Value).text(), err
	case ResolvconfSource:
		return true, nil // it cannot be asked
	case Link, Address, TunRoute, LANRoute:
		link, err := linkByName(s.Device)
		if err != nil {
			return false, err
		}
		return holdsOn(link, s)
	default:
		return false, errUnknownStep
	}
}

func holdsOn(link netlink.Link, s Step) (bool, error) {
	switch s.Kind {
	case Address:
		list, err := listAddresses(link, family(map[bool]int{true: 6, false: 4}[s.Address.Is6()]))
		want := address(s)
		return slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IPNet.String() == want.IPNet.String() }), err
	case TunRoute, LANRoute:
		return tableHolds(through(s, link))
	default: // Link
		return link.Attrs().Flags&net.FlagUp != 0 && (s.MTU == 0 || link.Attrs().MTU == s.MTU), nil
	}
}

// tableHolds tells whether a route is in its table.
func tableHolds(want *netlink.Route) (bool, error) {
	routes, err := tableRoutes(want.Family, want.Table)
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return sameRoute(r, *want) }), err
}

func tableRoutes(family, table int) ([]netlink.Route, error) {
	return listRoutes(family, netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
}

// sameRoute compares what our routes consist of. The kernel puts unreachable
// IPv6 routes on loopback.
func sameRoute(a, b netlink.Route) bool {
	return a.Type == b.Type && a.Priority == b.Priority && prefix(a.Dst) == prefix(b.Dst) && a.Gw == nil && len(a.MultiPath) == 0 &&
		(a.Type == unix.RTN_UNREACHABLE || a.LinkIndex == b.LinkIndex)
}

// prefix writes a destination; a missing one is everything.
func prefix(n *net.IPNet) string {
	if n == nil {
		return "everything"
	}
	if ones, _ := n.Mask.Size(); ones == 0 {
		return "everything"
	}
	return n.String()
}

func ruleHolds(want *netlink.Rule) (bool, error) {
	rules, err := listRules(want.Family)
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		return r.Priority == want.Priority && r.Table == want.Table && r.Invert == want.Invert && r.Mark == want.Mark && r.Mask != nil && *r.Mask == *want.Mask &&
			r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && r.UIDRange == nil && r.IPProto == 0 && r.Sport == nil && r.Dport == nil
	}), err
}

// foreign removes what others have put into our tables: a route that is more
// specific than ours would lead past the TUN.
func (k *system) foreign(p Plan) (removed int, err error) {
	for _, f := range []int{4, 6} {
		table := 0
		var ours []netlink.Route
		for _, s := range p.Steps {
			switch {
			case s.Family != f:
			case s.Kind == UnreachableRoute:
				table = s.Table
				ours = append(ours, *unreachable(s))
			case s.Kind == TunRoute, s.Kind == LANRoute:
				link, err := linkByName(s.Device)
				if errors.As(err, &netlink.LinkNotFoundError{}) {
					continue // its routes went with it
				}
				if err != nil {
					return removed, err
				}
				ours = append(ours, *through(s, link))
			}
		}
		if table == 0 {
			continue
		}
		routes, err := tableRoutes(family(f), table)
		if err != nil {
			return removed, fmt.Errorf("list our table: %w", err)
		}
		for _, r := range routes {
			if slices.ContainsFunc(ours, func(o netlink.Route) bool { return sameRoute(r, o) }) {
				continue
			}
			if err := except(netlink.RouteDel(&r), unix.ESRCH); err != nil {
				return removed, fmt.Errorf("remove a foreign route from our table: %w", err)
			}
			removed++
		}
	}
	return removed, nil
}

// subscriptions are the groups of events: a socket each, since one socket has
// one protocol.
var subscriptions = []struct {
	protocol int
	groups   []int
}{
	{unix.NETLINK_ROUTE, []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE}},
	{unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES}},
}

// events reads what the kernel tells about changes. What it tells is not looked
// at, so a message that is lost costs nothing: one before it or the loss itself
// is an event.
func (k *system) events() (<-chan struct{}, func() error, error) {
	changed := make(chan struct{}, 1)
	var files []*os.File
	var ended []chan struct{}
	quit := resolverEvents(changed)
	stop := func() error {
		var err error
		for i, f := range files {
			err = errors.Join(err, f.Close())
			<-ended[i]
		}
		if quit != nil {
			err = errors.Join(err, quit())
		}
		return err
	}
	for _, s := range subscriptions {
		f, err := subscribe(s.protocol, s.groups)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("subscribe to changes of the network: %w", err), stop())
		}
		done := make(chan struct{})
		files, ended = append(files, f), append(ended, done)
		go func() { // ends when stop closes f
			defer close(done)
			buf := make([]byte, 1<<16)
			for {
				_, err := f.Read(buf)
				if err != nil && !errors.Is(err, unix.ENOBUFS) {
					return
				}
				select {
				case changed <- struct{}{}:
				default: // one is waiting already
				}
			}
		}()
	}
	return changed, stop, nil
}

// asleep compares the clock that stops while the machine sleeps with the one that
// does not, clock_gettime(2).
func (k *system) asleep() time.Duration {
	var boot, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &awake) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - awake.Nano())
}

func subscribe(protocol int, groups []int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		}
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "netlink events"), nil
}
