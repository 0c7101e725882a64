//go:build linux && netns

package exit

import (
	"bytes"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// TestEcho sends real echo requests over loopback, from each sort of socket.
func TestEcho(t *testing.T) {
	e := newExit(t, Config{Policy: policy(t, "allow 127.0.0.0/8", "allow ::1/128")})
	open := map[string]func(*Circuit, netip.Addr) (net.Conn, error){
		"as the exit does": func(c *Circuit, dst netip.Addr) (net.Conn, error) { return c.OpenEcho(t.Context(), dst) },
		"raw": func(c *Circuit, dst netip.Addr) (net.Conn, error) {
			c.enter()
			conn, err := c.exit.icmpSocket(syscall.SOCK_RAW, dst)
			if err != nil {
				return nil, err
			}
			raw, err := conn.(syscall.Conn).SyscallConn()
			return &echoConn{Conn: conn, raw: raw, circuit: c, host: dst, six: dst.Is6(), id: 77, check: true}, err
		},
	}
	data := bytes.Repeat([]byte("cuttle"), 200)
	for name, open := range open {
		for _, dst := range []string{"127.0.0.1", "127.7.7.7", "::1"} {
			x, err := open(someone(e), netip.MustParseAddr(dst))
			if err != nil {
				t.Fatalf("%s, %s: open: %v", name, dst, err)
			}
			_ = x.SetReadDeadline(time.Now().Add(20 * time.Second))
			for _, sequence := range []uint16{1, 65535} {
				if _, err := x.Write(wire.AppendEcho(nil, wire.EchoData, sequence, data)); err != nil {
					t.Fatalf("%s, %s: write: %v", name, dst, err)
				}
				b := make([]byte, 2048)
				n, err := x.Read(b)
				if want := wire.AppendEcho(nil, wire.EchoData, sequence, data); err != nil || !bytes.Equal(b[:n], want) {
					t.Errorf("%s, %s: got %d bytes (%v), want the %d of the reply", name, dst, n, err, len(want))
				}
			}
			if _, err := x.Write(wire.AppendEcho(nil, wire.EchoForbidden, 1, nil)); err == nil {
				t.Errorf("%s, %s: an error is taken for a request", name, dst)
			}
			_ = x.Close()
			if _, err := x.Read(make([]byte, 9)); err == nil {
				t.Errorf("%s, %s: read after Close", name, dst)
			}
		}
	}
	if n := e.Counts().Open; n != 0 {
		t.Errorf("%d sockets open at the end, want 0", n)
	}
}
