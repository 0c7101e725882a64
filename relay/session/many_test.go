package session

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// quiet is a far end that gives back what it gets and, as real sockets of an exit
// do, is waited for without a buffer.
type quiet struct {
	net.Conn
	back chan []byte
	done chan struct{}
	once sync.Once
}

func newQuiet() *quiet { return &quiet{back: make(chan []byte, 1), done: make(chan struct{})} }

func (q *quiet) Write(p []byte) (int, error) {
	select {
	case q.back <- bytes.Clone(p):
		return len(p), nil
	case <-q.done:
		return 0, net.ErrClosed
	}
}

func (q *quiet) WriteTo(w io.Writer) (n int64, err error) {
	for {
		select {
		case b := <-q.back:
			if _, err := w.Write(b); err != nil {
				return n, err
			}
			n += int64(len(b))
		case <-q.done:
			return n, nil
		}
	}
}

func (q *quiet) CloseWrite() error { return q.Close() }
func (q *quiet) Abort()            { _ = q.Close() }
func (q *quiet) Close() error      { q.once.Do(func() { close(q.done) }); return nil }

// TestManyStreams opens 10,000 TCP streams and 5,000 UDP flows in one session, each
// of which has carried a little, and looks at what client and exit need for them
// while they are idle. One more than there may be is refused, and the session goes
// on.
func TestManyStreams(t *testing.T) {
	tcp, udp := 10_000, 5_000
	if raceEnabled {
		tcp, udp = 1000, 500
	}
	const most, goroutines = 32 << 10, 3 // bytes of heap and stacks of both ends, and of the far end that the test plays
	use := func() (int, int) {
		runtime.GC()
		runtime.GC() // what pools of the first have let go
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
	}
	o := &world{
		tcp: func(context.Context) (Conn, error) { return newQuiet(), nil },
		udp: func(context.Context) (net.Conn, error) { return newQuiet(), nil },
	}
	s := connect(t, o, Config{Streams: tcp + udp, Opens: tcp, IdleUnreplied: time.Hour})
	memory, running := use()
	check := func(what string, n int) {
		t.Helper()
		m, r := use()
		per, each := (m-memory)/n, float64(r-running)/float64(n)
		t.Logf("%d %s: %.1f goroutines and %.1f KiB each, both ends together", n, what, each, float64(per)/1024)
		if per > most || each > goroutines {
			t.Errorf("%d %s take %d bytes and %.1f goroutines each, want at most %d and %d", n, what, per, each, most, goroutines)
		}
		memory, running = m, r
	}
	var all []io.Closer
	defer func() {
		for _, c := range all {
			_ = c.Close()
		}
	}()
	var first *Stream
	for i := range tcp {
		st, err := s.client.OpenTCP(somewhere)
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		all = append(all, st)
		text := fmt.Sprint("hello ", i)
		writeAll(t, st, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(struct{ io.Reader }{st}, got); err != nil || string(got) != text {
			t.Fatalf("stream %d: got %q, %v; want %q", i, got, err, text)
		}
		if first == nil {
			first = st
		}
	}
	check("TCP streams", tcp)
	for i := range udp {
		f, err := s.client.DialUDP(t.Context(), somewhere)
		if err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		all = append(all, f)
		writeAll(t, f, "hello")
		if err := f.Opened(t.Context()); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
	}
	check("UDP flows", udp)
	_, err := s.client.OpenTCP(somewhere)
	wantCode(t, "one more", err, wire.CodeResources)
	writeAll(t, first, "again")
	if _, err := io.ReadFull(struct{ io.Reader }{first}, make([]byte, 5)); err != nil {
		t.Errorf("the first stream afterwards: %v", err)
	}
}
