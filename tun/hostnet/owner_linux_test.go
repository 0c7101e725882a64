package hostnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
)

// The kernel says whose a socket is, connected or not, and of which there is none.
func TestOwner(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		local, remote := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())
		if uid, err := OwnerTCP(local, remote); err != nil || uid != uint32(os.Getuid()) {
			t.Errorf("TCP over %s: user %d, %v; want %d", host, uid, err, os.Getuid())
		}
		u, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		at := netip.MustParseAddrPort(u.LocalAddr().String())
		if uid, err := OwnerUDP(at, remote); err != nil || uid != uint32(os.Getuid()) {
			t.Errorf("UDP over %s: user %d, %v; want %d", host, uid, err, os.Getuid())
		}
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
		if uid, err := OwnerUDP(at, remote); !errors.Is(err, ErrNoOwner) {
			t.Errorf("closed UDP socket over %s: user %d, %v; want none", host, uid, err)
		}
	}
}
