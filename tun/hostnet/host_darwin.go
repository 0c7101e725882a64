package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errDarwin says what macOS does not have.
var errDarwin = fmt.Errorf("not on macOS: %w", ErrUnsupported)

// MissingHint says what can be done about what a plan misses, and CanRoute whether
// this system can be a router.
const (
	MissingHint = "docs/guides/macos.md says what macOS cannot do"
	CanRoute    = false
)

// unread stands for a host that cannot be asked.
var unread = Host{Mac: true, IPv6: true}

// Inspect reads what a plan depends on.
func Inspect(Config) (Host, error) {
	attached, err := Networks()
	return Host{Mac: true, IPv6: true, Attached: attached}, err
}

// InspectOver is Inspect: nothing that it reads is changed by a plan.
func InspectOver(_ string, cfg Config) (Host, error) { return Inspect(cfg) }

func newKernel() (kernel, error) { return &macKernel{host: darwin{}}, nil }

// Control returns a function for net.Dialer.Control and net.ListenConfig.Control
// that binds sockets to the uplink, the interface of the default route that is not
// a tunnel: then they use its routes, whatever others there are. Sockets to or on
// addresses of this machine, listeners among them, are left alone. Without an uplink
// the socket stays as it is, and its connection is refused.
func Control(uint32) func(network, address string, c syscall.RawConn) error {
	return func(_, address string, c syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || at.Addr().IsUnspecified() || at.Addr().IsLoopback() || own(at.Addr()) {
			return nil
		}
		var failed error
		if err := c.Control(func(fd uintptr) { failed = bind(fd, familyOf(at.Addr().Unmap())) }); err != nil {
			return fmt.Errorf("bind socket to the uplink: %w", err)
		}
		return failed
	}
}

// Mark binds the socket fd to the uplink of IPv4, as Control.
func Mark(fd uintptr, _ uint32) error { return bind(fd, 4) }

func bind(fd uintptr, family int) error {
	index, err := uplink(family)
	if err != nil || index == 0 {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_BOUND_IF
	if family == 6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_BOUND_IF
	}
	if err := unix.SetsockoptInt(int(fd), level, option, index); err != nil {
		return fmt.Errorf("bind socket to the uplink: %w", err)
	}
	return nil
}

func own(a netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(list, func(n net.Addr) bool {
		p, ok := n.(*net.IPNet)
		return ok && p.IP.Equal(a.Unmap().AsSlice())
	})
}

// Usable leaves of this machine's addresses those that our sockets can leave from:
// the uplinks' and loopback. While there is no uplink it leaves all.
func Usable(addresses []netip.Addr) []netip.Addr {
	var from []netip.Addr
	for _, family := range []int{4, 6} {
		index, err := uplink(family)
		if err != nil || index == 0 {
			continue
		}
		i, err := net.InterfaceByIndex(index)
		if err != nil {
			continue
		}
		list, _ := i.Addrs()
		for _, n := range list {
			if p, ok := n.(*net.IPNet); ok {
				if a, ok := netip.AddrFromSlice(p.IP); ok {
					from = append(from, a.Unmap())
				}
			}
		}
	}
	if len(from) == 0 {
		return addresses
	}
	return slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool {
		return !a.IsLoopback() && !slices.Contains(from, a.Unmap().WithZone(""))
	})
}

// Networks lists the networks that this host's interfaces are in, but for loopback,
// tunnels and the radio links between Apple's devices, in a fixed order.
func Networks() ([]Attached, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Attached
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagBroadcast == 0 || !physical(i.Name) {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, n := range addresses {
			p, ok := n.(*net.IPNet)
			if !ok {
				continue
			}
			if a, ok := netip.AddrFromSlice(p.IP); ok {
				bits, _ := p.Mask.Size()
				out = append(out, Attached{i.Name, netip.PrefixFrom(a.Unmap(), bits).Masked()})
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

// physical tells whether an interface may be an uplink: no loopback, no tunnel, and
// none of the links that Apple's devices make among themselves.
func physical(name string) bool {
	return !slices.ContainsFunc([]string{"lo", "utun", "ipsec", "gif", "stf", "awdl", "llw", "anpi"}, func(kind string) bool {
		return strings.HasPrefix(name, kind)
	})
}

func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return 0, 0
}

const errBusy = unix.EWOULDBLOCK

func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// FindCgroup finds no cgroup: there are none.
func FindCgroup(string) (Cgroup, error) { return Cgroup{}, errDarwin }

// MakeCgroup makes no cgroup.
func MakeCgroup(string) (Cgroup, error) { return Cgroup{}, errDarwin }

// ProcsFile finds no file.
func (c Cgroup) ProcsFile() (string, error) { return "", errDarwin }

// Join joins nothing.
func (c Cgroup) Join(int) error { return errDarwin }

// InUse tells that nobody is in the cgroup.
func (c Cgroup) InUse() bool { return false }

// Station gives no address.
func Station(string, netip.Addr) (net.HardwareAddr, error) {
	return nil, errors.Join(errDarwin, fs.ErrNotExist)
}

// Uplinks lists the interfaces that the default routes lead through, tunnels left
// out: our sockets use these and no other.
func Uplinks(uint32, []netip.AddrPort) ([]string, error) {
	var out []string
	for _, family := range []int{4, 6} {
		index, err := uplink(family)
		if err != nil {
			return nil, err
		}
		if index == 0 {
			continue
		}
		i, err := net.InterfaceByIndex(index)
		if err != nil {
			return nil, fmt.Errorf("list interfaces: %w", err)
		}
		out = append(out, i.Name)
	}
	return slices.Compact(out), nil
}
