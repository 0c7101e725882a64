package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var somewhere = netip.MustParseAddrPort("192.0.2.7:443")

// TestTransferBothWays sends 100 MB each way at once and compares hashes.
func TestTransferBothWays(t *testing.T) { synctest.Test(t, transferBothWays) }

func transferBothWays(t *testing.T) {
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
			synctest.Test(t, func(t *testing.T) {
				s := connect(t, serving(t, func(c *memConn) { tt.far(t, c) }), Config{})
				st := dial(t, s)
				tt.near(t, st)
				settled(t, s, 0)
				if err := st.Err(); err != nil {
					t.Errorf("after both FINs: got %v, want no error", err)
				}
			})
		})
	}
}

// TestRefused: each code of the opener reaches the client's dial.
func TestRefused(t *testing.T) { synctest.Test(t, refusedWithCodes) }

func refusedWithCodes(t *testing.T) {
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

// reset is a session whose destinations answer when block is closed, and whose
// far ends come out of far.
type reset struct {
	*session
	far   chan *memConn
	block chan struct{}
}

func newReset(t *testing.T) *reset {
	r := &reset{far: make(chan *memConn, 1), block: make(chan struct{})}
	r.session = connect(t, &world{tcp: func(ctx context.Context) (Conn, error) {
		select {
		case <-r.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		near, other := memPair()
		r.far <- other
		return near, nil
	}}, Config{})
	return r
}

func TestResetBeforeConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReset(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.client.DialTCP(ctx, somewhere); !errors.Is(err, context.Canceled) {
			t.Errorf("dial: got %v, want canceled", err)
		}
		st, err := r.client.OpenTCP(somewhere)
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
		settled(t, r.session, 0)
	})
}

// TestReset resets streams in every state, from either side.
func TestReset(t *testing.T) {
	states := []struct {
		name  string
		bring func(st *Stream, c *memConn)
	}{
		{"idle", func(*Stream, *memConn) {}},
		{"client wrote", func(st *Stream, c *memConn) { _, _ = st.Write([]byte("data")); _, _ = c.Read(make([]byte, 4)) }},
		{"client finished", func(st *Stream, c *memConn) { _ = st.CloseWrite(); _, _ = c.Read(make([]byte, 1)) }},
		{"server finished", func(st *Stream, c *memConn) { _ = c.CloseWrite(); _, _ = st.Read(make([]byte, 1)) }},
		{"unread data", func(st *Stream, c *memConn) {
			_, _ = c.Write(make([]byte, 100_000))
			_, _ = st.Read(make([]byte, 10))
		}},
	}
	ends := []struct {
		name string
		end  func(t *testing.T, r *reset, st *Stream, c *memConn)
	}{
		{"by the client", func(t *testing.T, r *reset, st *Stream, c *memConn) {
			st.Reset(wire.CodeReset)
			synctest.Wait()
			// The exit has aborted the connection, or closed it.
			if _, err := c.Write([]byte("late")); err == nil {
				t.Error("far end writes after the reset: got no error")
			}
			settled(t, r.session, 0)
		}},
		{"by the far end", func(t *testing.T, r *reset, st *Stream, c *memConn) {
			c.Abort()
			for st.Err() == nil { // both directions fail; whichever is open notices
				_, _ = st.Write([]byte("x"))
				synctest.Wait()
			}
			wantCode(t, "stream", st.Err(), wire.CodeReset)
			settled(t, r.session, 0)
		}},
		{"by the session", func(t *testing.T, r *reset, st *Stream, c *memConn) {
			r.client.Close()
			synctest.Wait()
			_, err := io.Copy(io.Discard, struct{ io.Reader }{st})
			if err != nil { // unless the far end had finished
				wantCode(t, "read", err, wire.CodeEnded)
			}
			_, err = st.Write([]byte("x"))
			wantCode(t, "write", err, wire.CodeEnded)
			_, err = r.client.DialTCP(t.Context(), somewhere)
			wantCode(t, "dial", err, wire.CodeEnded)
			if _, err := c.Write([]byte("late")); err == nil {
				t.Error("far end writes after the session's end: got no error")
			}
		}},
	}
	for _, state := range states {
		for _, end := range ends {
			t.Run(state.name+", "+end.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newReset(t)
					close(r.block)
					st := dial(t, r.session)
					c := <-r.far
					defer c.Close()
					state.bring(st, c)
					end.end(t, r, st, c)
				})
			})
		}
	}
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

func TestThousandStreams(t *testing.T) { synctest.Test(t, thousandStreams) }

func thousandStreams(t *testing.T) {
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
