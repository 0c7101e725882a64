//go:build linux || darwin

package link

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// masked is a connection as a mask would wrap it.
type masked struct{ net.Conn }

func (m masked) NetConn() net.Conn { return m.Conn }

// dialed is one end of a TCP connection whose other end nobody takes.
func dialed(t *testing.T) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), l.Close() })
	return c
}

func TestSocketOptions(t *testing.T) {
	c := dialed(t)
	tuneSocket(masked{masked{c}})
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for name, opt := range map[string]struct{ opt, want int }{
			"TCP_NODELAY":       {unix.TCP_NODELAY, 1},
			"TCP_NOTSENT_LOWAT": {unix.TCP_NOTSENT_LOWAT, notSentLowat},
		} {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt.opt); err != nil || got != opt.want {
				t.Errorf("%s is %d (%v), want %d", name, got, err, opt.want)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	tuneSocket(a) // has no socket: nothing happens
	_, _ = a.Close(), b.Close()
}
