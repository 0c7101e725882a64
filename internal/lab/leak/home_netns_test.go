//go:build linux && netns

package leak

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The network at home: the machine is its router, by homeDevice.
const (
	homeDevice = "home0"
	hostDevice = "eth0" // of its hosts
	home4      = "10.89.0.1/24"
	home6      = "fd89::1/64"
)

var (
	homeRouter4 = netip.MustParsePrefix(home4).Addr()
	homeRouter6 = netip.MustParsePrefix(home6).Addr()
	group4      = netip.MustParseAddr("239.77.1.1")
)

// home is a network with two hosts behind a switch that know nothing of Cuttle.
// The machine does for them what routers do: it forwards, advertises itself, asks
// for names on their behalf, and passes multicast and broadcasts on.
type home struct {
	w     *world
	hosts []netns.NsHandle
	link6 netip.Addr   // the router's link-local address there
	asked atomic.Int64 // questions for names that have reached the router
}

func (w *world) newHome() *home {
	w.t.Helper()
	h := &home{w: w}
	switched := w.namespace()
	w.must(in(switched, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		return errors.Join(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}), setUp("br0"))
	}))
	w.must(plug(switched, "port0", homeDevice))
	w.t.Cleanup(func() {
		link, err := netlink.LinkByName(homeDevice)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			w.t.Error(err)
		}
	})
	w.must(setSysctls(map[string]string{
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/phys0/rp_filter": "0", "ipv4/conf/" + homeDevice + "/rp_filter": "0",
		"ipv4/conf/all/bc_forwarding": "1", "ipv4/conf/" + homeDevice + "/bc_forwarding": "1",
		"ipv6/conf/all/forwarding": "1", "ipv6/icmp/ratelimit": "0",
	}))
	w.must(errors.Join(addAddress(homeDevice, home4), addAddress(homeDevice, home6), setUp(homeDevice)))
	w.eventually("the router's link-local address", func() (found bool) {
		h.link6, found = linkLocal(homeDevice)
		return found
	})
	for i := range 2 {
		h.hosts = append(h.hosts, h.newHost(switched, i))
	}
	h.passMulticast()
	h.askForNames()
	return h
}

func setSysctls(values map[string]string) error {
	for key, value := range values {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// plug makes a device in the namespace of the calling thread whose other end is a
// port of the switch.
func plug(switched netns.NsHandle, port, device string) error {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.LinkAttrs.Name, veth.PeerName, veth.PeerNamespace = device, port, netlink.NsFd(int(switched))
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	return in(switched, func() error {
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
	})
}

// linkLocal is a device's link-local address that can be used.
func linkLocal(device string) (netip.Addr, bool) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return netip.Addr{}, false
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, a := range list {
		if ip, _ := netip.AddrFromSlice(a.IP); ip.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// newHost has a fixed IPv4 address and takes its IPv6 address from advertisements. Its
// routes stay when the router says that it is none any more: else its probes would
// not even be sent.
func (h *home) newHost(switched netns.NsHandle, number int) netns.NsHandle {
	h.w.t.Helper()
	ns := h.w.namespace()
	h.w.must(in(ns, func() error {
		if err := plug(switched, fmt.Sprintf("port%d", number+1), hostDevice); err != nil {
			return err
		}
		link, err := netlink.LinkByName(hostDevice)
		if err != nil {
			return err
		}
		return errors.Join(setSysctls(map[string]string{"ipv6/conf/" + hostDevice + "/accept_dad": "0", "ipv4/conf/all/rp_filter": "0"}),
			settle(hostDevice, fmt.Sprintf("10.89.0.%d/24", number+11), homeRouter4.String()),
			netlink.RouteAdd(&netlink.Route{Dst: everything6(), Gw: h.link6.AsSlice(), LinkIndex: link.Attrs().Index, Priority: 4096}))
	}))
	return ns
}

// advertise is what a plain router says to its network, and waits until the hosts
// have followed it.
func (h *home) advertise() {
	h.w.t.Helper()
	link, err := net.InterfaceByName(homeDevice)
	h.w.must(err)
	prefix := []byte{3, 4, 64, 0xc0, 0, 0, 0x1c, 0x20, 0, 0, 0x1c, 0x20, 0, 0, 0, 0} // RFC 4861 section 4.6.2, for two hours
	network := netip.MustParsePrefix(home6).Masked().Addr().As16()
	var sent time.Time
	h.w.eventually("addresses by the router's advertisement", func() bool {
		if time.Since(sent) > time.Second { // a host that is not ready yet hears nothing
			h.w.must(sendAdvertisement(link, h.link6, append(prefix, network[:]...)))
			sent = time.Now()
		}
		for _, ns := range h.hosts {
			if _, ok := h.address6(ns); !ok {
				return false
			}
		}
		return true
	})
}

// address6 is what a host has by an advertisement.
func (h *home) address6(ns netns.NsHandle) (found netip.Addr, ok bool) {
	h.w.must(in(ns, func() error {
		link, err := netlink.LinkByName(hostDevice)
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_V6)
		for _, a := range list {
			if ip, _ := netip.AddrFromSlice(a.IP); netip.MustParsePrefix(home6).Contains(ip) && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				found, ok = ip, true
			}
		}
		return err
	}))
	return found, ok
}

// mac is the hardware address of a host.
func (h *home) mac(number int) (mac string) {
	h.w.must(in(h.hosts[number], func() error {
		link, err := net.InterfaceByName(hostDevice)
		if err == nil {
			mac = link.HardwareAddr.String()
		}
		return err
	}))
	return mac
}

// passMulticast has the kernel forward group4 from the network to the outside, as
// a router with an IGMP proxy has it (linux/mroute.h).
func (h *home) passMulticast() {
	h.w.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IGMP)
	h.w.must(err)
	h.w.t.Cleanup(func() { _ = unix.Close(fd) }) // and the kernel forgets it
	const begin, addDevice, addRoute, byIndex = 200, 202, 204, 8
	h.w.must(unix.SetsockoptInt(fd, unix.IPPROTO_IP, begin, 1))
	for number, device := range []string{homeDevice, "phys0"} {
		link, err := net.InterfaceByName(device)
		h.w.must(err)
		vif := make([]byte, 16)
		binary.NativeEndian.PutUint16(vif, uint16(number))
		vif[2], vif[3] = byIndex, 1
		binary.NativeEndian.PutUint32(vif[8:], uint32(link.Index))
		h.w.must(unix.SetsockoptString(fd, unix.IPPROTO_IP, addDevice, string(vif)))
	}
	for number := range h.hosts {
		route := make([]byte, 60)
		group := group4.As4()
		copy(route, []byte{10, 89, 0, byte(number + 11)})
		copy(route[4:], group[:])
		route[10+1] = 1 // to the second device, whatever the hop limit
		h.w.must(unix.SetsockoptString(fd, unix.IPPROTO_IP, addRoute, string(route)))
	}
}

// askForNames passes questions of the network on to a resolver, as the daemon does that
// most routers have.
func (h *home) askForNames() {
	h.w.t.Helper()
	for _, a := range []netip.Addr{homeRouter4, homeRouter6} {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 53)))
		h.w.must(err)
		done := make(chan struct{})
		go func() { // ends when c is closed
			defer close(done)
			b := make([]byte, 512)
			for {
				n, err := c.Read(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				h.asked.Add(1)
				_ = udp(resolver4, 53)(b[:n]) // refused: that is seen on the wire
			}
		}()
		h.w.t.Cleanup(func() { _ = c.Close(); <-done })
	}
}

// reaches wants every host to be able to use a service of the router, or none.
func (h *home) reaches(state string, want bool) {
	h.w.t.Helper()
	limit := 500 * time.Millisecond // for what is not answered
	if want {
		limit = patience
	}
	var all sync.WaitGroup
	for number, ns := range h.hosts {
		for _, a := range []netip.Addr{homeRouter4, near4, homeRouter6} {
			all.Go(func() { // ends with its connection
				err := in(ns, func() error {
					c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, openPort).String(), limit)
					if err == nil {
						_ = c.Close()
					}
					return err
				})
				if (err == nil) != want {
					h.w.t.Errorf("router, %s: host %d reaches a service of the router at %v: %v (%v), want %v", state, number+1, a, err == nil, err, want)
				}
			})
		}
	}
	all.Wait()
}

// alive wants the tunnel to carry connections of both hosts.
func (h *home) alive() {
	h.w.t.Helper()
	for number, ns := range h.hosts {
		h.w.eventually(fmt.Sprintf("a connection of host %d through the tunnel", number+1), func() bool {
			return in(ns, func() error {
				c, err := net.DialTimeout("tcp", served, 10*time.Second)
				if err != nil {
					return err
				}
				defer c.Close()
				b := make([]byte, 5)
				if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
					return fmt.Errorf("read %q: %w", b, err)
				}
				return nil
			}) == nil
		})
	}
}
