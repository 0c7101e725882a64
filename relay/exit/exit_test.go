package exit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cuttle/relay/session"
	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// client joins a session's client to an exit in memory.
func client(t testing.TB, e *Exit) *session.Client {
	t.Helper()
	up, down := sessiontest.Pipe(128)
	s := session.NewExit(func(from wire.NodeID) session.Opener { return e.Circuit(from) }, session.ExitConfig{})
	down.Attach(s.Accept(down, wire.NodeID{1}))
	c := session.NewClient(up, nil, session.Config{})
	sessiontest.Join(up, down)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		up.Wait()
		if got := e.Counts().Open; got != 0 {
			t.Errorf("%d sockets open after the end, want 0", got)
		}
	})
	return c
}

// listen runs serve for each connection to a TCP listener on loopback.
func listen(t testing.TB, serve func(c *net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() { // ends when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { defer c.Close(); serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestTCP sends a lot both ways through a real socket, with half-closes.
func TestTCP(t *testing.T) {
	const size = 20 << 20
	e := newExit(t, Config{})
	dst := listen(t, func(c *net.TCPConn) {
		sum := sha256.New()
		_, _ = io.Copy(sum, c)
		_, _ = c.Write(sum.Sum(nil))
		_, _ = io.CopyN(c, rand.NewChaCha8([32]byte{2}), size)
	})
	s, err := client(t, e).DialTCP(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := sha256.New()
	if _, err := io.Copy(s, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), want)); err != nil {
		t.Fatalf("write: %v", err)
	}
	_ = s.CloseWrite()
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want.Sum(nil)) {
		t.Errorf("upload: hash %x, %v; want %x", got, err, want.Sum(nil))
	}
	down, wantDown := sha256.New(), sha256.New()
	_, _ = io.CopyN(wantDown, rand.NewChaCha8([32]byte{2}), size)
	if n, err := io.Copy(down, s); err != nil || n != size || !bytes.Equal(down.Sum(nil), wantDown.Sum(nil)) {
		t.Errorf("download: %d bytes, %v; want the %d sent", n, err, size)
	}
	if got := e.Counts(); got.Opened != 1 || got.Failed != 0 {
		t.Errorf("counts: %+v, want one opened", got)
	}
}

// TestFarEndResets: RST of the far end reaches the client, and a reset of the
// client's reaches the far end as RST.
func TestFarEndResets(t *testing.T) {
	seen := make(chan error, 1)
	dst := listen(t, func(c *net.TCPConn) {
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil {
			seen <- err
			return
		}
		_ = c.SetLinger(0)
	})
	c := client(t, newExit(t, Config{}))
	s, err := c.DialTCP(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = s.Write([]byte("x"))
	_, err = s.Read(make([]byte, 1))
	codeWanted(t, "read after RST", err, wire.CodeReset)
	_ = s.Close()

	s, err = c.DialTCP(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	s.Reset(wire.CodeReset)
	if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("far end after the client's reset: got %v, want ECONNRESET", err)
	}
}

func TestRefusedPort(t *testing.T) {
	e := newExit(t, Config{})
	c := client(t, e)
	_, err := c.DialTCP(t.Context(), closedPort(t))
	codeWanted(t, "tcp", err, wire.CodeRefused)
	f, err := c.DialUDP(t.Context(), closedPort(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.Write([]byte("x"))
	_, err = f.Read(make([]byte, 1))
	codeWanted(t, "udp", err, wire.CodeRefused)
	if got := e.Counts(); got.Failed != 1 || got.Opened != 1 {
		t.Errorf("counts: %+v, want one failed and one opened", got)
	}
}

func TestUDP(t *testing.T) {
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when p is closed
		defer close(done)
		b := make([]byte, 65536)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(b[:n], from)
		}
	}()
	defer func() { p.Close(); <-done }()
	f, err := client(t, newExit(t, Config{})).DialUDP(t.Context(), netip.MustParseAddrPort(p.LocalAddr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 65536)
	for _, n := range []int{1, 1200, 0, 9000, 65507} {
		want := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(want)
		_, _ = f.Write(want)
		if k, err := f.Read(b); err != nil || !bytes.Equal(b[:k], want) {
			t.Errorf("echo of %d bytes: got %d, %v", n, k, err)
		}
	}
	// More than UDP takes is lost, and the flow goes on.
	_, _ = f.Write(make([]byte, 65530))
	_, _ = f.Write([]byte("after"))
	if k, err := f.Read(b); err != nil || string(b[:k]) != "after" {
		t.Errorf("after a datagram too large: got %d bytes, %v", k, err)
	}
}

func TestDNS(t *testing.T) {
	c := client(t, newExit(t, Config{Resolvers: at(resolver(t, says("192.0.2.1"), silent))}))
	q := ask(t, "web.lab.", dns.TypeA)
	b, err := c.Exchange(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if m := unpacked(t, b); m.Id != unpackID(q) || len(m.Answer) != 1 {
		t.Errorf("got %v, want the resolver's answer", m)
	}
}

// TestHTTP runs Go's own client over streams.
func TestHTTP(t *testing.T) {
	body := bytes.Repeat([]byte("onion "), 100_000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(n))
		_, _ = w.Write(body)
	}))
	defer srv.Close()
	c := client(t, newExit(t, Config{}))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return c.DialTCP(ctx, netip.MustParseAddrPort(addr))
	}}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	for range 3 {
		resp, err := hc.Post(srv.URL, "text/plain", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !bytes.Equal(got, body) || resp.Header.Get("X-Got") != fmt.Sprint(len(body)) {
			t.Errorf("got %d bytes, %v; want %d", len(got), err, len(body))
		}
	}
}

func TestForbidden(t *testing.T) {
	dst := listen(t, func(*net.TCPConn) { t.Error("a forbidden destination was connected") })
	own := netip.MustParseAddr("198.41.0.4")
	e := newExit(t, Config{Policy: policy(t), Self: func() []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(own, 32)} }})
	c := someone(e)
	mapped := netip.AddrPortFrom(netip.AddrFrom16(dst.Addr().As16()), dst.Port())
	for _, d := range []netip.AddrPort{dst, mapped, netip.AddrPortFrom(own, 443)} {
		_, err := c.OpenTCP(t.Context(), d)
		codeWanted(t, "tcp", err, wire.CodeForbidden)
		_, err = c.OpenUDP(t.Context(), d)
		codeWanted(t, "udp", err, wire.CodeForbidden)
	}
	// The last look, on the socket that is about to connect.
	codeWanted(t, "control", e.control("tcp4", dst.String(), nil), wire.CodeForbidden)
	codeWanted(t, "control without an address", e.control("tcp4", "localhost:80", nil), wire.CodeForbidden)
	if got := e.Counts(); got.Forbidden != 6 || got.Opened != 0 {
		t.Errorf("counts: %+v, want six forbidden", got)
	}
}

// TestOwnAddressesRefresh: a new address of the exit is refused before long.
func TestOwnAddressesRefresh(t *testing.T) {
	var calls atomic.Int32
	e := newExit(t, Config{Self: func() []netip.Prefix { calls.Add(1); return nil }})
	for range 100 {
		e.own()
	}
	if got := calls.Load(); got != 1 {
		t.Errorf("asked %d times within %v, want once", got, selfAge)
	}
	e.selfAt = e.selfAt.Add(-selfAge)
	e.own()
	if got := calls.Load(); got != 2 {
		t.Errorf("asked %d times after %v, want twice", got, selfAge)
	}
}

func TestRate(t *testing.T) {
	b := bucket{rate: 10, burst: 3}
	now := time.Unix(1000, 0)
	taken := func(n int) (got int) {
		for range n {
			if b.take(now) {
				got++
			}
		}
		return got
	}
	if got := taken(10); got != 3 {
		t.Errorf("at once: got %d, want 3", got)
	}
	now = now.Add(200 * time.Millisecond)
	if got := taken(10); got != 2 {
		t.Errorf("after 200 ms at 10 a second: got %d, want 2", got)
	}
	now = now.Add(time.Hour)
	if got := taken(10); got != 3 {
		t.Errorf("after an hour: got %d, want the burst of 3", got)
	}
}

// TestControl: the node's function sees every socket, and its error is the dial's.
func TestControl(t *testing.T) {
	dst := listen(t, func(*net.TCPConn) {})
	var networks []string
	deny := error(nil)
	e := newExit(t, Config{Control: func(network, _ string, raw syscall.RawConn) error {
		networks = append(networks, network)
		return errors.Join(raw.Control(func(uintptr) {}), deny)
	}})
	conn, err := someone(e).OpenTCP(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	deny = os.NewSyscallError("setsockopt", syscall.EPERM)
	_, err = someone(e).OpenUDP(t.Context(), dst)
	codeWanted(t, "denied", err, wire.CodeForbidden)
	if len(networks) != 2 || networks[0] != "tcp4" || networks[1] != "udp4" {
		t.Errorf("control saw %q, want tcp4 and udp4", networks)
	}
}

func TestCodeOf(t *testing.T) {
	in := func(e error) error { return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", e)} }
	tests := []struct {
		err  error
		want wire.Code
	}{
		{in(syscall.ECONNREFUSED), wire.CodeRefused},
		{in(syscall.EHOSTUNREACH), wire.CodeHostUnreachable},
		{in(syscall.ENETUNREACH), wire.CodeNetworkUnreachable},
		{in(syscall.EAFNOSUPPORT), wire.CodeNetworkUnreachable},
		{in(syscall.ETIMEDOUT), wire.CodeTimeout},
		{in(syscall.EPERM), wire.CodeForbidden},
		{in(syscall.EMFILE), wire.CodeResources},
		{in(syscall.ENFILE), wire.CodeResources},
		{in(syscall.EADDRNOTAVAIL), wire.CodeResources},
		{in(syscall.ECONNRESET), wire.CodeReset},
		{in(syscall.EINVAL), wire.CodeHostUnreachable},
		{context.DeadlineExceeded, wire.CodeTimeout},
		{os.ErrDeadlineExceeded, wire.CodeTimeout},
		{context.Canceled, wire.CodeEnded},
		{net.ErrClosed, wire.CodeEnded},
		{&net.OpError{Err: &session.Error{Code: wire.CodeForbidden}}, wire.CodeForbidden},
		{errors.New("anything"), wire.CodeHostUnreachable},
	}
	for _, tt := range tests {
		if got := CodeOf(tt.err); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
	codeWanted(t, "unknown on an open connection", streamError(errors.New("anything")), wire.CodeReset)
}

// TestDialTimeout: an address that does not answer fails with code 4, before the
// kernel gives up. A listener whose queue is full does not answer.
func TestDialTimeout(t *testing.T) {
	l, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(l)
	if err := errors.Join(syscall.Bind(l, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(l, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*syscall.SockaddrInet4).Port))
	e := newExit(t, Config{DialTimeout: 100 * time.Millisecond})
	c := someone(e)
	for range 10 {
		conn, err := c.OpenTCP(t.Context(), dst)
		if err != nil {
			codeWanted(t, "full queue", err, wire.CodeTimeout)
			return
		}
		defer conn.Close()
	}
	t.Error("ten connections to a listener with a queue of 0: want one to time out")
}

func TestNewErrors(t *testing.T) {
	p := policy(t)
	for _, cfg := range []Config{{}, {Policy: p}, {Policy: p, Resolvers: []Resolver{{}}}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("config %+v: got no error", cfg)
		}
	}
}

// BenchmarkDownload and BenchmarkUpload move 1 MiB an iteration between a program
// and a socket on loopback, through a session in memory.
func BenchmarkDownload(b *testing.B) {
	dst := listen(b, func(c *net.TCPConn) {
		p := make([]byte, 256<<10)
		for {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	})
	s, err := client(b, newExit(b, Config{})).DialTCP(b.Context(), dst)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(s, p); err != nil {
			b.Fatal(err)
		}
	}
	_ = s.Close()
}

func BenchmarkUpload(b *testing.B) {
	dst := listen(b, func(c *net.TCPConn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
	})
	s, err := client(b, newExit(b, Config{})).DialTCP(b.Context(), dst)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	_ = s.Close()
}
