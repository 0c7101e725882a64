//go:build linux && netns

package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"cuttle/tun/hostnet"
	"cuttle/tun/hostnet/hostnettest"
)

// serveTCP listens outside and echoes; "quit" resets the connection.
func serveTCP(t *testing.T, o hostnettest.Outside, address string) netip.AddrPort {
	t.Helper()
	var l net.Listener
	o.In(t, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { // ends with the connection
				defer c.Close()
				buf := make([]byte, 1<<16)
				for {
					n, err := c.Read(buf)
					if string(buf[:n]) == "quit" {
						_ = c.(*net.TCPConn).SetLinger(0)
						return
					}
					if _, werr := c.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func serveUDP(t *testing.T, o hostnettest.Outside, address string) netip.AddrPort {
	t.Helper()
	var c net.PacketConn
	o.In(t, func() (err error) {
		c, err = net.ListenPacket("udp", address)
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() { // ends when c is closed
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestCapture(t *testing.T) {
	o := hostnettest.NewOutside(t)
	d := &direct{failures: make(map[netip.Addr]error)}
	stack := captured(t, d, DefaultMTU, hostnet.Config{})
	for _, far := range []string{hostnettest.Far4, hostnettest.Far6} {
		t.Run("tcp to "+far, func(t *testing.T) { captureTCP(t, d, serveTCP(t, o, net.JoinHostPort(far, "0"))) })
		t.Run("udp to "+far, func(t *testing.T) { captureUDP(t, d, serveUDP(t, o, net.JoinHostPort(far, "0"))) })
	}
	if s := stack.Stats(); s.Received == 0 || s.Sent == 0 {
		t.Errorf("stack carried %d and %d packets", s.Received, s.Sent)
	}
}

func captureTCP(t *testing.T, d *direct, server netip.AddrPort) {
	c, err := net.Dial("tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !d.asked(server) {
		t.Fatal("a connection was made that the dialer knows nothing of")
	}
	data := make([]byte, 5<<20)
	for i := range data {
		data[i] = byte(i * 31 >> 3)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Write(data); err != nil {
			t.Error(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(c)
	wg.Wait()
	if err != nil || string(got) != string(data) {
		t.Fatalf("echo of %d bytes gave %d (%v), or others", len(data), len(got), err)
	}
	quitter, err := net.Dial("tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer quitter.Close()
	if _, err := io.WriteString(quitter, "quit"); err != nil {
		t.Fatal(err)
	}
	if _, err := quitter.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read after a reset by the server: %v, want ECONNRESET", err)
	}
}

func captureUDP(t *testing.T, d *direct, server netip.AddrPort) {
	c, err := net.Dial("udp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for _, size := range []int{10, 1472, 8000, 40000} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 31 >> 3)
		}
		again := time.AfterFunc(10*time.Second, func() { _, _ = c.Write(data) }) // one that waited for too long was dropped
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		again.Stop()
		if err != nil || string(buf[:n]) != string(data) {
			t.Errorf("echo of a datagram of %d bytes gave %d (%v), or others", size, n, err)
		}
	}
	if !d.asked(server) {
		t.Error("a datagram went out that the dialer knows nothing of")
	}
}

// TestErrors checks what programs see, with real sockets.
func TestErrors(t *testing.T) {
	hostnettest.NewOutside(t)
	d := &direct{failures: make(map[netip.Addr]error)}
	captured(t, d, DefaultMTU, hostnet.Config{})
	tests := []struct {
		err        error
		tcp4, tcp6 error
	}{
		{nil, unix.ECONNREFUSED, unix.ECONNREFUSED}, // nobody listens outside
		{ErrRefused, unix.ECONNREFUSED, unix.ECONNREFUSED},
		{ErrHostUnreachable, unix.EHOSTUNREACH, unix.EHOSTUNREACH},
		{ErrTimeout, unix.EHOSTUNREACH, unix.EHOSTUNREACH},
		{ErrNetUnreachable, unix.ENETUNREACH, unix.ENETUNREACH},
		{ErrProhibited, unix.EHOSTUNREACH, unix.EACCES},
		{errors.New("circuit has gone"), unix.ECONNREFUSED, unix.ECONNREFUSED},
	}
	for _, test := range tests {
		for far, want := range map[string]error{hostnettest.Far4: test.tcp4, hostnettest.Far6: test.tcp6} {
			d.mu.Lock()
			d.failures[netip.MustParseAddr(far)] = test.err
			d.mu.Unlock()
			start := time.Now()
			c, err := net.Dial("tcp", net.JoinHostPort(far, "81"))
			if err == nil {
				_ = c.Close()
			}
			if !errors.Is(err, want) || time.Since(start) > 5*time.Second {
				t.Errorf("connect to %s with %v: %v after %v, want %v at once", far, test.err, err, time.Since(start), want)
			}
		}
	}
	for far, want := range map[string]error{hostnettest.Far4: unix.EHOSTUNREACH, hostnettest.Far6: unix.EACCES} {
		for failure, want := range map[error]error{ErrRefused: unix.ECONNREFUSED, ErrProhibited: want} {
			d.mu.Lock()
			d.failures[netip.MustParseAddr(far)] = failure
			d.mu.Unlock()
			if err := askUDP(t, net.JoinHostPort(far, "81")); !errors.Is(err, want) {
				t.Errorf("datagram to %s with %v: %v, want %v", far, failure, err, want)
			}
		}
		d.mu.Lock()
		d.failures[netip.MustParseAddr(far)] = nil // the outside itself refuses
		d.mu.Unlock()
		if err := askUDP(t, net.JoinHostPort(far, "81")); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("datagram to a closed port of %s: %v, want ECONNREFUSED", far, err)
		}
	}
}

func askUDP(t *testing.T, server string) error {
	t.Helper()
	c, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// TestPathMTU finds the path's MTU as QUIC does: datagrams with DF that are too
// large are refused with the MTU, smaller ones pass.
func TestPathMTU(t *testing.T) {
	o := hostnettest.NewOutside(t)
	captured(t, &direct{failures: make(map[netip.Addr]error)}, 9000, hostnet.Config{})
	tests := []struct {
		far                           string
		level, discover, probe, query int
		largest                       int
	}{
		{hostnettest.Far4, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, unix.IP_MTU, 1472},
		{hostnettest.Far6, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, unix.IPV6_MTU, 1452},
	}
	for _, test := range tests {
		server := serveUDP(t, o, net.JoinHostPort(test.far, "0"))
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			return errors.Join(c.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), test.level, test.discover, test.probe)
			}), failed)
		}}
		c, err := dialer.Dial("udp", server.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 4000)); err != nil { // within the TUN's MTU
			t.Fatal(err)
		}
		mtu := 0
		known := eventually(30*time.Second, func() bool {
			raw, err := c.(*net.UDPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var merr, serr error
			cerr := raw.Control(func(fd uintptr) {
				_, serr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) // takes the error that came with the ICMP
				mtu, merr = unix.GetsockoptInt(int(fd), test.level, test.query)
			})
			if err := errors.Join(cerr, merr, serr); err != nil {
				t.Fatal(err)
			}
			return mtu == 1500
		})
		if !known {
			t.Fatalf("kernel thinks the path's MTU to %s is %d, want 1500", test.far, mtu)
		}
		if _, err := c.Write(make([]byte, test.largest+1)); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("write of %d bytes to %s: %v, want EMSGSIZE", test.largest+1, test.far, err)
		}
		if _, err := c.Write(make([]byte, test.largest)); err != nil {
			t.Errorf("write of %d bytes to %s: %v", test.largest, test.far, err)
		}
		if n, err := c.Read(make([]byte, 2000)); err != nil || n != test.largest {
			t.Errorf("echo from %s: %d bytes, %v; want %d", test.far, n, err, test.largest)
		}
	}
}

// TestResolverFile asks the name servers that the resolver file names, and
// others, over both transports.
func TestResolverFile(t *testing.T) {
	hostnettest.NewOutside(t)
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := &direct{resolve: func(_ context.Context, _ Flow, query []byte) ([]byte, error) {
		var m dns.Msg
		if err := m.Unpack(query); err != nil {
			return nil, err
		}
		r := new(dns.Msg).SetReply(&m)
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}}
		return r.Pack()
	}}
	captured(t, d, DefaultMTU, hostnet.Config{ResolvConf: path})
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(conf.Servers) != 2 {
		t.Fatalf("resolver file names %d servers, want 2", len(conf.Servers))
	}
	for _, server := range append(conf.Servers, "9.9.9.9", "10.77.0.2") {
		for _, network := range []string{"udp", "tcp"} {
			q := new(dns.Msg).SetQuestion("host.example.", dns.TypeA)
			r, _, err := (&dns.Client{Net: network, Timeout: 30 * time.Second}).Exchange(q, net.JoinHostPort(server, "53"))
			if err != nil || len(r.Answer) != 1 {
				t.Errorf("question to %s over %s: %v, %v; want one answer", server, network, r, err)
			}
		}
	}
}

// TestPing sends ICMP echoes and wants an error at once.
func TestPing(t *testing.T) {
	hostnettest.NewOutside(t)
	captured(t, &direct{}, DefaultMTU, hostnet.Config{})
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		network, far string
		family       int
		proto        int
		request      []byte
		want         error
	}{
		{"ip4", hostnettest.Far4, unix.AF_INET, unix.IPPROTO_ICMP, []byte{8, 0, 0, 0, 0, 1, 0, 1}, unix.EHOSTUNREACH},
		{"ip6", hostnettest.Far6, unix.AF_INET6, unix.IPPROTO_ICMPV6, []byte{128, 0, 0, 0, 0, 1, 0, 1}, unix.EACCES},
	} {
		if err := ping(test.family, test.proto, netip.MustParseAddr(test.far), test.request); !errors.Is(err, test.want) {
			t.Errorf("ping %s: %v, want %v", test.far, err, test.want)
		}
	}
}

func ping(family, proto int, far netip.Addr, request []byte) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	level, option := unix.SOL_IP, unix.IP_RECVERR
	var to unix.Sockaddr
	if far.Is4() {
		to = &unix.SockaddrInet4{Addr: far.As4()}
	} else {
		to = &unix.SockaddrInet6{Addr: far.As16()}
		level, option = unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	if err := errors.Join(unix.SetsockoptInt(fd, level, option, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})); err != nil {
		return fmt.Errorf("setsockopt: %w", err)
	}
	if err := unix.Connect(fd, to); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, err := unix.Write(fd, request); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 100))
	return err
}
