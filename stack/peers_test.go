package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// cone is a Dialer whose UDP flows are Peers that the test speaks for.
type cone struct {
	direct
	mu    sync.Mutex // guards flows
	flows []*coneFlow
}

type spoken struct {
	peer netip.AddrPort
	text string
}

type coneFlow struct {
	first      netip.AddrPort
	out, in    chan spoken
	closed     chan struct{}
	closing    sync.Once
	PacketConn // nil: Read and Write are not used
}

func (c *cone) DialUDP(_ context.Context, f Flow) (PacketConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	flow := &coneFlow{first: f.Dst(), out: make(chan spoken, 16), in: make(chan spoken, 16), closed: make(chan struct{})}
	c.flows = append(c.flows, flow)
	return flow, nil
}

func (c *cone) firsts() (out []netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.flows {
		out = append(out, f.first)
	}
	return out
}

func (f *coneFlow) Send(p []byte, to netip.AddrPort) error {
	f.out <- spoken{to, string(p)}
	return nil
}

func (f *coneFlow) Each(take func(p []byte, from netip.AddrPort) error) error {
	for {
		select {
		case s := <-f.in:
			if err := take([]byte(s.text), s.peer); err != nil {
				return err
			}
		case <-f.closed:
			return net.ErrClosed
		}
	}
}

func (f *coneFlow) Close() error { f.closing.Do(func() { close(f.closed) }); return nil }

// TestPeers: what a program's socket says to public addresses is one flow, which any
// public address may answer; private ones have a flow each, and nobody speaks for them.
func TestPeers(t *testing.T) {
	c := &cone{}
	p := newPrograms(t, c, Config{Peers: true})
	local, proto := p.address(netip.AddrPortFrom(program4, 0))
	socket, err := gonet.DialUDP(p.net, &local, nil, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	at := netip.MustParseAddrPort
	say := func(to netip.AddrPort) {
		t.Helper()
		if _, err := socket.WriteTo([]byte(to.String()), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
	}
	public := []netip.AddrPort{at("203.0.113.10:7"), at("203.0.113.10:8"), at("198.51.100.5:7")}
	for _, to := range public {
		say(to)
	}
	eventually(20*time.Second, func() bool { return len(c.firsts()) > 0 })
	shared := c.flows[0]
	for _, to := range public {
		if got := <-shared.out; got != (spoken{to, to.String()}) {
			t.Errorf("the flow got %v, want what was said to %v", got, to)
		}
	}
	for _, to := range []string{"10.1.2.3:7", "10.1.2.3:8", "169.254.9.9:80"} {
		say(at(to))
	}
	if !eventually(20*time.Second, func() bool { return len(c.firsts()) == 4 }) || !slices.Equal(c.firsts()[:1], public[:1]) {
		t.Fatalf("flows to %v, want one for public addresses and one each for three others", c.firsts())
	}

	b := make([]byte, 100)
	for _, from := range []string{"198.51.100.5:7", "192.0.2.99:1234"} {
		for _, forged := range []string{"10.1.2.3:7", "127.0.0.1:7", "224.0.0.251:5353", "169.254.1.1:80", "192.0.2.1:53", "192.0.2.1:0", "[2001:db8::1]:80", "0.0.0.0:80"} {
			shared.in <- spoken{at(forged), "forged"}
		}
		shared.in <- spoken{at(from), from}
		n, who, err := socket.ReadFrom(b)
		if err != nil || who.String() != from || string(b[:n]) != from {
			t.Errorf("from %s: the program got %q from %v, %v", from, b[:n], who, err)
		}
	}
	for _, f := range c.flows[1:] {
		f.in <- spoken{at("192.0.2.99:1234"), "another than the one asked"}
		f.in <- spoken{f.first, "asked"}
		n, who, err := socket.ReadFrom(b)
		if err != nil || who.String() != fmt.Sprint(f.first) || string(b[:n]) != "asked" {
			t.Errorf("flow to %v: the program got %q from %v, %v", f.first, b[:n], who, err)
		}
	}
}

// TestOnePeer: without Config.Peers every destination has a flow of its own.
func TestOnePeer(t *testing.T) {
	c := &cone{}
	p := newPrograms(t, c, Config{})
	local, proto := p.address(netip.AddrPortFrom(program4, 0))
	socket, err := gonet.DialUDP(p.net, &local, nil, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	for _, to := range []string{"203.0.113.10:7", "198.51.100.5:7"} {
		if _, err := socket.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
			t.Fatal(err)
		}
	}
	if !eventually(20*time.Second, func() bool { return len(c.firsts()) == 2 }) {
		t.Errorf("%d flows, want 2", len(c.firsts()))
	}
}

// TestStrangersKeepNoFlow: who was not asked is heard, but the flow is as old as
// before; who was asked makes it younger.
func TestStrangersKeepNoFlow(t *testing.T) {
	c := &cone{}
	p := newPrograms(t, c, Config{Peers: true})
	local, proto := p.address(netip.AddrPortFrom(program4, 0))
	socket, err := gonet.DialUDP(p.net, &local, nil, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	asked := []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:7"), netip.MustParseAddrPort("198.51.100.5:7")}
	for _, to := range asked {
		if _, err := socket.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
	}
	if !eventually(60*time.Second, func() bool { return len(c.firsts()) == 1 }) {
		t.Fatal("no flow")
	}
	for range asked {
		<-c.flows[0].out
	}
	var f *udpFlow
	p.stack.udp.mu.Lock()
	for _, f = range p.stack.udp.flows {
	}
	p.stack.udp.mu.Unlock()
	const old = 1 << 62 // to be told from any time; it lies ahead, so that the flow does not end
	for _, tt := range []struct {
		from  string
		known bool
	}{{"192.0.2.99:1234", false}, {"203.0.113.10:8", false}, {"198.51.100.5:7", true}, {"192.0.2.99:1234", false}, {"203.0.113.10:7", true}} {
		f.used.Store(old)
		f.replied.Store(false)
		c.flows[0].in <- spoken{netip.MustParseAddrPort(tt.from), "hello"}
		if n, who, err := socket.ReadFrom(make([]byte, 9)); err != nil || n != 5 || who.String() != tt.from {
			t.Fatalf("from %s: the program got %d bytes from %v, %v", tt.from, n, who, err)
		}
		if younger := f.used.Load() != old; younger != tt.known || f.replied.Load() != tt.known {
			t.Errorf("%s: flow made younger %v, counts as an answer %v; want %v", tt.from, younger, f.replied.Load(), tt.known)
		}
	}
	for port := range uint16(3 * maxAsked) {
		f.ask(netip.AddrPortFrom(far4, port+1))
	}
	if n := len(f.asked); n > maxAsked {
		t.Errorf("%d peers remembered, want at most %d", n, maxAsked)
	}
}
