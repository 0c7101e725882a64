package session

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// delayed makes two ends of a stream over carriers with delay each way. In a
// bubble of synctest bytes take no time, so that only windows limit the rate.
func delayed(t *testing.T, delay time.Duration, cfg Config) (a, b *Stream, end func()) {
	up, down := sessiontest.Pipe(1 << 14)
	up.Delay, down.Delay = delay, delay
	m, n := newMux(cfg), newMux(cfg)
	m.trunk.client = true
	up.Attach(attachTo(m, up))
	down.Attach(attachTo(n, down))
	m.start()
	n.start()
	sessiontest.Join(up, down)
	a, b = benchStreams(m, n, 1)
	return a, b, func() {
		_, _ = a.Close(), b.Close()
		m.close()
		n.close()
		up.Wait()
		for _, x := range []*mux{m, n} {
			if used, extra := x.memory.used.Load(), x.memory.extra.Load(); used != 0 || extra != 0 {
				t.Errorf("after the end: %d bytes held, %d of window", used, extra)
			}
		}
	}
}

// TestWindowGrows: on a path of 200 ms a reader that keeps up gets the largest
// window, one that is slow keeps the first, and the budget bounds all of them.
func TestWindowGrows(t *testing.T) {
	tests := []struct {
		name   string
		cfg    Config
		pause  time.Duration // between reads of 64 KiB
		size   int
		window int
	}{
		{"fast reader", Config{}, 0, 64 << 20, 16 << 20},
		{"smaller maximum", Config{MaxWindow: 1 << 20}, 0, 32 << 20, 1 << 20},
		{"slow reader", Config{}, 500 * time.Millisecond, 4 << 20, wire.StreamWindow},
		{"small budget", Config{Budget: 1 << 20}, 0, 16 << 20, 512 << 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, end := delayed(t, 100*time.Millisecond, tt.cfg)
				defer end()
				go func() { // ends when all is written
					_, _ = a.Write(make([]byte, tt.size))
					_ = a.CloseWrite()
				}()
				start := time.Now()
				p := make([]byte, 64<<10)
				for n := 0; n < tt.size; {
					k, err := b.Read(p)
					if err != nil {
						t.Fatalf("after %d bytes: %v", n, err)
					}
					n += k
					if tt.pause > 0 {
						time.Sleep(tt.pause)
					}
				}
				if got := b.window.size; got != tt.window {
					t.Errorf("window: got %d, want %d", got, tt.window)
				}
				t.Logf("%d MiB in %v", tt.size>>20, time.Since(start))
			})
		})
	}
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, end := delayed(t, time.Millisecond, Config{})
		defer end()
		p := make([]byte, 1<<20)
		_ = a.SetDeadline(time.Now().Add(time.Second))
		start := time.Now()
		if _, err := a.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("read: got %v after %v, want the deadline after 1 s", err, time.Since(start))
		}
		_ = a.SetDeadline(time.Now().Add(time.Second))
		n, err := a.Write(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) || n != wire.StreamWindow {
			t.Errorf("write to a peer that does not read: got %d, %v; want a window's bytes and the deadline", n, err)
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("deadline: got %v, want a net.Error that is a timeout", err)
		}
		_ = a.SetDeadline(time.Time{})
		go func() { _, _ = io.ReadFull(b, make([]byte, wire.StreamWindow+len(p))) }() // ends with the bytes
		if n, err := a.Write(p); err != nil {
			t.Errorf("write without a deadline: %d, %v", n, err)
		}
	})
}

// TestLinger: a stream that was closed waits 30 s for the peer's FIN, answers
// data with a reset, and ends at once when the peer finishes.
func TestLinger(t *testing.T) {
	tests := []struct {
		name string
		peer func(b *Stream)
		want wire.Code
		took time.Duration
	}{
		{"silent peer", func(*Stream) {}, wire.CodeEnded, 30 * time.Second},
		{"peer goes on", func(b *Stream) { _, _ = b.Write([]byte("more")) }, wire.CodeReset, 0},
		{"peer finishes", func(b *Stream) { _ = b.CloseWrite() }, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, end := delayed(t, time.Millisecond, Config{})
				defer end()
				start := time.Now()
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("peer reads %v, want EOF", err)
				}
				tt.peer(b)
				for a.m.count() > 0 {
					time.Sleep(time.Millisecond)
				}
				if got := time.Since(start).Round(time.Second); got != tt.took {
					t.Errorf("over after %v, want %v", got, tt.took)
				}
				synctest.Wait()
				time.Sleep(10 * time.Millisecond)
				if tt.want == 0 {
					if err := b.Err(); err != nil {
						t.Errorf("peer: got %v, want no error", err)
					}
				} else {
					wantCode(t, "peer", b.Err(), tt.want)
				}
				if err := a.Close(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("second close: got %v, want net.ErrClosed", err)
				}
			})
		})
	}
}

// TestCloseUnread: closing a stream with bytes unread resets it.
func TestCloseUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, end := delayed(t, time.Millisecond, Config{})
		defer end()
		writeAll(t, a, "unread")
		time.Sleep(5 * time.Millisecond)
		_ = b.Close()
		_, err := a.Read(make([]byte, 1))
		wantCode(t, "writer", err, wire.CodeReset)
	})
}

// TestCloseRead: the peer can write as much as it likes to a stream that is not
// read any more, and nothing of it is held.
func TestCloseRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, end := delayed(t, time.Millisecond, Config{})
		defer end()
		_ = b.CloseRead()
		if n, err := a.Write(make([]byte, 10<<20)); err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
		synctest.Wait()
		if used := b.m.memory.used.Load(); used != 0 {
			t.Errorf("%d bytes held, want 0", used)
		}
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: got %v, want net.ErrClosed", err)
		}
		writeAll(t, b, "still writes")
	})
}
