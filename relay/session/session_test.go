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
	"time"

	"go.uber.org/goleak"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var somewhere = netip.MustParseAddrPort("192.0.2.7:443")

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

type session struct {
	client *Client
	server *Server
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
	s.client, s.server = NewClient(up, cfg), NewServer(down, o, cfg)
	sessiontest.Join(up, s.client.Packet, down, s.server.Packet)
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

// TestTransferBothWays sends 100 MB each way at once and compares hashes.
func TestTransferBothWays(t *testing.T) {
	const size = 100e6
	down, upSum := newNoise(1, size), sha256.New()
	sent := make(chan struct{})
	s := connect(t, serving(t, func(c *memConn) {
		var writer sync.WaitGroup
		writer.Go(func() {
			if _, err := io.CopyBuffer(struct{ io.Writer }{c}, down, make([]byte, 100_000)); err != nil {
				t.Errorf("far end writes: %v", err)
			}
			_ = c.CloseWrite()
		})
		if _, err := io.Copy(upSum, struct{ io.Reader }{c}); err != nil {
			t.Errorf("far end reads: %v", err)
		}
		writer.Wait()
		close(sent)
	}), Config{})
	st := dial(t, s)
	up, downSum := newNoise(2, size), sha256.New()
	var writer sync.WaitGroup
	writer.Go(func() {
		if n, err := io.CopyBuffer(struct{ io.Writer }{st}, up, make([]byte, 77_777)); err != nil {
			t.Errorf("write after %d bytes: %v", n, err)
		}
		if err := st.CloseWrite(); err != nil {
			t.Errorf("close write: %v", err)
		}
	})
	b := make([]byte, 128<<10)
	n, err := io.CopyBuffer(downSum, struct{ io.Reader }{st}, b)
	if err != nil || n != size {
		t.Errorf("read %d bytes, %v; want %d", n, err, int64(size))
	}
	writer.Wait()
	<-sent
	if got, want := downSum.Sum(nil), down.sum.Sum(nil); !bytes.Equal(got, want) {
		t.Errorf("download: got hash %x, want %x", got, want)
	}
	if got, want := upSum.Sum(nil), up.sum.Sum(nil); !bytes.Equal(got, want) {
		t.Errorf("upload: got hash %x, want %x", got, want)
	}
	settled(t, s, 0)
}

// settled waits until both sides have n streams on their tables.
func settled(t testing.TB, s *session, n int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for s.client.Streams() != n || s.server.Streams() != n {
		if time.Now().After(deadline) {
			t.Fatalf("streams open: client %d, server %d, want %d", s.client.Streams(), s.server.Streams(), n)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // polls for the other goroutines' end
	}
}

func TestHalfClose(t *testing.T) {
	tests := []struct {
		name string
		far  func(t *testing.T, c *memConn)
		near func(t *testing.T, s *Stream)
	}{
		{"client first, answer afterwards",
			func(t *testing.T, c *memConn) { readAll(t, "far", c, "question"); writeAll(t, c, "answer") },
			func(t *testing.T, s *Stream) {
				writeAll(t, s, "question")
				_ = s.CloseWrite()
				readAll(t, "near", s, "answer")
			}},
		{"server first, question afterwards",
			func(t *testing.T, c *memConn) {
				writeAll(t, c, "greeting")
				_ = c.CloseWrite()
				readAll(t, "far", c, "question")
			},
			func(t *testing.T, s *Stream) {
				readAll(t, "near", s, "greeting")
				writeAll(t, s, "question")
				_ = s.CloseWrite()
			}},
		{"both at once", func(t *testing.T, c *memConn) { _ = c.CloseWrite(); readAll(t, "far", c, "") },
			func(t *testing.T, s *Stream) { _ = s.CloseWrite(); readAll(t, "near", s, "") }},
		{"write after close fails", func(t *testing.T, c *memConn) { readAll(t, "far", c, "x") },
			func(t *testing.T, s *Stream) {
				writeAll(t, s, "x")
				_ = s.CloseWrite()
				if _, err := s.Write([]byte("y")); !errors.Is(err, net.ErrClosed) {
					t.Errorf("write after CloseWrite: got %v, want net.ErrClosed", err)
				}
				readAll(t, "near", s, "")
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := connect(t, serving(t, func(c *memConn) { tt.far(t, c) }), Config{})
			st := dial(t, s)
			tt.near(t, st)
			settled(t, s, 0)
			if err := st.Err(); err != nil {
				t.Errorf("after both FINs: got %v, want no error", err)
			}
		})
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

// TestRefused: each code of the opener reaches the client's dial.
func TestRefused(t *testing.T) {
	for code := wire.CodeRefused; code <= wire.CodeEnded; code++ {
		s := connect(t, &world{
			tcp: func(context.Context) (Conn, error) { return nil, &Error{code} },
			udp: func(context.Context) (net.Conn, error) { return nil, &Error{code} },
		}, Config{})
		_, err := s.client.DialTCP(t.Context(), somewhere)
		wantCode(t, "dial tcp", err, code)
		f, err := s.client.DialUDP(t.Context(), somewhere)
		if err == nil {
			_, err = f.Read(make([]byte, 1))
		}
		wantCode(t, "udp", err, code)
		settled(t, s, 0)
	}
	s := connect(t, &world{tcp: func(context.Context) (Conn, error) { return nil, context.DeadlineExceeded }}, Config{})
	_, err := s.client.DialTCP(t.Context(), somewhere)
	wantCode(t, "an error without a code", err, wire.CodeTimeout)
}

// TestReset resets streams in every state, from either side.
func TestReset(t *testing.T) {
	far := make(chan *memConn, 1)
	block := make(chan struct{})
	o := &world{tcp: func(ctx context.Context) (Conn, error) {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		near, other := memPair()
		far <- other
		return near, nil
	}}
	s := connect(t, o, Config{})

	t.Run("before the exit has connected", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.client.DialTCP(ctx, somewhere); !errors.Is(err, context.Canceled) {
			t.Errorf("dial: got %v, want canceled", err)
		}
		st, err := s.client.OpenTCP(somewhere)
		if err != nil {
			t.Fatal(err)
		}
		writeAll(t, st, "early data")
		st.Reset(wire.CodeReset)
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after reset: got %v, want net.ErrClosed", err)
		}
		_, err = st.Write([]byte("x"))
		wantCode(t, "write after reset", err, wire.CodeReset)
		settled(t, s, 0)
	})
	close(block)
	states := []struct {
		name  string
		bring func(st *Stream, c *memConn)
	}{
		{"idle", func(*Stream, *memConn) {}},
		{"client wrote", func(st *Stream, c *memConn) { writeAll(t, st, "data"); _, _ = c.Read(make([]byte, 4)) }},
		{"client finished", func(st *Stream, c *memConn) { _ = st.CloseWrite(); _, _ = c.Read(make([]byte, 1)) }},
		{"server finished", func(st *Stream, c *memConn) { _ = c.CloseWrite(); _, _ = st.Read(make([]byte, 1)) }},
		{"unread data", func(st *Stream, c *memConn) {
			_, _ = c.Write(make([]byte, 100_000))
			_, _ = st.Read(make([]byte, 10))
		}},
	}
	for _, state := range states {
		t.Run("by the client, "+state.name, func(t *testing.T) {
			st := dial(t, s)
			c := <-far
			state.bring(st, c)
			st.Reset(wire.CodeReset)
			// The exit aborts the connection.
			for {
				if _, err := c.Write([]byte("late")); err != nil {
					break
				}
			}
			_ = c.Close()
			settled(t, s, 0)
		})
		t.Run("by the far end, "+state.name, func(t *testing.T) {
			st := dial(t, s)
			c := <-far
			state.bring(st, c)
			if state.name == "server finished" {
				_ = c.r.CloseWithError(errGone)
				for {
					if _, err := st.Write([]byte("x")); err != nil {
						break
					}
				}
			} else {
				c.Abort()
				_, _ = io.Copy(io.Discard, struct{ io.Reader }{st})
			}
			wantCode(t, "stream", st.Err(), wire.CodeReset)
			_ = st.Close()
			settled(t, s, 0)
		})
	}
	t.Run("by the session's end", func(t *testing.T) {
		st, other := dial(t, s), <-far
		defer other.Close()
		s.up.Close()
		_, err := st.Read(make([]byte, 1))
		wantCode(t, "read", err, wire.CodeEnded)
		_, err = st.Write([]byte("x"))
		wantCode(t, "write", err, wire.CodeEnded)
		_, err = s.client.DialTCP(t.Context(), somewhere)
		wantCode(t, "dial", err, wire.CodeEnded)
	})
}

// TestSlowReader: a stream that nobody reads holds at most its window and does
// not hold up others.
func TestSlowReader(t *testing.T) {
	s := connect(t, serving(t, func(c *memConn) {
		first := make([]byte, 1)
		if _, err := c.Read(first); err != nil {
			return
		}
		if first[0] == 's' {
			_, _ = c.Write(make([]byte, 10<<20))
			return
		}
		echo(c)
	}), Config{})
	slow, quick := dial(t, s), dial(t, s)
	writeAll(t, slow, "s")
	writeAll(t, quick, "q")
	b := make([]byte, 1<<20)
	for range 20 {
		go func() { _, _ = quick.Write(b) }() // ends when the echo is read below
		if _, err := io.ReadFull(quick, b); err != nil {
			t.Fatalf("quick stream: %v", err)
		}
	}
	if got := slow.unread(); got > wire.StreamWindow {
		t.Errorf("stream that nobody reads holds %d bytes, want at most %d", got, wire.StreamWindow)
	}
	if n, err := io.ReadFull(slow, make([]byte, 10<<20)); err != nil {
		t.Errorf("slow stream: %d bytes, %v", n, err)
	}
}

func TestThousandStreams(t *testing.T) {
	s := connect(t, serving(t, echo), Config{Opens: 1024})
	var work sync.WaitGroup
	for i := range 1000 {
		work.Go(func() {
			st, err := s.client.DialTCP(t.Context(), somewhere)
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
				return
			}
			defer st.Close()
			want := make([]byte, 20_000)
			_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(want)
			work.Go(func() {
				if _, err := st.Write(want); err != nil {
					t.Errorf("stream %d: %v", i, err)
				}
				_ = st.CloseWrite()
			})
			got, err := io.ReadAll(struct{ io.Reader }{st})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: %d bytes (%v) do not equal the %d sent", i, len(got), err, len(want))
			}
		})
	}
	work.Wait()
	settled(t, s, 0)
}

// TestEarlyData: what is written behind the OPEN arrives.
func TestEarlyData(t *testing.T) {
	s := connect(t, serving(t, echo), Config{})
	st, err := s.client.OpenTCP(somewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	writeAll(t, st, "hello")
	_ = st.CloseWrite()
	if err := st.Opened(t.Context()); err != nil {
		t.Fatalf("opened: %v", err)
	}
	readAll(t, "near", st, "hello")
}

func TestCopyPaths(t *testing.T) {
	s := connect(t, serving(t, echo), Config{})
	st := dial(t, s)
	src := newNoise(5, 3<<20)
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := st.ReadFrom(src); err != nil {
			t.Errorf("ReadFrom: %v", err)
		}
		_ = st.CloseWrite()
	})
	sum := sha256.New()
	if n, err := st.WriteTo(sum); err != nil || n != 3<<20 {
		t.Errorf("WriteTo: %d bytes, %v", n, err)
	}
	writer.Wait()
	if !bytes.Equal(sum.Sum(nil), src.sum.Sum(nil)) {
		t.Error("bytes differ after ReadFrom and WriteTo")
	}
}
