//go:build linux && netns

package leak

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cuttle/internal/control"
)

// Sources that hosts make up: an address of the internet, and one of the network
// between the machine and its router.
var (
	forged4 = netip.MustParseAddr("203.0.113.77")
	forged6 = netip.MustParseAddr("2001:db8:99::77")
	uplink4 = netip.MustParseAddr("10.77.0.9")
)

// packet is an IP packet with UDP as programs with raw sockets make it.
func packet(from, to netip.Addr, hops byte, payload []byte) []byte {
	length := uint16(8 + len(payload))
	datagram := make([]byte, 8, int(length))
	binary.BigEndian.PutUint16(datagram, 4067)
	binary.BigEndian.PutUint16(datagram[2:], 4067)
	binary.BigEndian.PutUint16(datagram[4:], length)
	datagram = append(datagram, payload...)
	if from.Is4() {
		p := make([]byte, 20)
		p[0], p[8], p[9] = 0x45, hops, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(p[2:], 20+length)
		copy(p[12:], from.AsSlice())
		copy(p[16:], to.AsSlice())
		binary.BigEndian.PutUint16(p[10:], checksum(p))
		return append(p, datagram...) // without a checksum of its own, RFC 768
	}
	pseudo := append(append(from.AsSlice(), to.AsSlice()...), 0, 0, byte(length>>8), byte(length), 0, 0, 0, unix.IPPROTO_UDP)
	binary.BigEndian.PutUint16(datagram[6:], checksum(append(pseudo, datagram...)))
	p := make([]byte, 8)
	p[0], p[6], p[7] = 0x60, unix.IPPROTO_UDP, hops
	binary.BigEndian.PutUint16(p[4:], length)
	return append(append(append(p, from.AsSlice()...), to.AsSlice()...), datagram...)
}

// forge sends such a packet with a source of its own choice.
func forge(from, to netip.Addr, hops byte) func([]byte) error {
	return func(b []byte) error { return raw(to, unix.IPPROTO_RAW)(packet(from, to, hops, b)) }
}

// expired finds the router's word that a packet had no hops left, to where it
// claimed to be from.
func expired(to netip.Addr) func([]byte) bool {
	return func(f []byte) bool {
		if to.Is4() {
			return len(f) > 34 && binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IP && f[23] == unix.IPPROTO_ICMP && f[34] == 11 && netip.AddrFrom4([4]byte(f[30:34])) == to
		}
		return len(f) > 54 && binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IPV6 && f[20] == unix.IPPROTO_ICMPV6 && f[54] == 3 && netip.AddrFrom16([16]byte(f[38:54])) == to
	}
}

func withHops(n int) option {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, n) }
}

func withHops6(n int) option {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n) }
}

func groupHops(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 8)
}

// forwarded are the probes that a host sends through its router, by the numbers of
// the catalogue; those from 60 on are of routers only.
func (h *home) forwarded(number int) []probe {
	ports := uint16(4600 + 100*number) // of TCP: its segments carry no name
	forgedBy := forged4                // of ICMP errors, likewise
	forgedBy6 := forged6
	for range number {
		forgedBy, forgedBy6 = forgedBy.Next(), forgedBy6.Next()
	}
	list := []probe{
		{name: "01 udp", send: udp(public4, 4001), quick: true},
		{name: "01 udp6", send: udp(public6, 4001), quick: true},
		{name: "01 tcp", send: tcp(public4, ports+1), seen: syn(ports + 1)},
		{name: "01 tcp6", send: tcp(public6, ports+2), seen: syn(ports + 2)},
		{name: "01 ping", send: echo(public4), quick: true},
		{name: "01 ping6", send: echo(public6)},
		{name: "02 dns", send: udp(resolver4, 53), quick: true},
		{name: "02 dns6", send: udp(public6, 53), quick: true},
		{name: "02 dns by tls", send: tcp(public4, 853, fromPort(ports+3)), seen: flowFrom(ports + 3)},
		{name: "02 dns by quic", send: udp(public4, 853)},
		{name: "02 dns by tcp", send: tcp(public4, 53, fromPort(ports+4)), seen: flowFrom(ports + 4)},
		{name: "03 dns to the router's router", send: udp(gateway4, 53), quick: true},
		{name: "03 dns6 to the router's router", send: udp(neighbor6, 53)},
		{name: "03 dns to the router's router by tcp", send: tcp(gateway4, 53, fromPort(ports+5)), seen: flowFrom(ports + 5)},
		{name: "60 dns to the router", send: udp(homeRouter4, 53), quick: true},
		{name: "60 dns6 to the router", send: udp(homeRouter6, 53), quick: true},
		{name: "04 stun", send: udp(public4, 3478)},
		{name: "09 raw", send: raw(public4, unix.IPPROTO_GRE), quick: true},
		{name: "09 raw, unknown protocol", send: raw(public4, 253)},
		{name: "09 raw6, unknown protocol", send: raw(public6, 253)},
		{name: "09 raw, packet in a packet", send: raw(public4, unix.IPPROTO_IPIP)},
		{name: "09 raw, ipsec", send: raw(public4, unix.IPPROTO_ESP)},
		{name: "14 relay, other port", send: tcp(relay4, ports+6), seen: syn(ports + 6)},
		{name: "14 relay", send: tcp(relay4, guardPort, fromPort(ports+7)), seen: flowFrom(ports + 7)},
		{name: "14 relay by udp", send: udp(relay4, guardPort)},
		{name: "19 pushed route", send: udp(vision, 4019), quick: true},
		{name: "20 local network", send: udp(localNet, 4020)},
		{name: "30 fragments", send: long(udp(public4, 4030))},
		{name: "30 fragments6", send: long(udp(public6, 4030))},
		{name: "31 to port 67", send: udp(public4, 67, fromPort(68))},
		{name: "32 low ttl", send: udp(public4, 4032, withHops(2)), quick: true},
		{name: "32 low hop limit", send: udp(public6, 4032, withHops6(2))},
		{name: "33 the uplink's network", send: udp(gateway4, 4033), quick: true},
		{name: "33 the uplink's network6", send: udp(neighbor6, 4033)},
		{name: "33 the uplink's network by tcp", send: tcp(gateway4, ports+8), seen: syn(ports + 8)},
		{name: "61 multicast", send: udp(group4, 4061, groupHops), quick: true},
		{name: "61 broadcast of the uplink's network", send: udp(netip.MustParseAddr("10.77.0.255"), 137), quick: true},
		{name: "62 another's address", send: forge(forged4, public4, 64), quick: true},
		{name: "62 another's address6", send: forge(forged6, public6, 64)},
		{name: "62 an address of the uplink's network", send: forge(uplink4, public4, 64)},
		{name: "63 error to another", send: forge(forgedBy, public4, 1), seen: expired(forgedBy), quick: true},
		{name: "63 error to another6", send: forge(forgedBy6, public6, 1), seen: expired(forgedBy6)},
	}
	for i, p := range list {
		list[i].name = fmt.Sprintf("%s of host %d", p.name, number+1)
		list[i].send = fromHost(h.hosts[number], p.send)
	}
	return list
}

// fromHost sends in a host's namespace.
func fromHost(ns netns.NsHandle, send func([]byte) error) func([]byte) error {
	return func(b []byte) error { return in(ns, func() error { return send(b) }) }
}

// probes are those of both hosts.
func (h *home) probes() []probe { return append(h.forwarded(0), h.forwarded(1)...) }

// route has the daemon serve the network at home from its start on, with the
// addresses that the router has there anyway.
func (h *home) route() {
	h.w.t.Helper()
	h.w.configure(fmt.Sprintf("[router]\nlan = %q\naddress = %q\n", homeDevice, home4))
	h.w.must(os.WriteFile(h.w.file("client/choices.json"), fmt.Appendf(nil, `{"network6": %q}`, netip.MustParsePrefix(home6).Masked()), 0o600))
}

// closed is the world's, and wants no question for a name to have reached the router.
func (h *home) closed(state string, probes []probe) {
	h.w.t.Helper()
	asked := h.asked.Load()
	h.w.closed("router, "+state, probes)
	if n := h.asked.Load() - asked; n > 0 {
		h.w.t.Errorf("router, %s: %d questions for names have reached the router itself", state, n)
	}
}

// TestRouterLeaksNothing has two hosts behind the machine try to get past the
// tunnel, in every state.
func TestRouterLeaksNothing(t *testing.T) {
	w := newWorld(t)
	h := w.newHome()
	w.advertise()
	h.advertise()
	probes := h.probes()
	w.open("router, no VPN", probes)
	h.reaches("no VPN", true)

	h.route()
	w.start()
	w.open("router, off", probes)
	w.up()
	w.await(control.StateUp)
	h.alive()
	h.closed("up", probes)
	h.reaches("up", false)
	w.must(w.daemon.Process.Signal(syscall.SIGSTOP))
	h.closed("stopped (SIGSTOP)", probes)
	w.must(w.daemon.Process.Signal(syscall.SIGCONT))
	w.end(unix.SIGKILL)
	h.closed("killed (SIGKILL)", probes)
	w.start()
	w.await(control.StateUp)
	h.alive()
	h.closed("up again by itself", probes)
	h.direct(probes)
	w.end(unix.SIGUSR1)
	h.closed("ended for a restart (SIGUSR1)", probes)
	w.start()
	w.await(control.StateUp)
	h.alive()
	w.down()
	w.await(control.StateOff)
	w.open("router, down", probes)

	w.lock(true)
	h.closed("off, locked", probes)
	w.up()
	w.await(control.StateUp)
	h.alive()
	w.down()
	w.await(control.StateOff)
	h.closed("down, locked", probes)
	h.reaches("down, locked", false)
	w.end(unix.SIGTERM)
	h.closed("daemon ended, locked", probes)
	w.run("release", "-config", w.file("client.toml"))
	w.open("router, released", probes)
}

// direct lets the second host past the tunnel, but for its questions for names, and
// the first not.
func (h *home) direct(probes []probe) {
	h.w.t.Helper()
	set := func(p control.Policy) {
		h.w.tell(func(c *control.Client, ctx context.Context) (control.Done, error) {
			return c.SetDevice(ctx, control.Device{MAC: h.mac(1), Policy: p})
		})
	}
	set(control.PolicyDirect)
	host2 := " of host 2"
	let := []probe{
		{name: "64 direct udp", send: fromHost(h.hosts[1], udp(public4, 4064))}, {name: "64 direct udp6", send: fromHost(h.hosts[1], udp(public6, 4064))},
		{name: "64 direct tcp", send: fromHost(h.hosts[1], tcp(public4, 4664)), seen: syn(4664)},
	}
	kept := slices.DeleteFunc(slices.Clone(probes), func(p probe) bool {
		return strings.HasSuffix(p.name, host2) && !strings.Contains(p.name, "dns")
	})
	h.w.allowed("router, a direct device", let, kept)
	set(control.PolicyTunnel)
	h.closed("a device is not direct any more", append(slices.Clone(probes), let...))
}

// TestRouterTransitionsLeakNothing has both hosts send all the time while the
// daemon changes its state.
func TestRouterTransitionsLeakNothing(t *testing.T) {
	w := newWorld(t)
	h := w.newHome()
	w.advertise()
	h.advertise()
	h.route()
	w.start()
	stop := burst(h.probes())
	w.eventually("the burst", func() bool { return w.wire.now() > 100 })
	w.up()
	w.await(control.StateConnecting, control.StateUp)
	from := w.wire.now()
	w.await(control.StateUp)
	for range 2 {
		w.end(unix.SIGKILL)
		time.Sleep(5 * burstPause)
		w.start()
		w.await(control.StateUp)
	}
	w.must(w.daemon.Process.Signal(syscall.SIGSTOP))
	time.Sleep(5 * burstPause)
	w.must(w.daemon.Process.Signal(syscall.SIGCONT))
	w.end(unix.SIGUSR1)
	w.start()
	w.await(control.StateUp)
	w.lock(true)
	w.down()
	w.await(control.StateOff)
	w.up()
	w.await(control.StateUp)
	w.end(unix.SIGTERM)
	rounds, gap := stop()
	time.Sleep(quiet)
	w.judge("router, transitions", from, rounds)
	t.Logf("%d rounds of probes, at most %v apart, %d frames since the machine is closed", rounds, gap, len(w.wire.since(from)))
	if rounds < 20 {
		t.Errorf("only %d rounds", rounds)
	}
	w.run("release", "-config", w.file("client.toml"))
}
