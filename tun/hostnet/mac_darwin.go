package hostnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// darwin is macOS itself.
type darwin struct{}

// tokenFile keeps what ends our use of pf. Its folder is emptied when the machine
// starts, as the kernel's list of tokens is.
const tokenFile = "/var/run/cuttle-pf.token"

// programTime bounds how long a program of the system may take.
const programTime = 20 * time.Second

func (darwin) run(stdin, program string, args ...string) (out, all string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), programTime)
	defer cancel()
	var said, complained bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &said, &complained
	err = cmd.Run()
	return said.String(), said.String() + complained.String(), err
}

func (darwin) token() (string, error) {
	b, err := os.ReadFile(tokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	token := strings.TrimSpace(string(b))
	if err == nil && !isNumber(token) {
		return "", nil
	}
	return token, err
}

func (darwin) keepToken(token string) error {
	if token == "" {
		if err := os.Remove(tokenFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return os.WriteFile(tokenFile, []byte(token+"\n"), 0o600)
}

// ways lists the routes that are for everybody: those that hold for sockets of one
// interface only are left out.
func (darwin) ways() ([]way, error) {
	messages, err := routes()
	if err != nil {
		return nil, err
	}
	names := make(map[int]string)
	var out []way
	for _, m := range messages {
		n, ok := destinationOf(m)
		if !ok || m.Flags&unix.RTF_IFSCOPE != 0 {
			continue
		}
		w := way{network: n, reject: m.Flags&unix.RTF_REJECT != 0}
		if !w.reject {
			name, known := names[m.Index]
			if !known {
				if i, err := net.InterfaceByIndex(m.Index); err == nil {
					name = i.Name
				}
				names[m.Index] = name
			}
			w.device = name
		}
		out = append(out, w)
	}
	return out, nil
}

// routes reads the routing table, route(4).
func routes() ([]*route.RouteMessage, error) {
	rib, err := route.FetchRIB(syscall.AF_UNSPEC, route.RIBTypeRoute, 0)
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	messages, err := route.ParseRIB(route.RIBTypeRoute, rib)
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	var out []*route.RouteMessage
	for _, m := range messages {
		if r, ok := m.(*route.RouteMessage); ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// destinationOf reads the destination of a route. The kernel cuts the zeros at the end of
// a mask, so that its bits are counted, wherever they are.
func destinationOf(m *route.RouteMessage) (netip.Prefix, bool) {
	if len(m.Addrs) <= unix.RTAX_NETMASK {
		return netip.Prefix{}, false
	}
	var a netip.Addr
	switch d := m.Addrs[unix.RTAX_DST].(type) {
	case *route.Inet4Addr:
		a = netip.AddrFrom4(d.IP)
	case *route.Inet6Addr:
		a = netip.AddrFrom16(d.IP)
	default:
		return netip.Prefix{}, false
	}
	if m.Flags&unix.RTF_HOST != 0 {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	ones := 0
	switch mask := m.Addrs[unix.RTAX_NETMASK].(type) {
	case *route.Inet4Addr:
		ones = count(mask.IP[:])
	case *route.Inet6Addr:
		ones = count(mask.IP[:])
	case nil:
		if !a.IsUnspecified() {
			return netip.Prefix{}, false
		}
	default:
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, min(ones, a.BitLen())), true
}

func count(mask []byte) int {
	n := 0
	for _, b := range mask {
		n += bits.OnesCount8(b)
	}
	return n
}

// uplink gives the index of the interface that the default route of a family leads
// through, tunnels left out; 0 when there is none. A route for everybody counts more
// than one for sockets of its interface, which is what is left of a default route
// when another service is primary.
func uplink(family int) (int, error) {
	messages, err := routes()
	if err != nil {
		return 0, err
	}
	scoped := 0
	for _, m := range messages {
		n, ok := destinationOf(m)
		if !ok || n.Bits() != 0 || familyOf(n.Addr()) != family || m.Flags&(unix.RTF_REJECT|unix.RTF_BLACKHOLE) != 0 || m.Flags&unix.RTF_UP == 0 {
			continue
		}
		i, err := net.InterfaceByIndex(m.Index)
		if err != nil || !physical(i.Name) {
			continue
		}
		if m.Flags&unix.RTF_IFSCOPE == 0 {
			return m.Index, nil
		}
		if scoped == 0 {
			scoped = m.Index
		}
	}
	return scoped, nil
}

func (darwin) addWay(w way, gateway netip.Addr) error {
	err := tellRoute(unix.RTM_ADD, w, gateway)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another program, a VPN for example, has this route: %w", err)
	}
	return err
}

func (darwin) removeWay(w way, gateway netip.Addr) error {
	if w.device != "" {
		if _, err := net.InterfaceByName(w.device); err != nil {
			return nil //nolint:nilerr // the route went with the interface
		}
	}
	return except(tellRoute(unix.RTM_DELETE, w, gateway), unix.ESRCH)
}

// tellRoute writes one message to a routing socket, route(4). The kernel's answer is
// the result of write(2).
func tellRoute(kind int, w way, gateway netip.Addr) error {
	m := route.RouteMessage{Version: unix.RTM_VERSION, Type: kind, Flags: unix.RTF_UP | unix.RTF_STATIC | unix.RTF_GATEWAY, ID: uintptr(os.Getpid()), Seq: 1}
	if w.reject {
		m.Flags |= unix.RTF_REJECT
	}
	m.Addrs = make([]route.Addr, unix.RTAX_NETMASK+1)
	m.Addrs[unix.RTAX_DST], m.Addrs[unix.RTAX_GATEWAY] = routeAddr(w.network.Addr()), routeAddr(gateway)
	m.Addrs[unix.RTAX_NETMASK] = routeAddr(maskOf(w.network))
	b, err := m.Marshal()
	if err != nil {
		return err
	}
	fd, err := routingSocket()
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, b)
	return errors.Join(err, unix.Close(fd))
}

func routeAddr(a netip.Addr) route.Addr {
	if a.Is4() {
		return &route.Inet4Addr{IP: a.As4()}
	}
	return &route.Inet6Addr{IP: a.As16()}
}

func maskOf(n netip.Prefix) netip.Addr {
	a, _ := netip.AddrFromSlice(net.CIDRMask(n.Bits(), n.Addr().BitLen()))
	return a
}

func routingSocket() (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err != nil {
		return -1, fmt.Errorf("routing socket: %w", err)
	}
	unix.CloseOnExec(fd)
	return fd, nil
}

func (darwin) device(name string) (macDevice, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return macDevice{}, fmt.Errorf("interface %s: %w", name, err)
	}
	d := macDevice{up: i.Flags&net.FlagUp != 0, mtu: i.MTU}
	addresses, err := i.Addrs()
	for _, n := range addresses {
		if p, ok := n.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(p.IP); ok {
				d.addresses = append(d.addresses, a.Unmap())
			}
		}
	}
	return d, err
}

// requestFlags is struct ifreq of <net/if.h> with the flags of an interface.
type requestFlags struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [14]byte
}

func (darwin) setDevice(name string, mtu int) error {
	return withSocket(unix.AF_INET, func(fd int) error {
		if mtu != 0 {
			m := unix.IfreqMTU{MTU: int32(mtu)}
			copy(m.Name[:unix.IFNAMSIZ-1], name)
			if err := unix.IoctlSetIfreqMTU(fd, &m); err != nil {
				return fmt.Errorf("set the mtu of %s: %w", name, err)
			}
		}
		var r requestFlags
		copy(r.name[:unix.IFNAMSIZ-1], name)
		if err := ioctl(fd, unix.SIOCGIFFLAGS, unsafe.Pointer(&r)); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
		r.flags |= unix.IFF_UP
		if err := ioctl(fd, unix.SIOCSIFFLAGS, unsafe.Pointer(&r)); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
		return nil
	})
}

// alias4 is struct ifaliasreq of <net/if.h>.
type alias4 struct {
	name            [unix.IFNAMSIZ]byte
	addr, dst, mask unix.RawSockaddrInet4
}

// alias6 is struct in6_aliasreq of <netinet6/in6_var.h>; its times are struct
// in6_addrlifetime.
type alias6 struct {
	name                [unix.IFNAMSIZ]byte
	addr, dst, mask     unix.RawSockaddrInet6
	flags               uint32
	expire, preferred   int64
	valid, preferredFor uint32
}

// What <netinet6/in6_var.h> and <netinet6/nd6.h> call so.
const (
	siocAIFAddrIn6  = 0x80806900 | 26 // _IOW('i', 26, struct in6_aliasreq)
	in6IFFNoDAD     = 0x0020
	nd6InfiniteLife = 0xffffffff
)

// The kernel tells requests apart by the sizes of what they point to.
var (
	_ [64]byte  = [unsafe.Sizeof(alias4{})]byte{}
	_ [128]byte = [unsafe.Sizeof(alias6{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(requestFlags{})]byte{}
)

func (darwin) addAddress(name string, a netip.Addr) error {
	var err error
	if a.Is4() {
		at := unix.RawSockaddrInet4{Len: unix.SizeofSockaddrInet4, Family: unix.AF_INET, Addr: a.As4()}
		r := alias4{addr: at, dst: at, mask: unix.RawSockaddrInet4{Len: unix.SizeofSockaddrInet4, Family: unix.AF_INET, Addr: [4]byte{255, 255, 255, 255}}}
		copy(r.name[:unix.IFNAMSIZ-1], name)
		err = withSocket(unix.AF_INET, func(fd int) error { return ioctl(fd, unix.SIOCAIFADDR, unsafe.Pointer(&r)) })
	} else {
		r := alias6{
			addr:  unix.RawSockaddrInet6{Len: unix.SizeofSockaddrInet6, Family: unix.AF_INET6, Addr: a.As16()},
			mask:  unix.RawSockaddrInet6{Len: unix.SizeofSockaddrInet6, Family: unix.AF_INET6, Addr: maskOf(host(a)).As16()},
			flags: in6IFFNoDAD, valid: nd6InfiniteLife, preferredFor: nd6InfiniteLife,
		}
		copy(r.name[:unix.IFNAMSIZ-1], name)
		err = withSocket(unix.AF_INET6, func(fd int) error { return ioctl(fd, siocAIFAddrIn6, unsafe.Pointer(&r)) })
	}
	if err = except(err, unix.EEXIST); err != nil {
		return fmt.Errorf("give %s its address: %w", name, err)
	}
	return nil
}

func withSocket(family int, do func(fd int) error) error {
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	return errors.Join(do(fd), unix.Close(fd))
}

func ioctl(fd int, request uint, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// except turns an errno that means "it is so already" into success.
func except(err error, fine unix.Errno) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}

// events tells of changes of routes, addresses and interfaces. pf tells nobody of
// its changes: they are found when Watch looks without a reason.
func (darwin) events() (<-chan struct{}, func() error, error) {
	reported, stop, err := watchRoutes()
	if err != nil {
		return nil, nil, err
	}
	return reported, stop, nil
}

// asleep compares the clock that stops while the machine sleeps with the one that
// does not, clock_gettime(3).
func (darwin) asleep() time.Duration {
	var all, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_UPTIME_RAW, &awake) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &all) != nil {
		return 0
	}
	return time.Duration(all.Nano() - awake.Nano())
}
