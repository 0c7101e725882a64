package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
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

// TestLostFragment loses or delays fragments of a datagram: it is lost, and those
// beside it arrive whole.
func TestLostFragment(t *testing.T) {
	send := wire.SessionPacketSize - wire.DatagramOverhead - wire.PlaceSize
	packets := func(id wire.StreamID, number uint16, size int) (out [][]byte) {
		d := newDatagram()
		d.flow, d.b = &Flow{id: id, number: number}, append(d.b, bytes.Repeat([]byte{byte(number)}, size)...)
		muxOn(&recording{out: &out}, Config{}).sendFragments(nil, d)
		return out
	}
	a, b := packets(1, 7, 2*send+10), packets(1, 8, 2*send+10)
	whole := wire.AppendDatagram(nil, 1, wire.Fragment{}, wire.Destination{}, []byte("whole"))
	if len(a) != 3 || len(b) != 3 {
		t.Fatalf("%d and %d packets, want 3 and 3", len(a), len(b))
	}
	for name, tt := range map[string]struct {
		packets [][]byte
		want    string // first byte of each that arrives
		lost    uint64
	}{
		"in order":                  {[][]byte{a[0], a[1], a[2], b[0], b[1], b[2]}, "\x07\x08", 0},
		"first lost":                {[][]byte{a[1], a[2], b[0], b[1], b[2]}, "\x08", 0},
		"middle lost":               {[][]byte{a[0], a[2], b[0], b[1], b[2]}, "\x08", 1},
		"last lost":                 {[][]byte{a[0], a[1], b[0], b[1], b[2]}, "\x08", 1},
		"swapped":                   {[][]byte{a[0], a[2], a[1], b[0], b[1], b[2]}, "\x08", 1},
		"twice":                     {[][]byte{a[0], a[1], a[1], a[2]}, "", 1},
		"one late, of the last one": {[][]byte{a[0], a[1], b[0], a[2], b[1], b[2]}, "\x08", 1},
		"a whole one between":       {[][]byte{a[0], whole, a[1], a[2]}, "w\x07", 0},
		"ends do not join":          {[][]byte{a[0], b[1], b[2]}, "", 0},
	} {
		m := muxOn(blackhole{make(chan struct{})}, Config{})
		f := newFlow(m, 1)
		m.ends[1] = f
		for _, p := range tt.packets {
			if err := m.packet(wire.Datagram, p); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		got := ""
		for f.queue.len() > 0 {
			d, err := f.next()
			if err != nil {
				t.Fatal(err)
			}
			if len(d.b) != 2*send+10 && string(d.b) != "whole" || bytes.Count(d.b, d.b[:1]) != len(d.b) && d.b[0] != 'w' {
				t.Errorf("%s: a datagram of %d bytes, of more than one", name, len(d.b))
			}
			got += string(d.b[:1])
			d.release()
		}
		if lost := m.lost.Load(); got != tt.want || lost != tt.lost {
			t.Errorf("%s: got %q and %d lost, want %q and %d", name, got, lost, tt.want, tt.lost)
		}
		_ = f.Close()
		if used := m.memory.used.Load(); used != 0 {
			t.Errorf("%s: %d bytes held, want 0", name, used)
		}
	}
}

// recording is a carrier that keeps what it is given.
type recording struct{ out *[][]byte }

func (r *recording) Send(_ byte, _ wire.Class, p []byte) error {
	*r.out = append(*r.out, bytes.Clone(p))
	return nil
}
func (r *recording) SendAll(kind byte, class wire.Class, packets [][]byte) error {
	return each(r, kind, class, packets)
}
func (r *recording) Close()                {}
func (r *recording) Done() <-chan struct{} { return nil }

// TestAssemblyIsBounded: fragments beyond the largest datagram are dropped, and the
// datagram after them arrives whole.
func TestAssemblyIsBounded(t *testing.T) {
	m := muxOn(blackhole{make(chan struct{})}, Config{})
	f := newFlow(m, 1)
	m.ends[1] = f
	give := func(part wire.Fragment, size int) {
		t.Helper()
		if err := m.packet(wire.Datagram, wire.AppendDatagram(nil, 1, part, wire.Destination{}, make([]byte, size))); err != nil {
			t.Fatal(err)
		}
		if used := m.memory.used.Load(); used > 200<<10 {
			t.Fatalf("%d bytes held for one datagram", used)
		}
	}
	for number := range uint16(3) {
		for place := range uint8(wire.MaxPlace + 1) {
			give(wire.Fragment{Part: true, Number: number, Place: place, Last: place == wire.MaxPlace}, maxFragment-wire.PlaceSize)
		}
	}
	if f.queue.len() != 0 || m.lost.Load() != 3 {
		t.Errorf("datagrams of more than %d bytes: %d arrived and %d lost, want 0 and 3", maxDatagram, f.queue.len(), m.lost.Load())
	}
	give(wire.Fragment{}, 4)
	b := make([]byte, 100)
	if n, err := f.Read(b); err != nil || n != 4 {
		t.Errorf("got %d bytes, %v; want 4", n, err)
	}
	if used := m.memory.used.Load(); used != 0 {
		t.Errorf("%d bytes held, want 0", used)
	}
}

// outsider is a peer that nothing was sent to.
var outsider = netip.MustParseAddrPort("192.0.2.200:9")

// manySocket is a memFlow that tells peers apart.
type manySocket struct {
	*memFlow
	sent     chan netip.AddrPort
	incoming chan netip.AddrPort
}

func (s *manySocket) Send(p []byte, to netip.AddrPort) error {
	s.sent <- to
	_, err := s.Write(p)
	return err
}

func (s *manySocket) Receive(take func(p []byte, from netip.AddrPort, asked bool) error) error {
	b := make([]byte, maxDatagram)
	for {
		n, err := s.Read(b)
		if err != nil {
			return err
		}
		from := <-s.incoming
		if err := take(b[:n], from, from != outsider); err != nil {
			return err
		}
	}
}

// TestPeers: one flow speaks to many, whatever the size, and hears who speaks.
func TestPeers(t *testing.T) {
	far := &manySocket{newMemFlow(), make(chan netip.AddrPort, 1), make(chan netip.AddrPort, 1)}
	s := connect(t, &world{udp: func(context.Context) (net.Conn, error) { return far, nil }}, Config{})
	f := flowTo(t, s)
	for _, text := range []string{somewhere.String(), "192.0.2.77:7", "[2001:db8::1]:65535"} {
		peer := netip.MustParseAddrPort(text)
		for _, n := range []int{0, 1, maxFragment - 20, maxFragment - 10, maxFragment, maxFragment + 1, 9000, maxDatagram} {
			want := make([]byte, n)
			_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(want)
			if err := f.Send(want, peer); err != nil {
				t.Fatal(err)
			}
			if to, got := <-far.sent, <-far.out; to != peer || !bytes.Equal(got, want) {
				t.Errorf("%d bytes to %v: got %d to %v", n, peer, len(got), to)
			}
			far.incoming <- peer
			far.in <- want
			b := make([]byte, maxDatagram+1)
			k, from, err := f.Receive(b)
			if err != nil || from != peer || !bytes.Equal(b[:k], want) {
				t.Errorf("%d bytes from %v: got %d from %v, %v", n, peer, k, from, err)
			}
		}
	}
	if err := f.Send(nil, netip.AddrPort{}); !errors.Is(err, errPeer) {
		t.Errorf("to nobody: got %v, want an error", err)
	}
}

// TestPeersRefused: a peer where there is none, or that needs no naming, ends the
// session.
func TestPeersRefused(t *testing.T) {
	peer := func(a string) []byte {
		return wire.AppendDatagram(nil, 1, wire.Fragment{}, wire.NewDestination(netip.MustParseAddrPort(a)), nil)
	}
	for name, tt := range map[string]struct {
		kind wire.Kind
		peer string
	}{"echo": {wire.KindEcho, "192.0.2.77:7"}, "the same": {wire.KindUDP, "192.0.2.7:7"}} {
		m := muxOn(blackhole{make(chan struct{})}, Config{})
		f := newFlow(m, 1)
		f.dst, f.peers = wire.NewDestination(netip.MustParseAddrPort("192.0.2.7:7")), tt.kind == wire.KindUDP
		m.ends[1] = f
		if err := m.packet(wire.Datagram, peer(tt.peer)); !errors.Is(err, errProtocol) {
			t.Errorf("%s: got %v, want a protocol violation", name, err)
		}
	}
}

// stuck is a carrier whose Send blocks until it is closed.
type stuck struct {
	done chan struct{}
	once sync.Once
}

func (c *stuck) Send(byte, wire.Class, []byte) error { <-c.done; return errGone }
func (c *stuck) SendAll(byte, wire.Class, [][]byte) error {
	return c.Send(0, wire.Reliable, nil)
}

func (c *stuck) Close()                { c.once.Do(func() { close(c.done) }) }
func (c *stuck) Done() <-chan struct{} { return c.done }

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
		if err := m.packet(wire.Datagram, wire.AppendDatagram(nil, 1, wire.Fragment{}, wire.Destination{}, fmt.Appendf(nil, "%d", i))); err != nil {
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

// TestStrangersKeepNoFlow: datagrams of those nothing was sent to are heard, and the
// flow ends as if they had not come (RFC 4787 REQ-6).
func TestStrangersKeepNoFlow(t *testing.T) {
	for _, tt := range []struct {
		name    string
		replied bool
		want    time.Duration
	}{{"unreplied", false, 30 * time.Second}, {"replied", true, 2 * time.Minute}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far := &manySocket{newMemFlow(), make(chan netip.AddrPort, 1), make(chan netip.AddrPort, 1)}
				s := connect(t, &world{udp: func(context.Context) (net.Conn, error) { return far, nil }}, Config{})
				f := flowTo(t, s)
				hear := func(from netip.AddrPort) error {
					far.incoming <- from
					far.in <- []byte("hello")
					_, who, err := f.Receive(make([]byte, 10))
					if err == nil && who != from {
						t.Errorf("heard %v, want %v", who, from)
					}
					return err
				}
				writeAll(t, f, "query")
				<-far.sent
				if tt.replied {
					if err := hear(somewhere); err != nil {
						t.Fatal(err)
					}
				}
				start := time.Now()
				heard := -1
				var err error
				for ; err == nil; heard++ {
					time.Sleep(7 * time.Second)
					if f.Err() == nil {
						err = hear(outsider)
					} else {
						err = f.Err()
					}
				}
				wantCode(t, "flow with strangers", err, wire.CodeEnded)
				if got := time.Since(start); got < tt.want || got > tt.want+7*time.Second || heard < 3 {
					t.Errorf("ended after %v, having heard %d datagrams of strangers; want it after %v", got, heard, tt.want)
				}
				s.end(t)
			})
		})
	}
}
