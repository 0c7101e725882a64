package selftest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"cuttle/internal/capture"
)

// hops is the TTL of what we send: it ends at the first router.
const hops = 1

// Ports of the DNS and its protected form.
const (
	portDNS = 53
	portTLS = 853
)

// probes makes attempts whose frames can be told apart: by the destination where
// that is one of our own choice, otherwise by a text in them.
type probes struct {
	token   string
	number  int
	base    uint32 // of targets
	texts   []capture.Text
	targets map[netip.AddrPort]string
}

func newProbes(secret [8]byte) *probes {
	token := fmt.Sprintf("cuttle-selftest-%x", secret)
	return &probes{token: token, base: binary.BigEndian.Uint32(secret[:]), targets: make(map[netip.AddrPort]string), texts: []capture.Text{{Name: controlName, Bytes: []byte(token + "-may-leave")}}}
}

// target gives a destination that is nobody's: of the network for benchmarks
// (RFC 2544), or of the prefix for documents (RFC 3849). It is another one in each
// run, since the kernel may still be looking for those of an earlier run.
func (p *probes) target(v6 bool, name string) netip.Addr {
	p.number++
	low := p.base + uint32(p.number)
	a := netip.AddrFrom4([4]byte{198, 18 + byte(low>>16&1), byte(low >> 8), byte(low)})
	if v6 {
		b := netip.MustParseAddr("2001:db8:5e1f::").As16()
		binary.BigEndian.PutUint32(b[12:], low)
		a = netip.AddrFrom16(b)
	}
	p.targets[netip.AddrPortFrom(a, 0)] = name
	return a
}

// text gives a payload that is found under the name.
func (p *probes) text(name string) []byte {
	p.number++
	b := fmt.Appendf(nil, "<%s-%d>", p.token, p.number)
	p.texts = append(p.texts, capture.Text{Name: name, Bytes: b})
	return b
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// everywhere are the attempts of a program that names no device.
func (p *probes) everywhere() []attempt {
	var out []attempt
	for _, v6 := range []bool{false, true} {
		udpName, tcpName, pingName := "UDP over "+family(v6), "TCP over "+family(v6), "ping over "+family(v6)
		to := p.target(v6, udpName)
		out = append(out, attempt{name: udpName, tried: "a datagram to " + to.String(), send: udp(to, 9, []byte(p.token))})
		to2 := p.target(v6, tcpName)
		out = append(out, attempt{name: tcpName, tried: "a connection to " + to2.String(), send: tcp(to2, 9)})
		to3 := p.target(v6, pingName)
		out = append(out, attempt{name: pingName, tried: "an echo request to " + to3.String(), send: ping(to3)})
	}
	return out
}

// on are the attempts of programs that insist on a device.
func (p *probes) on(d device) []attempt {
	var out []attempt
	add := func(what, tried string, send func(name string) func() error) {
		name := what + " on " + d.name
		out = append(out, attempt{name: name, tried: tried, send: send(name)})
	}
	for _, v6 := range []bool{false, true} {
		f := " over " + family(v6)
		add("UDP"+f+" by device", "a datagram, socket bound to the device (SO_BINDTODEVICE)", func(n string) func() error {
			return udp(p.target(v6, n), 9, []byte(p.token), toDevice(d))
		})
		add("TCP"+f+" by device", "a connection, socket bound to the device", func(n string) func() error { return tcp(p.target(v6, n), 9, toDevice(d)) })
		add("ping"+f+" by device", "an echo request, socket bound to the device", func(n string) func() error { return ping(p.target(v6, n), toDevice(d)) })
		add("UDP"+f+" by control message", "a datagram with the device in its control message (IP_PKTINFO)", func(n string) func() error { return pktinfo(p.target(v6, n), d) })
		add("raw"+f, "protocol 253 from a raw socket bound to the device", func(n string) func() error { return raw(p.target(v6, n), 253, []byte(p.token), toDevice(d)) })
		source, router, group := d.source4, d.router4, netip.MustParseAddr("224.0.0.251")
		if v6 {
			source, router, group = d.source6, d.router6, netip.MustParseAddr("ff02::fb")
		}
		add("multicast"+f, "a datagram to "+group.String()+" (mDNS) by the device", func(n string) func() error { return multicast(group, 5353, p.text(n), d) })
		add("frame"+f, "an "+family(v6)+" packet from a packet socket (AF_PACKET)", func(n string) func() error {
			return frame(d, p.packet(v6, n, source), etherType(v6), etherType(v6))
		})
		if source.IsValid() {
			add("UDP"+f+" by source address", "a datagram, socket bound to "+source.String(), func(n string) func() error {
				return udp(p.target(v6, n), 9, []byte(p.token), from(source))
			})
		}
		if router.IsValid() {
			out = append(out, p.router(d, f, router)...)
		}
	}
	add("frame that claims to be ARP", "an IPv4 packet from a packet socket that says it sends ARP", func(n string) func() error {
		return frame(d, p.packet(false, n, d.source4), unix.ETH_P_ARP, unix.ETH_P_IP)
	})
	add("broadcast", "a datagram to 255.255.255.255 (NetBIOS) by the device", func(n string) func() error {
		return udp(netip.MustParseAddr("255.255.255.255"), 137, p.text(n), toDevice(d), broadcast)
	})
	past := attempt{name: "frame past the queue on " + d.name, tried: "an IPv4 packet from a packet socket that skips the queue (PACKET_QDISC_BYPASS)", blind: true}
	past.send = frame(d, p.packet(false, past.name, d.source4), unix.ETH_P_IP, unix.ETH_P_IP, bypassQueue)
	return append(out, past)
}

// router are questions to the router, which is the resolver of most networks.
func (p *probes) router(d device, f string, router netip.Addr) []attempt {
	scope := uint32(0)
	if router.IsLinkLocalUnicast() {
		scope = uint32(d.index)
	}
	at := "the router " + router.String()
	name := func(what string) string { return what + " to the router" + f + " on " + d.name }
	plain, bound, byTCP, byTLS := name("DNS"), name("DNS by device"), name("DNS by TCP"), name("DNS by TLS")
	p.targets[netip.AddrPortFrom(router, portTLS)] = byTLS
	p.targets[netip.AddrPortFrom(router, portDNS)] = byTCP
	return []attempt{
		{name: plain, tried: "a question to " + at, send: send(router, portDNS, unix.SOCK_DGRAM, scope, dnsQuestion(p.text(plain)))},
		{name: bound, tried: "a question to " + at + ", socket bound to the device", send: send(router, portDNS, unix.SOCK_DGRAM, scope, dnsQuestion(p.text(bound)), toDevice(d))},
		{name: byTCP, tried: "a connection to " + at, send: send(router, portDNS, unix.SOCK_STREAM, scope, nil)},
		{name: byTLS, tried: "a connection to " + at + ", socket bound to the device", send: send(router, portTLS, unix.SOCK_STREAM, scope, nil, toDevice(d))},
	}
}

// option changes a socket before it sends.
type option func(fd int) error

func toDevice(d device) option {
	return func(fd int) error { return unix.BindToDevice(fd, d.name) }
}

func from(a netip.Addr) option {
	return func(fd int) error { return unix.Bind(fd, sockaddr(a, 0, 0)) }
}

func broadcast(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }

func bypassQueue(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
}

func sockaddr(a netip.Addr, port uint16, scope uint32) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port), ZoneId: scope}
}

func domain(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// with opens a socket for one packet.
func with(domain, kind, protocol int, options []option, send func(fd int) error) error {
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is under way
	for _, o := range options {
		if err := o(fd); err != nil {
			return &notTried{err}
		}
	}
	return send(fd)
}

// short makes packets end at the first router.
func short(v4 bool) option {
	return func(fd int) error {
		if v4 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, hops)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
	}
}

// connectTime is how long the kernel may take to refuse a connection, milliseconds.
const connectTime = 50

// connect begins a connection and tells what the kernel says about it at once.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, connectTime); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// send makes an attempt with UDP or TCP; a connection is begun and given up. Groups
// are not reached beyond the local link anyway.
func send(to netip.Addr, port uint16, kind int, scope uint32, payload []byte, options ...option) func() error {
	options = append([]option{short(to.Is4())}, options...)
	return func() error {
		return with(domain(to), kind, 0, options, func(fd int) error {
			if kind == unix.SOCK_STREAM {
				return connect(fd, sockaddr(to, port, scope))
			}
			return unix.Sendto(fd, payload, 0, sockaddr(to, port, scope))
		})
	}
}

func udp(to netip.Addr, port uint16, payload []byte, options ...option) func() error {
	return send(to, port, unix.SOCK_DGRAM, 0, payload, options...)
}

func tcp(to netip.Addr, port uint16, options ...option) func() error {
	return send(to, port, unix.SOCK_STREAM, 0, nil, options...)
}

func raw(to netip.Addr, protocol int, payload []byte, options ...option) func() error {
	options = append([]option{short(to.Is4())}, options...)
	return func() error {
		return with(domain(to), unix.SOCK_RAW, protocol, options, func(fd int) error {
			return unix.Sendto(fd, payload, 0, sockaddr(to, 0, 0))
		})
	}
}

// ping sends an echo request (RFC 792, RFC 4443); the kernel sums the latter.
func ping(to netip.Addr, options ...option) func() error {
	m := []byte{8, 0, 0, 0, 0x63, 0x75, 0, 1}
	if to.Is6() {
		m[0] = 128
		return raw(to, unix.IPPROTO_ICMPV6, m, options...)
	}
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	return raw(to, unix.IPPROTO_ICMP, m, options...)
}

func pktinfo(to netip.Addr, d device) func() error {
	return func() error {
		oob := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(d.index)})
		if to.Is6() {
			oob = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(d.index)})
		}
		return with(domain(to), unix.SOCK_DGRAM, 0, []option{short(to.Is4())}, func(fd int) error {
			return unix.Sendmsg(fd, []byte("."), oob, sockaddr(to, 9, 0), 0)
		})
	}
}

func multicast(group netip.Addr, port uint16, payload []byte, d device) func() error {
	by := func(fd int) error {
		if group.Is4() {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(d.index)})
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, d.index)
	}
	return send(group, port, unix.SOCK_DGRAM, uint32(d.index), payload, by)
}

// frame sends an Ethernet frame to everybody on the link, which no router passes
// on; claim is the type that the socket says it sends, real the one in the frame.
func frame(d device, body []byte, claim, real uint16, options ...option) func() error {
	f := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	f = append(append(binary.BigEndian.AppendUint16(append(f, d.hardware...), real), body...), make([]byte, max(0, 46-len(body)))...)
	return func() error {
		return with(unix.AF_PACKET, unix.SOCK_RAW, 0, options, func(fd int) error {
			return unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Protocol: swap(claim), Ifindex: d.index})
		})
	}
}

func swap(n uint16) uint16 { return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n)) }

func nativeAddr(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, n)))
}

func etherType(v6 bool) uint16 {
	if v6 {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

// control sends an ARP probe (RFC 5227) for the device's own address, which
// nobody answers and which may leave in every state, with our text behind it.
func (p *probes) control(d device) error {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, d.hardware...), make([]byte, 4+6)...)
	own := netip.IPv4Unspecified()
	if d.source4.IsValid() {
		own = d.source4
	}
	b = append(append(b, own.AsSlice()...), p.texts[0].Bytes...)
	if err := frame(d, b, unix.ETH_P_ARP, unix.ETH_P_ARP)(); err != nil {
		return fmt.Errorf("send an ARP frame on %s: %w", d.name, err)
	}
	return nil
}
