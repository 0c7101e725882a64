package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Times of asking for a neighbor, and how many are asked for at once: who makes up
// addresses shall not keep us busy. The pauses between two looks grow.
const (
	neighborTime  = 2500 * time.Millisecond // the kernel asks thrice, a second apart
	neighborPause = 5 * time.Millisecond    // the first
	neighborMost  = 100 * time.Millisecond
	neighborsMost = 64
)

var errAsking = errors.New("too many neighbors are being asked for")

var asking = make(chan struct{}, neighborsMost) // one token for each that is asked for

// HardwareAddress tells which MAC address, in lower case with colons, the neighbor
// with an address has at an interface. If the kernel does not know it asks the
// network (ARP, neighbor solicitation), for some seconds at most. It needs CAP_NET_ADMIN.
func HardwareAddress(device string, a netip.Addr) (string, error) {
	link, err := linkByName(device)
	if err != nil {
		return "", fmt.Errorf("find neighbor: %w", err)
	}
	index, fam := link.Attrs().Index, netlink.FAMILY_V4
	if a.Is6() {
		fam = netlink.FAMILY_V6
	}
	mac, err := knownNeighbor(index, fam, a)
	if !errors.Is(err, ErrNoNeighbor) {
		return mac, err
	}
	select {
	case asking <- struct{}{}:
		defer func() { <-asking }()
	default:
		return "", errAsking
	}
	// With this flag the kernel resolves the entry as if there were a packet for it.
	err = netlink.NeighSet(&netlink.Neigh{LinkIndex: index, Family: fam, IP: a.AsSlice(), State: netlink.NUD_NONE, Flags: netlink.NTF_USE})
	if err != nil {
		return "", fmt.Errorf("ask for neighbor: %w", err)
	}
	deadline := time.Now().Add(neighborTime)
	for pause := neighborPause; ; pause = min(2*pause, neighborMost) {
		<-time.After(min(pause, time.Until(deadline)))
		if mac, err = knownNeighbor(index, fam, a); !errors.Is(err, ErrNoNeighbor) || !time.Now().Before(deadline) {
			return mac, err
		}
	}
}

// knownNeighbor looks for one entry in the kernel's table, however many there are
// (RTM_GETNEIGH without a dump, from Linux 5.0 on).
func knownNeighbor(index, fam int, a netip.Addr) (string, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddData(&netlink.Ndmsg{Family: uint8(fam), Index: uint32(index)})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, a.AsSlice()))
	found, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return "", ErrNoNeighbor
	}
	if err != nil {
		return "", fmt.Errorf("look for neighbor: %w", err)
	}
	const resolved = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	for _, m := range found {
		n, err := netlink.NeighDeserialize(m)
		if err != nil {
			return "", fmt.Errorf("look for neighbor: %w", err)
		}
		if n.State&resolved != 0 && n.Type != unix.RTN_LOCAL && len(n.HardwareAddr) == 6 {
			return n.HardwareAddr.String(), nil
		}
	}
	return "", ErrNoNeighbor
}
