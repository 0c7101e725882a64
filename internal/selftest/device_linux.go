package selftest

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxDevices    = 8
	typeEthernet  = 1 // ARPHRD_ETHER, also of Wi-Fi
	routeGateway  = 2 // RTF_GATEWAY
	ipv4RouteFile = "/proc/net/route"
	ipv6RouteFile = "/proc/net/ipv6_route"
)

// device is a way out of the machine that is not ours.
type device struct {
	name     string
	index    int
	hardware net.HardwareAddr
	source4  netip.Addr // its addresses and routers, where it has them
	source6  netip.Addr
	router4  netip.Addr
	router6  netip.Addr
}

// physical lists the Ethernet devices that are up, but for our own and loopback,
// and the names of those that are up and of another kind.
func physical(tun string) (found []device, skipped []string, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("list devices: %w", err)
	}
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || i.Name == tun {
			continue
		}
		if kind(i.Name) != typeEthernet || len(i.HardwareAddr) != 6 || len(found) == maxDevices {
			skipped = append(skipped, i.Name)
			continue
		}
		d := device{name: i.Name, index: i.Index, hardware: i.HardwareAddr, router4: router4(i.Name), router6: router6(i.Name)}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, nil, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			switch at := p.Addr().Unmap(); {
			case at.Is4() && !d.source4.IsValid():
				d.source4 = at
			case at.Is6() && !at.IsLinkLocalUnicast() && !d.source6.IsValid():
				d.source6 = at
			}
		}
		found = append(found, d)
	}
	return found, skipped, nil
}

// kind is a device's hardware type (ARPHRD_...), -1 when it cannot be known.
func kind(name string) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is under way
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFHWADDR, ifr); err != nil {
		return -1
	}
	return int(ifr.Uint16()) // sa_family of ifr_hwaddr
}

// fields gives the lines of a table of /proc.
func fields(path string, each func([]string)) {
	f, err := os.Open(path)
	if err != nil {
		return // no such family
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		each(strings.Fields(s.Text()))
	}
}

// router4 is the next hop of a device's default route (proc(5): hexadecimal, in
// the machine's byte order).
func router4(name string) (router netip.Addr) {
	fields(ipv4RouteFile, func(f []string) {
		if len(f) < 8 || f[0] != name || f[1] != "00000000" || f[7] != "00000000" {
			return
		}
		flags, err := strconv.ParseUint(f[3], 16, 16)
		b, err2 := strconv.ParseUint(f[2], 16, 32)
		if err == nil && err2 == nil && flags&routeGateway != 0 {
			router = nativeAddr(uint32(b))
		}
	})
	return router
}

// router6 is the same for IPv6.
func router6(name string) (router netip.Addr) {
	fields(ipv6RouteFile, func(f []string) {
		if len(f) < 10 || f[9] != name || f[1] != "00" || strings.Trim(f[0], "0") != "" {
			return
		}
		b, err := hex.DecodeString(f[4])
		if err != nil || len(b) != 16 {
			return
		}
		if a := netip.AddrFrom16([16]byte(b)); !a.IsUnspecified() {
			router = a
		}
	})
	return router
}

// ownAddresses lists the addresses of this machine.
func ownAddresses() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
