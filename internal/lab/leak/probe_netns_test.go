//go:build linux && netns

package leak

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"cuttle/tun/hostnet"
	"cuttle/tun/hostnet/hostnettest"
)

// Addresses of the probes' destinations.
var (
	public4   = netip.MustParseAddr("198.18.7.7")
	public6   = netip.MustParseAddr("2001:db8:7::7")
	resolver4 = netip.MustParseAddr("9.9.9.9")
	gateway4  = netip.MustParseAddr("10.77.0.2")
	gateway6  = netip.MustParseAddr(routerLink)
	near4     = netip.MustParseAddr(hostnettest.Near4)
	near6     = netip.MustParseAddr(hostnettest.Near6)
	vision    = netip.MustParseAddr("198.51.100.9") // routed by a pushed route
	localNet  = netip.MustParseAddr("192.0.2.55")   // in a public network that the router calls local
	relay4    = netip.MustParseAddr(hostnettest.Far4)
	joined4   = netip.MustParseAddr("239.77.7.7") // groups that programs listen to
	joined6   = netip.MustParseAddr("ff05::77:7")
	far6      = netip.MustParseAddr("ff0e::77:7") // a group of the whole internet
)

// probe is one row of the catalogue, or a part of it. Its packets carry its name,
// or are known by seen.
type probe struct {
	name  string
	send  func(token []byte) error
	seen  func(frame []byte) bool // nil: the name is in the frame
	quick bool                    // for bursts
}

func (p probe) token() []byte { return []byte("<leak " + p.name + ">") }

func (p probe) on(frames [][]byte) bool {
	for _, f := range frames {
		if p.seen != nil && p.seen(f) || p.seen == nil && bytes.Contains(f, p.token()) {
			return true
		}
	}
	return false
}

// option changes a socket before it sends.
type option func(fd int) error

func toDevice(fd int) error { return unix.BindToDevice(fd, "phys0") }

func from(a netip.Addr) option {
	return func(fd int) error { return unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, 0))) }
}

func fromPort(port uint16) option {
	return fromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
}
func fromPort6(port uint16) option {
	return fromAddrPort(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
}

func fromAddrPort(a netip.AddrPort) option {
	return func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sockaddr(a)))
	}
}

func withMark(fd int) error { return hostnet.Mark(uintptr(fd), hostnet.DefaultMark) }

func broadcast(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }

func groupDevice(fd int) error {
	return unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, near4.As4())
}

func groupDevice6(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, phys())
}

// phys is the index of the physical device, or nothing that exists.
func phys() int {
	link, err := net.InterfaceByName("phys0")
	if err != nil {
		return 1 << 30
	}
	return link.Index
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func domain(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// with opens a socket, changes it, and lets f use it. Nothing blocks.
func with(domain, kind, protocol int, options []option, f func(fd int) error) (err error) {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for _, o := range options {
		if err := o(fd); err != nil {
			return err
		}
	}
	return f(fd)
}

func udp(a netip.Addr, port uint16, options ...option) func([]byte) error {
	return func(b []byte) error {
		return with(domain(a), unix.SOCK_DGRAM, 0, options, func(fd int) error {
			return unix.Sendto(fd, b, 0, sockaddr(netip.AddrPortFrom(a, port)))
		})
	}
}

// tcp sends a SYN and goes away when there was time for it.
func tcp(a netip.Addr, port uint16, options ...option) func([]byte) error {
	return func([]byte) error {
		return with(domain(a), unix.SOCK_STREAM, 0, options, func(fd int) error {
			err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(a, port)))
			if errors.Is(err, unix.EINPROGRESS) {
				_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 30)
			}
			return err
		})
	}
}

func syn(port uint16) func([]byte) bool {
	return func(f []byte) bool {
		protocol, _, dst := ports(f)
		return protocol == unix.IPPROTO_TCP && dst == port
	}
}

func raw(a netip.Addr, protocol int, options ...option) func([]byte) error {
	return func(b []byte) error {
		return with(domain(a), unix.SOCK_RAW, protocol, options, func(fd int) error {
			return unix.Sendto(fd, b, 0, sockaddr(netip.AddrPortFrom(a, 0)))
		})
	}
}

func echo(a netip.Addr, options ...option) func([]byte) error {
	return func(b []byte) error {
		m := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, b...)
		protocol := unix.IPPROTO_ICMP
		if a.Is6() {
			m[0], protocol = 128, unix.IPPROTO_ICMPV6
		} else {
			binary.BigEndian.PutUint16(m[2:], checksum(m))
		}
		return raw(a, protocol, options...)(m)
	}
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// pktinfo sends with the interface in a control message.
func pktinfo(a netip.Addr) func([]byte) error {
	return func(b []byte) error {
		oob := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(phys())})
		if a.Is6() {
			oob = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(phys())})
		}
		return with(domain(a), unix.SOCK_DGRAM, 0, nil, func(fd int) error {
			return unix.Sendmsg(fd, b, oob, sockaddr(netip.AddrPortFrom(a, 4008)), 0)
		})
	}
}

// packet4 is an IPv4 packet with UDP, as a program with a raw socket makes it.
func packet4(b []byte) []byte {
	p := make([]byte, 28, 28+len(b))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(b)))
	s, d := near4.As4(), public4.As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	binary.BigEndian.PutUint16(p[20:], 4010)
	binary.BigEndian.PutUint16(p[22:], 4010)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(b)))
	return append(p, b...)
}

// frame sends an Ethernet frame with a packet to everybody; claim is the type that the
// socket says it sends, real the one in the frame.
func frame(claim, real uint16, options ...option) func([]byte) error {
	return func(b []byte) error { return frameOf(claim, real, packet4(b), options...) }
}

func frameOf(claim, real uint16, content []byte, options ...option) error {
	link, err := net.InterfaceByName("phys0")
	if err != nil {
		return err
	}
	f := append(bytes.Repeat([]byte{0xff}, 6), link.HardwareAddr...)
	f = append(binary.BigEndian.AppendUint16(f, real), content...)
	return with(unix.AF_PACKET, unix.SOCK_RAW, 0, options, func(fd int) error {
		return unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Protocol: swap(claim), Ifindex: link.Index})
	})
}

func bypassQueue(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
}

// tagged sends a frame with a VLAN tag in it.
func tagged(b []byte) error {
	tag := []byte{0x00, 0x07, unix.ETH_P_IP >> 8, unix.ETH_P_IP & 0xff}
	return frameOf(unix.ETH_P_8021Q, unix.ETH_P_8021Q, append(tag, packet4(b)...))
}

// joins has the kernel tell the router which group a program listens to (IGMP, MLD),
// and that it does no more.
func joins(group netip.Addr) func([]byte) error {
	return func([]byte) error {
		return with(domain(group), unix.SOCK_DGRAM, 0, nil, func(fd int) error {
			if group.Is6() {
				return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(phys())})
			}
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(phys())})
		})
	}
}

// joined finds such words. A capture takes them for the local link's own, as those
// about the kernel's groups are.
func joined(group netip.Addr) func([]byte) bool {
	return func(f []byte) bool {
		igmp := len(f) > 34 && binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IP && f[23] == unix.IPPROTO_IGMP
		return (igmp || group.Is6()) && bytes.Contains(f, group.AsSlice())
	}
}

// withOptions puts a record of the route (RFC 791) into the header.
func withOptions(fd int) error {
	return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string([]byte{7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0}))
}

// withExtension puts padding for all hops (RFC 8200 section 4.3) behind the header.
func withExtension(fd int) error {
	return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, string([]byte{0, 0, 1, 4, 0, 0, 0, 0}))
}

// fastOpen sends a SYN by sending data (RFC 7413).
func fastOpen(a netip.Addr, port uint16, options ...option) func([]byte) error {
	return func(b []byte) error {
		return with(domain(a), unix.SOCK_STREAM, 0, options, func(fd int) error {
			err := unix.Sendto(fd, b, unix.MSG_FASTOPEN, sockaddr(netip.AddrPortFrom(a, port)))
			if errors.Is(err, unix.EINPROGRESS) {
				_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 30)
			}
			return err
		})
	}
}

// cooked lets the kernel write the Ethernet header.
func cooked(b []byte) error {
	return with(unix.AF_PACKET, unix.SOCK_DGRAM, 0, nil, func(fd int) error {
		to := &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_IP), Ifindex: phys(), Halen: 6}
		copy(to.Addr[:], bytes.Repeat([]byte{0xff}, 6))
		return unix.Sendto(fd, packet4(b), 0, to)
	})
}

// asUser sends as another user.
func asUser(send func([]byte) error) func([]byte) error { return by(1000, send) }

// onOtherThread sends on a thread that is changed first and not used again.
func onOtherThread(change func() error, send func([]byte) error) func([]byte) error {
	return func(b []byte) error {
		done := make(chan error, 1)
		go func() { // ends at once
			runtime.LockOSThread()
			if err := change(); err != nil {
				done <- err
				return
			}
			done <- send(b)
		}()
		return <-done
	}
}

// long is more than one frame.
func long(send func([]byte) error) func([]byte) error {
	return func(b []byte) error { return send(append(bytes.Clone(b), make([]byte, 4000)...)) }
}

// catalogue lists the probes that are sent from the machine itself, by the
// numbers of the catalogue; those from 30 on are ours.
func catalogue() []probe {
	mdns, llmnr := netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("224.0.0.252")
	mdns6, all := netip.MustParseAddr("ff02::fb"), netip.MustParseAddr("255.255.255.255")
	return []probe{
		{name: "01 udp", send: udp(public4, 4001), quick: true},
		{name: "01 udp6", send: udp(public6, 4001), quick: true},
		{name: "01 tcp", send: tcp(public4, 4101), seen: syn(4101)},
		{name: "01 tcp6", send: tcp(public6, 4102), seen: syn(4102)},
		{name: "01 ping", send: echo(public4), quick: true},
		{name: "01 ping6", send: echo(public6)},
		{name: "02 dns", send: udp(resolver4, 53), quick: true},
		{name: "03 dns to the gateway", send: udp(gateway4, 53), quick: true},
		{name: "03 dns by tcp to the gateway", send: tcp(gateway4, 53), seen: syn(53)},
		{name: "03 dns by tls to the gateway", send: tcp(gateway4, 853), seen: syn(853)},
		{name: "03 dns to the gateway by device", send: udp(gateway4, 53, toDevice)},
		{name: "03 dns to the gateway by device, link-local", send: udp(gateway6, 53, toDevice), quick: true},
		{name: "04 stun", send: udp(public4, 3478)},
		{name: "04 stun from the address", send: udp(public4, 3478, from(near4))},
		{name: "04 stun6 from the address", send: udp(public6, 3478, from(near6))},
		{name: "05 other user", send: asUser(udp(public4, 4005))},
		{name: "06 device", send: udp(public4, 4006, toDevice), quick: true},
		{name: "06 device6", send: udp(public6, 4006, toDevice), quick: true},
		{name: "06 device tcp", send: tcp(public4, 4106, toDevice), seen: syn(4106)},
		{name: "06 device ping", send: echo(public4, toDevice)},
		{name: "07 source", send: udp(public4, 4007, from(near4))},
		{name: "07 source6", send: udp(public6, 4007, from(near6))},
		{name: "08 pktinfo", send: pktinfo(public4), quick: true},
		{name: "08 pktinfo6", send: pktinfo(public6)},
		{name: "09 raw", send: raw(public4, unix.IPPROTO_GRE)},
		{name: "09 raw by device", send: raw(public4, 253, toDevice), quick: true},
		{name: "09 raw6 by device", send: raw(public6, 253, toDevice)},
		{name: "09 raw with header", send: func(b []byte) error { return raw(public4, unix.IPPROTO_RAW, toDevice)(packet4(b)) }},
		{name: "10 packet", send: frame(unix.ETH_P_IP, unix.ETH_P_IP), quick: true},
		{name: "10 packet that claims arp", send: frame(unix.ETH_P_ARP, unix.ETH_P_IP)},
		{name: "10 packet past the queue", send: frame(unix.ETH_P_IP, unix.ETH_P_IP, bypassQueue), quick: true},
		{name: "10 cooked packet", send: cooked},
		{name: "10 packet with a tag", send: tagged, quick: true},
		{name: "10 unknown type", send: frame(0x88b5, 0x88b5)},
		{name: "11 mdns by device", send: udp(mdns, 5353, groupDevice), quick: true},
		{name: "11 llmnr by device", send: udp(llmnr, 5355, groupDevice)},
		{name: "11 mdns6 by device", send: udp(mdns6, 5353, groupDevice6)},
		{name: "11 ssdp6 by device", send: udp(netip.MustParseAddr("ff02::c"), 1900, toDevice), quick: true},
		{name: "11 group6 far away by device", send: udp(far6, 4011, toDevice, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 8)
		}), quick: true},
		{name: "12 mdns", send: udp(mdns, 5353)},
		{name: "12 ssdp", send: udp(netip.MustParseAddr("239.255.255.250"), 1900)},
		{name: "13 netbios", send: udp(netip.MustParseAddr("10.77.0.255"), 137, broadcast), quick: true},
		{name: "13 broadcast by device", send: udp(all, 137, broadcast, toDevice)},
		{name: "14 relay, other port", send: tcp(relay4, 4114), seen: syn(4114)},
		{name: "14 relay, unmarked", send: tcp(relay4, guardPort, fromPort(ownPort)), seen: flowFrom(ownPort)},
		{name: "14 relay, unmarked by device", send: tcp(relay4, guardPort, fromPort(ownPort+1), toDevice), seen: flowFrom(ownPort + 1)},
		{name: "14 relay by udp", send: udp(relay4, guardPort), quick: true},
		{name: "19 pushed route", send: udp(vision, 4019), quick: true},
		{name: "20 local network", send: udp(localNet, 4020), quick: true},
		{name: "24 marked", send: udp(public4, 4024, withMark), quick: true},
		{name: "24 marked6", send: udp(public6, 4024, withMark)},
		{name: "24 marked tcp", send: tcp(public4, 4124, withMark), seen: syn(4124)},
		{name: "24 marked dns", send: udp(gateway4, 53, withMark)},
		{name: "30 fragments", send: long(udp(public4, 4030, toDevice))},
		{name: "30 fragments6", send: long(udp(public6, 4030, toDevice))},
		{name: "31 to port 67", send: udp(public4, 67, fromPort(68), toDevice)},
		{name: "31 to port 547", send: udp(public6, 547, fromPort6(546), toDevice)},
		{name: "32 low ttl", send: udp(public4, 4032, toDevice, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 1)
		}), quick: true},
		{name: "33 gateway", send: udp(gateway4, 4033, toDevice), quick: true},
		{name: "33 gateway, link-local", send: udp(gateway6, 4033, toDevice), quick: true},
		{name: "35 group joined", send: joins(joined4), seen: joined(joined4), quick: true},
		{name: "35 group6 joined", send: joins(joined6), seen: joined(joined6), quick: true},
		{name: "36 options", send: udp(public4, 4036, toDevice, withOptions)},
		{name: "36 extension6", send: udp(public6, 4036, toDevice, withExtension)},
		{name: "36 sctp by device", send: raw(public4, unix.IPPROTO_SCTP, toDevice)},
		{name: "37 fast open by device", send: fastOpen(public4, 4137, toDevice), seen: syn(4137)},
	}
}

const ownPort = 39990 // source of our own connections to the guard's port

// flowFrom finds frames of TCP from a port.
func flowFrom(port uint16) func([]byte) bool {
	return func(f []byte) bool {
		protocol, src, _ := ports(f)
		return protocol == unix.IPPROTO_TCP && src == port
	}
}

// own finds what probes make that looks as if it might pass: connections to the
// guard's port, from ports that no link uses, and groups.
func own(f []byte) bool {
	return flowFrom(ownPort)(f) || flowFrom(ownPort+1)(f) || joined(joined4)(f) || joined(joined6)(f)
}

// sendAll sends every probe once. In states other than open many are refused,
// which is as it should be.
func sendAll(probes []probe) (refused int) {
	for _, p := range probes {
		if p.send(p.token()) != nil {
			refused++
		}
	}
	return refused
}

// burstPause is between two rounds of a burst.
const burstPause = 20 * time.Millisecond
