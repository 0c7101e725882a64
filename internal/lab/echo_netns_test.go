//go:build linux && netns

package lab

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"cuttle/internal/lab/netns"
)

// TestPing sends echo requests from the client's namespace: the web server
// answers through the onion, and a private network is refused.
func TestPing(t *testing.T) {
	l := up(t, options(t))
	n, err := l.node("client")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		dst     netip.Addr
		network string
		request icmp.Type
		want    icmp.Type // nil: the system says the error
		failure error
	}{
		{"IPv4", webV4, "ip4:icmp", ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, nil},
		{"IPv6", webV6, "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, nil},
		{"private IPv4", netip.MustParseAddr("10.55.0.1"), "ip4:icmp", ipv4.ICMPTypeEcho, nil, unix.EHOSTUNREACH},
		{"private IPv6", netip.MustParseAddr("fd55::1"), "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, nil, unix.EACCES},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var conn net.Conn
			err := netns.Do(n.Namespace, func() (err error) {
				conn, err = (&net.Dialer{}).DialContext(t.Context(), tt.network, tt.dst.String())
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			data := bytes.Repeat([]byte("ping"), 14)
			for sequence := 1; sequence <= 3; sequence++ {
				b, err := (&icmp.Message{Type: tt.request, Body: &icmp.Echo{ID: 4711, Seq: sequence, Data: data}}).Marshal(nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(b); err != nil {
					t.Fatal(err)
				}
				m, err := nextICMP(conn, tt.dst)
				if tt.failure != nil { // of the first request; the next may meet it in Write
					if !errors.Is(err, tt.failure) {
						t.Fatalf("got %v, want %v", err, tt.failure)
					}
					return
				}
				if err != nil {
					t.Fatalf("request %d: %v", sequence, err)
				}
				if m.Type != tt.want {
					t.Fatalf("request %d: got %v code %d, want %v", sequence, m.Type, m.Code, tt.want)
				}
				if e, ok := m.Body.(*icmp.Echo); ok && (e.ID != 4711 || e.Seq != sequence || !bytes.Equal(e.Data, data)) {
					t.Errorf("request %d: reply has identifier %d, sequence %d and %d bytes", sequence, e.ID, e.Seq, len(e.Data))
				}
			}
		})
	}
}

// nextICMP reads one message from a connected raw socket.
func nextICMP(conn net.Conn, from netip.Addr) (*icmp.Message, error) {
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 2048)
	n, _, err := conn.(*net.IPConn).ReadFrom(b)
	if err != nil {
		return nil, err
	}
	proto := 1
	if from.Is6() {
		proto = 58
	}
	return icmp.ParseMessage(proto, b[:n])
}
