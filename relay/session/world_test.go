package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// memConn is one side of a TCP connection in memory; the other side is far.
type memConn struct {
	net.Conn // nil: methods that a session does not use
	r        *io.PipeReader
	w        *io.PipeWriter
}

func memPair() (near, far *memConn) {
	ar, aw := io.Pipe()
	br, bw := io.Pipe()
	return &memConn{r: ar, w: bw}, &memConn{r: br, w: aw}
}

func (c *memConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c *memConn) CloseWrite() error           { return c.w.Close() }
func (c *memConn) Abort()                      { _ = c.r.CloseWithError(errGone); _ = c.w.CloseWithError(errGone) }
func (c *memConn) Close() error                { _ = c.r.Close(); return c.w.Close() }

var errGone = errors.New("connection reset by peer")

// memFlow is a UDP socket in memory.
type memFlow struct {
	net.Conn
	in, out chan []byte
	closed  chan struct{}
	once    sync.Once
}

func newMemFlow() *memFlow {
	return &memFlow{in: make(chan []byte, 64), out: make(chan []byte, 64), closed: make(chan struct{})}
}

func (c *memFlow) Read(p []byte) (int, error) {
	select {
	case b := <-c.in:
		return copy(p, b), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *memFlow) Write(p []byte) (int, error) {
	select {
	case c.out <- bytes.Clone(p):
		return len(p), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *memFlow) Close() error { c.once.Do(func() { close(c.closed) }); return nil }

// world is an opener whose far ends the test holds.
type world struct {
	tcp     func(ctx context.Context) (Conn, error)
	udp     func(ctx context.Context) (net.Conn, error)
	resolve func(ctx context.Context, q []byte) ([]byte, error)
}

func (w *world) OpenTCP(ctx context.Context, _ netip.AddrPort) (Conn, error) { return w.tcp(ctx) }
func (w *world) OpenUDP(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	return w.udp(ctx)
}
func (w *world) OpenEcho(ctx context.Context, _ netip.Addr) (net.Conn, error) {
	return w.udp(ctx)
}
func (w *world) Resolve(ctx context.Context, q []byte) ([]byte, error) { return w.resolve(ctx, q) }

// serving gives an opener that runs far for each connection.
func serving(t testing.TB, far func(c *memConn)) *world {
	var work sync.WaitGroup
	t.Cleanup(work.Wait)
	return &world{tcp: func(context.Context) (Conn, error) {
		near, other := memPair()
		work.Go(func() {
			defer other.Close()
			far(other)
		})
		return near, nil
	}}
}

func echo(c *memConn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

// each sends packets one by one.
func each(c Carrier, kind byte, class wire.Class, packets [][]byte) error {
	for _, p := range packets {
		if err := c.Send(kind, class, p); err != nil {
			return err
		}
	}
	return nil
}

// attachTo makes c the carrier of m without asking, as if it had been attached.
func attachTo(m *mux, c Carrier) Handler {
	a := &attachment{carrier: c, met: true, said: said{begun: true}}
	m.trunk.current, m.trunk.now = a, a
	m.trunk.live.Store(a)
	return m.trunk.handler(a)
}

func muxOn(c Carrier, cfg Config) *mux {
	m := newMux(cfg)
	attachTo(m, c)
	return m
}

// serveOn makes an exit's end on c, for tests that give it packets themselves.
func serveOn(c Carrier, o Opener, cfg Config) *server {
	s := newServer(o, cfg)
	attachTo(s.m, c)
	return s
}

func (s *server) Packet(class wire.Class, p []byte) error { return s.m.packet(class, p) }
func (s *server) Close()                                  { s.m.close() }
func (s *server) Streams() int                            { return s.m.count() }
func (s *server) Dropped() uint64                         { return s.m.dropped() }
func (c *Client) Packet(class wire.Class, p []byte) error { return c.m.packet(class, p) }

// answerAttach takes the client's ATTACH for m and what follows it.
func answerAttach(m *mux, c Carrier) Handler {
	a := &attachment{carrier: c, first: wire.SessionControl{Type: wire.SessionAttached}}
	h := m.trunk.handler(a)
	asked := false
	return func(kind byte, class wire.Class, p []byte) error {
		if !asked {
			asked = true
			_, err := m.trunk.adopt(a, 0)
			return err
		}
		return h(kind, class, p)
	}
}

type session struct {
	client *Client
	server *server
	up     *sessiontest.Carrier // the client's
	down   *sessiontest.Carrier // the server's
}

// connect joins a client and a server; when the test ends it closes them and
// checks that every buffer was given back.
func connect(t testing.TB, o Opener, cfg Config, change ...func(*session)) *session {
	up, down := sessiontest.Pipe(128)
	s := &session{up: up, down: down}
	for _, f := range change {
		f(s)
	}
	s.client, s.server = NewClient(up, nil, cfg), newServer(o, cfg)
	down.Attach(answerAttach(s.server.m, down))
	sessiontest.Join(up, down)
	t.Cleanup(func() { s.end(t) })
	return s
}

func (s *session) end(t testing.TB) {
	t.Helper()
	s.client.Close()
	s.server.Close()
	s.up.Wait()
	for name, m := range map[string]*mux{"client": s.client.m, "server": s.server.m} {
		if used, extra := m.memory.used.Load(), m.memory.extra.Load(); used != 0 || extra != 0 {
			t.Errorf("%s after the end: %d bytes held, %d bytes of window, want 0 and 0", name, used, extra)
		}
	}
}

func dial(t testing.TB, s *session) *Stream {
	t.Helper()
	st, err := s.client.DialTCP(t.Context(), somewhere)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func wantCode(t testing.TB, what string, err error, want wire.Code) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != want {
		t.Errorf("%s: got %v, want code %v", what, err, want)
	}
}

// noise is n reproducible bytes, and their hash.
type noise struct {
	left int64
	src  *rand.ChaCha8
	sum  hash.Hash
}

func newNoise(seed byte, n int64) *noise {
	return &noise{n, rand.NewChaCha8([32]byte{seed}), sha256.New()}
}

func (n *noise) Read(p []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), n.left)]
	_, _ = n.src.Read(p)
	_, _ = n.sum.Write(p)
	n.left -= int64(len(p))
	return len(p), nil
}

// settled checks that both sides have n streams on their tables once all
// goroutines of the bubble wait.
func settled(t testing.TB, s *session, n int) {
	t.Helper()
	synctest.Wait()
	if got, far := s.client.Streams(), s.server.Streams(); got != n || far != n {
		t.Errorf("streams open: client %d, server %d, want %d", got, far, n)
	}
}

func readAll(t testing.TB, who string, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(struct{ io.Reader }{r})
	if err != nil || string(got) != want {
		t.Errorf("%s reads %q, %v; want %q", who, got, err, want)
	}
}

func writeAll(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := w.Write([]byte(s)); err != nil {
		t.Errorf("write: %v", err)
	}
}
