package exit

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// peer is a UDP socket on loopback.
func peer(t testing.TB, network string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	host := map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0"}[network]
	p, err := net.ListenPacket(network, host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	_ = p.SetDeadline(time.Now().Add(time.Minute))
	return p.(*net.UDPConn), netip.MustParseAddrPort(p.LocalAddr().String())
}

// TestFullCone: all peers see one address of a flow (RFC 4787 REQ-1), and any of
// them, asked or not, is heard under its own (REQ-8).
func TestFullCone(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		t.Run(network, func(t *testing.T) {
			e := newExit(t, Config{Policy: policy(t, "allow 127.0.0.0/8", "allow ::1")})
			first, firstAddr := peer(t, network)
			second, secondAddr := peer(t, network)
			stranger, strangerAddr := peer(t, network)
			f, err := client(t, e).DialUDP(t.Context(), firstAddr)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := make([]byte, 2048)
			var seen []netip.AddrPort
			for p, addr := range map[*net.UDPConn]netip.AddrPort{first: firstAddr, second: secondAddr} {
				if err := f.Send([]byte("hello"), addr); err != nil {
					t.Fatal(err)
				}
				n, from, err := p.ReadFromUDPAddrPort(b)
				if err != nil || string(b[:n]) != "hello" {
					t.Fatalf("peer got %q, %v", b[:n], err)
				}
				seen = append(seen, from)
			}
			if seen[0] != seen[1] {
				t.Errorf("two peers see the flow as %v and %v, want one address", seen[0], seen[1])
			}
			for p, addr := range map[*net.UDPConn]netip.AddrPort{first: firstAddr, second: secondAddr, stranger: strangerAddr} {
				if _, err := p.WriteToUDPAddrPort(fmt.Append(nil, addr.Port()), seen[0]); err != nil {
					t.Fatal(err)
				}
				n, from, err := f.Receive(b)
				if err != nil || from != addr || string(b[:n]) != fmt.Sprint(addr.Port()) {
					t.Errorf("from %v: got %q from %v, %v", addr, b[:n], from, err)
				}
			}
		})
	}
}

// TestConeKeepsOut: what the policy forbids is neither sent to nor heard, though the
// flow was opened for something else.
func TestConeKeepsOut(t *testing.T) {
	_, good := peer(t, "udp4")
	bad, badAddr := peer(t, "udp4")
	e := newExit(t, Config{Policy: policy(t, fmt.Sprintf("deny udp 127.0.0.1:%d", badAddr.Port()), "allow 127.0.0.0/8")})
	conn, err := someone(e).OpenUDP(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	u := conn.(*udpConn)
	for _, to := range []netip.AddrPort{badAddr, netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("[::1]:80"), netip.AddrPortFrom(good.Addr(), 0), {}} {
		if err := u.Send([]byte("x"), to); err != nil {
			t.Errorf("send to %v: %v, want it lost", to, err)
		}
		if u.knows(to) {
			t.Errorf("%v was sent to", to)
		}
	}
	if got := e.Counts().Forbidden; got != 5 {
		t.Errorf("%d forbidden, want 5", got)
	}
	_ = bad.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _, err := bad.ReadFromUDPAddrPort(make([]byte, 9)); err == nil {
		t.Errorf("a forbidden peer got %d bytes", n)
	}
	for from, want := range map[netip.AddrPort]bool{good: true, badAddr: false, netip.MustParseAddrPort("10.0.0.1:80"): false} {
		if got := u.knows(from) || u.welcome(from, 1); got != want {
			t.Errorf("from %v: heard %v, want %v", from, got, want)
		}
	}
	stranger := netip.AddrPortFrom(good.Addr(), 9)
	u.strays = bucket{burst: 2 * strayRate} // no token comes back on a slow machine
	heard := 0
	for range 10 * strayRate {
		if u.welcome(stranger, 1) {
			heard++
		}
	}
	if heard != 2*strayRate {
		t.Errorf("%d datagrams of strangers at once, want %d", heard, 2*strayRate)
	}
}

// TestPeerRate: new peers of a flow count as new sockets do, and those that are
// remembered are bounded.
func TestPeerRate(t *testing.T) {
	e := newExit(t, Config{})
	_, first := peer(t, "udp4")
	c := someone(e)
	conn, err := c.OpenUDP(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	u := conn.(*udpConn)
	c.rate = bucket{burst: 9}
	admitted := 0
	for port := range uint16(100) {
		if u.admit(netip.AddrPortFrom(first.Addr(), 2000+port)) {
			admitted++
		}
	}
	if admitted != 9 {
		t.Errorf("%d new peers at once, want 9", admitted)
	}
	c.rate = bucket{rate: 1, burst: 1 << 20}
	e.rate = bucket{rate: 1, burst: 1 << 20}
	for port := range uint16(3 * maxPeers) {
		u.admit(netip.AddrPortFrom(first.Addr(), 2000+port))
	}
	if n := len(u.peers); n > maxPeers {
		t.Errorf("%d peers remembered, want at most %d", n, maxPeers)
	}
}

// TestEviction: where there is no room, the session's longest idle UDP socket goes,
// and another's only when it has been silent for a while.
func TestEviction(t *testing.T) {
	_, dst := peer(t, "udp4")
	e := newExit(t, Config{Limits: Limits{Connections: 8, PerSession: 2}})
	a, b, c := someone(e), someone(e), someone(e)
	open := func(c *Circuit, want wire.Code) *udpConn {
		t.Helper()
		conn, err := c.OpenUDP(t.Context(), dst)
		codeWanted(t, "open", err, want)
		if err != nil {
			return nil
		}
		t.Cleanup(func() { conn.Close() })
		return conn.(*udpConn)
	}
	gone := func(u *udpConn) bool { return u.SetReadDeadline(time.Time{}) != nil }
	a1, a2 := open(a, 0), open(a, 0)
	a1.used.Add(int64(time.Second)) // newer than a2
	a3 := open(a, 0)
	if gone(a1) || !gone(a2) {
		t.Error("a session at its limit lost another socket than its longest idle one")
	}
	b1 := open(b, 0)
	c1 := open(c, 0)
	for e.places.count() < 8 {
		open(someone(e), 0)
	}
	open(someone(e), wire.CodeResources) // none of the others has been silent for long
	b1.used.Add(-int64(2 * evictAfter))
	d1 := open(someone(e), 0)
	if !gone(b1) || gone(a1) || gone(a3) || gone(c1) || gone(d1) {
		t.Error("a full exit lost another socket than its longest idle one")
	}
	if got := e.Counts(); got.Evicted != 2 || got.Open != 8 {
		t.Errorf("counts: %+v, want 2 evicted and 8 open", got)
	}
}
