package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// socket gives an opener with one UDP socket that the test holds.
func socket() (*world, *memFlow) {
	f := newMemFlow()
	return &world{udp: func(context.Context) (net.Conn, error) { return f, nil }}, f
}

func flowTo(t testing.TB, s *session) *Flow {
	t.Helper()
	f, err := s.client.DialUDP(t.Context(), somewhere)
	if err != nil {
		t.Fatalf("dial udp: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestDatagrams(t *testing.T) { synctest.Test(t, datagramsBothWays) }

func datagramsBothWays(t *testing.T) {
	o, far := socket()
	s := connect(t, o, Config{})
	f := flowTo(t, s)
	if err := f.Opened(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 100, maxFragment - 1, maxFragment, maxFragment + 1, 2 * maxFragment, 9000, maxDatagram} {
		want := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(want)
		if _, err := f.Write(want); err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
		got := <-far.out
		if !bytes.Equal(got, want) {
			t.Errorf("up: got %d bytes that differ from the %d sent", len(got), n)
		}
		far.in <- got
		b := make([]byte, maxDatagram+1)
		if k, err := f.Read(b); err != nil || !bytes.Equal(b[:k], want) {
			t.Errorf("down: got %d bytes, %v; want the %d sent", k, err, n)
		}
	}
	if _, err := f.Write(make([]byte, maxDatagram+1)); !errors.Is(err, errSize) {
		t.Errorf("65536 bytes: got %v, want an error", err)
	}
	_ = f.Close()
	<-far.closed // the exit closes its socket
	settled(t, s, 0)
	if _, err := f.Read(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: got %v, want net.ErrClosed", err)
	}
}

// TestLostFragment loses fragments of a datagram. Those that follow arrive, and
// one that lost its end is not joined to them once it is old.
func TestLostFragment(t *testing.T) {
	for lost := 1; lost <= 3; lost++ {
		t.Run(fmt.Sprintf("fragment %d of 3", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				o, far := socket()
				s := connect(t, o, Config{}, func(s *session) {
					s.up.Lose = func(c wire.Class, _ []byte) bool {
						if c == wire.Datagram {
							n++
						}
						return c == wire.Datagram && n == lost
					}
				})
				f := flowTo(t, s)
				writeAll(t, f, string(make([]byte, 2*maxFragment+10)))
				synctest.Wait()
				time.Sleep(2 * assemblyAge)
				writeAll(t, f, "next")
				synctest.Wait()
				var got []byte
				for len(far.out) > 0 {
					got = <-far.out
				}
				if string(got) != "next" {
					t.Errorf("after a lost fragment: last datagram has %d bytes, want the next one whole", len(got))
				}
			})
		})
	}
}

// TestAssemblyIsBounded: fragments without end are dropped, and the datagram
// after them arrives whole.
func TestAssemblyIsBounded(t *testing.T) {
	m := muxOn(blackhole{make(chan struct{})}, Config{})
	f := newFlow(m, 1)
	m.ends[1] = f
	fragment := wire.AppendDatagram(nil, 1, true, make([]byte, maxFragment))
	for range 200 {
		if err := m.packet(wire.Datagram, fragment); err != nil {
			t.Fatal(err)
		}
		if used := m.memory.used.Load(); used > 200<<10 {
			t.Fatalf("%d bytes held for one datagram", used)
		}
	}
	for _, s := range []string{"end of it", "next"} {
		if err := m.packet(wire.Datagram, wire.AppendDatagram(nil, 1, false, []byte(s))); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 100)
	if n, err := f.Read(b); err != nil || string(b[:n]) != "next" {
		t.Errorf("got %q, %v; want \"next\"", b[:n], err)
	}
	if used := m.memory.used.Load(); used != 0 {
		t.Errorf("%d bytes held, want 0", used)
	}
}

// stuck is a carrier whose Send blocks until it is closed.
type stuck struct {
	done chan struct{}
	once sync.Once
}

func (c *stuck) Send(byte, wire.Class, []byte) error { <-c.done; return errGone }
func (c *stuck) Close()                              { c.once.Do(func() { close(c.done) }) }
func (c *stuck) Done() <-chan struct{}               { return c.done }

// TestBlockedCarrier: writers of datagrams never wait, and what waits is bounded.
func TestBlockedCarrier(t *testing.T) {
	c := &stuck{done: make(chan struct{})}
	m := muxOn(c, Config{})
	m.start()
	f := newFlow(m, 1)
	for range 10_000 {
		if _, err := f.Write(make([]byte, 1200)); err != nil {
			t.Fatal(err)
		}
	}
	m.sending.mu.Lock()
	held := m.sending.queue.bytes
	m.sending.mu.Unlock()
	if held > sendBytes {
		t.Errorf("%d bytes wait to be sent, want at most %d", held, sendBytes)
	}
	if got := m.sending.dropped.Load(); got < 9000 {
		t.Errorf("%d datagrams dropped of 10000, want nearly all", got)
	}
	m.close()
}

// TestReceiveQueue: a flow that nobody reads keeps the newest datagrams.
func TestReceiveQueue(t *testing.T) {
	m := muxOn(blackhole{make(chan struct{})}, Config{})
	f := newFlow(m, 1)
	m.ends[1] = f
	const n = 5000
	for i := range n {
		if err := m.packet(wire.Datagram, wire.AppendDatagram(nil, 1, false, fmt.Appendf(nil, "%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.memory.used.Load(); got > flowBytes {
		t.Errorf("%d bytes held, want at most %d", got, flowBytes)
	}
	kept := f.queue.len()
	b := make([]byte, 10)
	k, err := f.Read(b)
	if want := fmt.Sprint(n - kept); err != nil || string(b[:k]) != want {
		t.Errorf("oldest kept: got %q, %v; want %q", b[:k], err, want)
	}
	_ = f.Close()
}

// TestIdleFlow: the exit ends a flow after 30 s without an answer, or 2 min after
// the last datagram.
func TestIdleFlow(t *testing.T) {
	tests := []struct {
		name    string
		replied bool
		want    time.Duration
	}{{"unreplied", false, 30 * time.Second}, {"replied", true, 2 * time.Minute}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, far := socket()
				s := connect(t, o, Config{})
				f := flowTo(t, s)
				b := make([]byte, 10)
				writeAll(t, f, "query")
				<-far.out
				if tt.replied {
					far.in <- []byte("reply")
					if _, err := f.Read(b); err != nil {
						t.Fatal(err)
					}
				}
				start := time.Now()
				// Traffic half-way starts the time anew.
				time.Sleep(20 * time.Second)
				writeAll(t, f, "again")
				_, err := f.Read(b)
				wantCode(t, "idle flow", err, wire.CodeEnded)
				if got := time.Since(start).Round(time.Second); got != tt.want+20*time.Second {
					t.Errorf("ended after %v, want %v", got, tt.want+20*time.Second)
				}
				s.end(t)
			})
		})
	}
}

func TestFlowDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := socket()
		s := connect(t, o, Config{})
		f := flowTo(t, s)
		_ = f.SetDeadline(time.Now().Add(time.Second))
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: got %v, want the deadline", err)
		}
		s.end(t)
	})
}

// door is a carrier whose Send waits until it is opened; it notes datagrams.
type door struct {
	opened chan struct{}
	stuck
	mu  sync.Mutex // guards got
	got []string
}

func (d *door) Send(_ byte, class wire.Class, p []byte) error {
	select {
	case <-d.opened:
	case <-d.done:
		return errGone
	}
	for class == wire.Datagram && len(p) > 0 {
		f, rest, err := wire.NextSessionFrame(p)
		if err != nil {
			return err
		}
		d.mu.Lock()
		d.got = append(d.got, string(f.Data))
		d.mu.Unlock()
		p = rest
	}
	return nil
}

// TestLateDatagrams: while the carrier is backed up datagrams are not saved up. When
// it goes on, those that have waited for longer than sendAge are gone, the others
// are sent in their order.
func TestLateDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &door{opened: make(chan struct{}), stuck: stuck{done: make(chan struct{})}}
		m := muxOn(c, Config{})
		m.start()
		f := newFlow(m, 1)
		writeAll(t, f, "under way") // the sender has it already
		synctest.Wait()
		for i := range 10 {
			writeAll(t, f, fmt.Sprintf("late %d", i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(sendAge)
		var want []string
		for i := range 5 {
			text := fmt.Sprintf("in time %d", i)
			writeAll(t, f, text)
			want = append(want, text)
			time.Sleep(sendAge / 10)
		}
		close(c.opened)
		synctest.Wait()
		want = append([]string{"under way"}, want...)
		if !slices.Equal(c.got, want) {
			t.Errorf("sent %q, want %q", c.got, want)
		}
		if got := m.dropped(); got != 10 {
			t.Errorf("%d datagrams are counted as dropped, want the 10 that were late", got)
		}
		m.close()
	})
}
