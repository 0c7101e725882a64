package stack

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"cuttle/tun"
)

// programs is a machine whose traffic a Stack has captured: a second netstack
// at the other end of a tun.Pair.
type programs struct {
	net     *netstack.Stack
	stack   *Stack
	device  tun.Device
	raw     chan []byte // copies of ICMP packets that came back
	cancel  context.CancelFunc
	done    chan error
	running sync.WaitGroup
}

// stop ends the Stack, in time and without an error.
func (p *programs) stop(t testing.TB) {
	t.Helper()
	p.cancel()
	start := time.Now()
	err, first := <-p.done
	if took := time.Since(start); err != nil || took > closeTimeout {
		t.Errorf("run ended with %v after %v", err, took)
	}
	if first {
		close(p.done)
	}
}

var (
	program4 = netip.MustParseAddr("10.255.255.1")
	program6 = netip.MustParseAddr("fd63:7574:746c::1")
	far4     = netip.MustParseAddr("203.0.113.10")
	far6     = netip.MustParseAddr("2001:db8::10")
)

// newPrograms starts a Stack with d and a machine in front of it.
func newPrograms(t testing.TB, d Dialer, limits Config) *programs {
	t.Helper()
	near, far := tun.Pair(1500)
	limits.Device, limits.Dialer, limits.Log = near, d, slog.New(slog.DiscardHandler)
	s, err := New(limits)
	if err != nil {
		t.Fatal(err)
	}
	p := &programs{stack: s, device: far, raw: make(chan []byte, 16)}
	p.net = netstack.New(netstack.Options{
		NetworkProtocols:   []netstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []netstack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	l := newLink(far, 1500, 65535)
	if err := p.net.CreateNIC(nicID, l); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{program4, program6} {
		proto := header.IPv4ProtocolNumber
		if a.Is6() {
			proto = header.IPv6ProtocolNumber
		}
		if err := p.net.AddProtocolAddress(nicID, tcpip.ProtocolAddress{Protocol: proto,
			AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}, netstack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	p.net.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}, {Destination: header.IPv6EmptySubnet, NIC: nicID}})
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan error, 1)
	p.running.Go(func() { p.done <- s.Run(ctx) }) // ends with ctx
	p.running.Go(func() { p.read(l) })            // ends when the pair is closed
	t.Cleanup(func() {
		p.stop(t)
		p.running.Wait()
		p.net.Destroy()
	})
	return p
}

// read delivers what comes from the Stack, ICMP included.
func (p *programs) read(l *link) {
	packets := []tun.Packet{{Data: make([]byte, slotSize)}}
	for {
		if _, err := p.device.Read(packets); err != nil {
			return
		}
		b := packets[0].Data
		if s, ok := summarize(b); ok && (s.proto == protoICMP4 || s.proto == protoICMP6) {
			select {
			case p.raw <- slices.Clone(b):
			default:
			}
		}
		l.deliver(buffer.NewViewWithData(b))
	}
}

func (p *programs) address(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	full := tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
	if a.Addr().Is6() {
		return full, header.IPv6ProtocolNumber
	}
	return full, header.IPv4ProtocolNumber
}

func (p *programs) dialTCP(t testing.TB, to netip.AddrPort) (*gonet.TCPConn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	full, proto := p.address(to)
	return gonet.DialContextTCP(ctx, p.net, full, proto)
}

func (p *programs) dialUDP(t *testing.T, to netip.AddrPort) *gonet.UDPConn {
	t.Helper()
	full, proto := p.address(to)
	c, err := gonet.DialUDP(p.net, nil, &full, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// listen gives a TCP listener on loopback whose connections serve handles.
func listen(t *testing.T, serve func(c *net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c.(*net.TCPConn)); _ = c.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func to(target netip.AddrPort) func(netip.AddrPort) netip.AddrPort {
	return func(netip.AddrPort) netip.AddrPort { return target }
}
