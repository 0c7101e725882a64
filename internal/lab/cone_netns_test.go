//go:build linux && netns

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"cuttle/internal/lab/netns"
)

// TestFullCone: what a program's UDP socket says to hosts on the Internet comes from
// one address, and whoever sends to it reaches the program, asked or not (RFC 4787
// REQ-1 and REQ-8), through TUN, netstack, three hops and a real socket of the exit.
func TestFullCone(t *testing.T) {
	l := up(t, options(t))
	run := func(namespace string, argv ...string) {
		t.Helper()
		if out, err := netns.Command(t.Context(), namespace, argv...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	for _, tt := range []struct {
		name, network, bind, route string
		via                        netip.Addr
		hosts                      []string
	}{
		{"IPv4", "udp4", "0.0.0.0:0", plainV4, webV4, []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"}},
		{"IPv6", "udp6", "[::]:0", plainV6, webV6, []string{"2001:db8::1", "2001:db8:1::2", "2001:db8:2::3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(l.plan.Router, "ip", "route", "replace", tt.route, "via", tt.via.String())
			var peers []*net.UDPConn
			for _, host := range tt.hosts {
				bits := 32
				if tt.network == "udp6" {
					bits = 128
				}
				run(l.namespaceOf(t, "web"), "ip", "addr", "replace", fmt.Sprintf("%s/%d", host, bits), "dev", Interface)
				peers = append(peers, listenIn(t, l.namespaceOf(t, "web"), tt.network, net.JoinHostPort(host, "0")))
			}
			program := listenIn(t, l.namespaceOf(t, "client"), tt.network, tt.bind)
			var seen [2]netip.AddrPort
			for i := range seen {
				seen[i] = passed(t, program, peers[i].LocalAddr(), peers[i], "hello", func(netip.AddrPort) bool { return true })
			}
			if seen[0] != seen[1] || !exitAddress(l.plan, seen[0].Addr().String()) {
				t.Errorf("two hosts see the socket at %v and %v, want one address of an exit", seen[0], seen[1])
			}
			for i, p := range peers { // the last one was not asked
				passed(t, p, net.UDPAddrFromAddrPort(seen[0]), program, fmt.Sprintf("%*d", 1300, i), func(from netip.AddrPort) bool {
					return from.String() == p.LocalAddr().String()
				})
			}
		})
	}
}

// passed sends a datagram until it arrives, since one that is late is dropped, and
// tells whom it came from.
func passed(t *testing.T, from *net.UDPConn, to net.Addr, at *net.UDPConn, text string, who func(netip.AddrPort) bool) netip.AddrPort {
	t.Helper()
	b := make([]byte, 4096)
	for range 60 {
		if _, err := from.WriteTo([]byte(text), to); err != nil {
			t.Fatal(err)
		}
		_ = at.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, sender, err := at.ReadFromUDPAddrPort(b)
			if err != nil {
				break
			}
			if string(b[:n]) == text && who(sender) { // others were sent before, more than once
				return sender
			}
		}
	}
	t.Fatalf("%d bytes to %v never arrived", len(text), to)
	return netip.AddrPort{}
}

// listenIn opens a UDP socket in a namespace.
func listenIn(t *testing.T, namespace, network, address string) *net.UDPConn {
	t.Helper()
	var conn net.PacketConn
	var lc net.ListenConfig
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := netns.Do(namespace, func() (err error) {
			conn, err = lc.ListenPacket(context.WithoutCancel(t.Context()), network, address)
			return err
		})
		if err == nil {
			break
		}
		if time.Now().After(deadline) { // an IPv6 address is tentative at first
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.UDPConn)
}
