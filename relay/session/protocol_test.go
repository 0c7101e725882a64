package session

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cuttle/relay/wire"
)

// recorder is a carrier that keeps the frames it is given.
type recorder struct {
	sent chan []byte // nil: dropped
	done chan struct{}
}

func newRecorder(depth int) *recorder {
	return &recorder{make(chan []byte, depth), make(chan struct{})}
}

func (r *recorder) Attach(Handler) {}

func (r *recorder) Send(kind byte, _ wire.Class, p []byte) error {
	if kind != wire.PayloadSession {
		return nil
	}
	select {
	case r.sent <- slices.Clone(p):
		return nil
	case <-r.done:
		return errGone
	}
}

func (r *recorder) SendAll(kind byte, class wire.Class, packets [][]byte) error {
	return each(r, kind, class, packets)
}

func (r *recorder) Close() {
	select {
	case <-r.done:
	default:
		close(r.done)
	}
}

func (r *recorder) Done() <-chan struct{} { return r.done }

// frames takes what was sent so far apart.
func (r *recorder) frames(t testing.TB) (out []wire.SessionFrame) {
	t.Helper()
	for {
		select {
		case p := <-r.sent:
			for len(p) > 0 {
				f, rest, err := wire.NextSessionFrame(p)
				if err != nil {
					t.Fatalf("sent a packet that does not parse: %v", err)
				}
				out, p = append(out, f), rest
			}
		default:
			return out
		}
	}
}

// hang is an opener whose destinations never answer.
func hang() *world {
	return &world{
		tcp: func(ctx context.Context) (Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		udp: func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		resolve: func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
}

func open(id wire.StreamID, k wire.Kind) []byte {
	d := wire.NewDestination(somewhere)
	if k == wire.KindDNS {
		d = wire.Destination{}
	}
	return wire.AppendOpen(nil, id, k, d)
}

// TestServerRefusesViolations: each sequence of packets ends the session with an
// error at its last packet, and not before.
func TestServerRefusesViolations(t *testing.T) {
	tcp, udp := open(1, wire.KindTCP), open(1, wire.KindUDP)
	data := func(n int) []byte { return wire.AppendData(nil, 1, make([]byte, n)) }
	overrun := [][]byte{tcp}
	for sent := 0; sent <= wire.StreamWindow; sent += maxData {
		overrun = append(overrun, data(maxData))
	}
	tests := []struct {
		name    string
		class   wire.Class
		packets [][]byte
		want    string
	}{
		{"empty packet", wire.Reliable, [][]byte{{}}, "empty"},
		{"unknown frame", wire.Reliable, [][]byte{{99, 0, 0, 0, 1}}, "unknown"},
		{"data for a stream never opened", wire.Reliable, [][]byte{data(1)}, "never opened"},
		{"opened from the client", wire.Reliable, [][]byte{tcp, wire.AppendOpened(nil, 1)}, "opened twice"},
		{"stream number again", wire.Reliable, [][]byte{tcp, tcp}, "used twice"},
		{"stream number shrinks", wire.Reliable, [][]byte{open(5, wire.KindTCP), open(4, wire.KindTCP)}, "used twice"},
		{"data after fin", wire.Reliable, [][]byte{tcp, wire.AppendFin(nil, 1), data(1)}, "after fin"},
		{"fin twice", wire.Reliable, [][]byte{tcp, wire.AppendFin(nil, 1), wire.AppendFin(nil, 1)}, "twice"},
		{"window overrun", wire.Reliable, overrun, "overrun"},
		{"data for a flow", wire.Reliable, [][]byte{udp, data(1)}, "for a flow"},
		{"fin for a flow", wire.Reliable, [][]byte{udp, wire.AppendFin(nil, 1)}, "for a flow"},
		{"window for a flow", wire.Reliable, [][]byte{udp, wire.AppendWindow(nil, 1, 1)}, "for a flow"},
		{"data in the datagram class", wire.Datagram, [][]byte{data(1)}, "wrong class"},
		{"datagram in the reliable class", wire.Reliable, [][]byte{udp, wire.AppendDatagram(nil, 1, wire.Fragment{}, wire.Destination{}, nil)}, "wrong class"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecorder(64)
			s := serveOn(r, hang(), Config{})
			defer s.Close()
			for i, p := range tt.packets {
				err := s.Packet(tt.class, p)
				if last := i == len(tt.packets)-1; !last && err != nil {
					t.Fatalf("packet %d: %v, want no error yet", i, err)
				} else if last && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("last packet: got error %v, want one with %q", err, tt.want)
				}
			}
			if err := s.Packet(wire.Reliable, open(9, wire.KindTCP)); err == nil {
				t.Error("a packet after the session's end: got no error")
			}
		})
	}
}

func TestClientRefusesViolations(t *testing.T) {
	tests := []struct {
		name   string
		packet []byte
	}{
		{"open from the exit", open(2, wire.KindTCP)},
		{"data before opened", wire.AppendData(nil, 1, []byte("x"))},
		{"fin before opened", wire.AppendFin(nil, 1)},
		{"opened twice", wire.AppendOpened(wire.AppendOpened(nil, 1), 1)},
		{"never opened", wire.AppendReset(nil, 7, wire.CodeReset)},
		{"window beyond reason", slices.Concat(slices.Repeat(wire.AppendWindow(nil, 1, 1<<32-1), 100))},
		{"datagram for a stream", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := NewClient(newRecorder(64), nil, Config{})
			defer c.Close()
			s, err := c.OpenTCP(somewhere)
			if err != nil {
				t.Fatal(err)
			}
			class := wire.Reliable
			if tt.packet == nil {
				class, tt.packet = wire.Datagram, wire.AppendDatagram(nil, 1, wire.Fragment{}, wire.Destination{}, nil)
			}
			var got error
			for range 4 {
				got = errors.Join(got, c.Packet(class, tt.packet))
			}
			if !errors.Is(got, errProtocol) {
				t.Errorf("got error %v, want a protocol violation", got)
			}
			wantCode(t, "the stream", s.Err(), wire.CodeEnded)
		})
	}
}

// TestLimits: more streams than the server takes are refused with a code, and a
// flood of them that leaves no room for answers ends the session.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(64)
		s := serveOn(r, hang(), Config{Streams: 10, Opens: 4})
		for id := range wire.StreamID(6) {
			if err := s.Packet(wire.Reliable, open(id+1, wire.KindTCP)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		got := r.frames(t)
		if len(got) != 2 || got[0].Stream != 5 || got[1].Stream != 6 || got[0].Code != wire.CodeResources {
			t.Errorf("six opens with four at a time: got %v, want resets of 5 and 6 with code 6", got)
		}
		if got := s.Streams(); got != 4 {
			t.Errorf("got %d streams, want 4", got)
		}
		// Data for a stream that was refused may have been under way: no error.
		if err := s.Packet(wire.Reliable, wire.AppendData(nil, 6, []byte("x"))); err != nil {
			t.Errorf("data for a refused stream: %v", err)
		}
		var err error
		n := wire.StreamID(6)
		for ; err == nil && n < 100_000; n++ {
			err = s.Packet(wire.Reliable, open(n+1, wire.KindUDP))
			if n%64 == 0 {
				synctest.Wait()
			}
		}
		// The carrier holds 64 packets of at most 1255/6 resets each.
		if !errors.Is(err, errProtocol) {
			t.Errorf("%d opens without an answer taken: got %v, want the session's end", n, err)
		}
		s.Close()
	})
	t.Run("client", func(t *testing.T) {
		c := NewClient(newRecorder(64), nil, Config{Streams: 2})
		defer c.Close()
		for range 2 {
			if _, err := c.OpenTCP(somewhere); err != nil {
				t.Fatal(err)
			}
		}
		_, err := c.OpenTCP(somewhere)
		wantCode(t, "third stream of two", err, wire.CodeResources)
	})
}

// TestBudget: when streams hold more than the session's budget, the one that
// holds most is reset and the others go on.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 300 << 10
		r := newRecorder(1024)
		s := serveOn(r, hang(), Config{Budget: budget})
		send := func(id wire.StreamID, n int) {
			for ; n > 0; n -= maxData {
				if err := s.Packet(wire.Reliable, wire.AppendData(nil, id, make([]byte, min(n, maxData)))); err != nil {
					t.Fatal(err)
				}
			}
		}
		for id := range wire.StreamID(3) {
			if err := s.Packet(wire.Reliable, open(id+1, wire.KindTCP)); err != nil {
				t.Fatal(err)
			}
		}
		send(1, 50_000)
		send(2, 200_000)
		send(3, 70_000)
		synctest.Wait()
		got := r.frames(t)
		if len(got) != 1 || got[0].Type != wire.SessionReset || got[0].Stream != 2 || got[0].Code != wire.CodeResources {
			t.Errorf("over the budget: sent %v, want one reset of stream 2", got)
		}
		if used := s.m.memory.used.Load(); used > budget {
			t.Errorf("%d bytes held, want at most %d", used, budget)
		}
		s.Close()
		if used := s.m.memory.used.Load(); used != 0 {
			t.Errorf("%d bytes held after the end, want 0", used)
		}
	})
}

// FuzzServerPacket and FuzzClientPacket cut random bytes into packets of valid and
// invalid frames. Nothing may panic, memory stays within the budget, and all of it
// is given back at the end.
func FuzzServerPacket(f *testing.F) {
	seedPackets(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		s := serveOn(blackhole{make(chan struct{})}, answering(), Config{Budget: 1 << 20, Streams: 16, Opens: 8})
		feed(t, s.m, script)
	})
}

func FuzzClientPacket(f *testing.F) {
	seedPackets(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		c := NewClient(blackhole{make(chan struct{})}, nil, Config{Budget: 1 << 20})
		for range 3 {
			s, err := c.OpenTCP(somewhere)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
		}
		fl, err := c.DialUDP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		defer fl.Close()
		feed(t, c.m, script)
	})
}

// answering is an opener whose destinations answer at once, or not at all.
func answering() *world {
	var calls atomic.Int32
	return &world{
		tcp: func(ctx context.Context) (Conn, error) {
			n := calls.Add(1)
			if n%3 == 0 {
				return nil, &Error{wire.CodeRefused}
			}
			near, far := memPair()
			if n%3 == 1 {
				go func() { defer far.Close(); echo(far) }() // ends with the stream
			} else {
				context.AfterFunc(ctx, far.Abort)
			}
			return near, nil
		},
		udp:     func(context.Context) (net.Conn, error) { return newMemFlow(), nil },
		resolve: func(_ context.Context, q []byte) ([]byte, error) { return q, nil },
	}
}

// script is a list of frames: u8 type, u8 stream, u16 size.
func seedPackets(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 4, 1, 4, 0, 5, 1, 0, 0})
	f.Add([]byte{1, 1, 0, 2, 7, 1, 0, 9, 0x87, 1, 4, 0, 7, 1, 1, 1})
	f.Add([]byte{1, 1, 0, 3, 4, 1, 0, 30, 3, 1, 0, 7, 6, 1, 0, 1})
	f.Add([]byte{2, 1, 0, 0, 2, 2, 0, 0, 4, 1, 4, 0, 6, 1, 255, 255, 5, 1, 0, 0, 3, 2, 0, 1})
	f.Add([]byte{8, 200, 1, 2, 3, 4})
}

func feed(t *testing.T, m *mux, script []byte) {
	defer func() {
		m.close()
		used, extra := m.memory.used.Load(), m.memory.extra.Load()
		if extra != 0 || used < 0 || m.accept != nil && used != 0 { // a client's streams are the program's to close
			t.Errorf("after the end: %d bytes held, %d of window", used, extra)
		}
	}()
	random := rand.New(rand.NewPCG(1, 2))
	for len(script) >= 4 {
		kind, id, size := script[0], wire.StreamID(script[1]), binary.BigEndian.Uint16(script[2:])
		script = script[4:]
		class := wire.Reliable
		var p []byte
		switch kind & 0x7f {
		case 1:
			p = open(max(id, 1), wire.Kind(size%4+1))
		case 2:
			p = wire.AppendOpened(nil, id)
		case 3:
			p = wire.AppendReset(nil, id, wire.Code(size))
		case 4:
			p = wire.AppendData(nil, id, make([]byte, size%maxData+1))
		case 5:
			p = wire.AppendFin(nil, id)
		case 6:
			p = wire.AppendWindow(nil, id, uint32(size)<<8+1)
		case 7:
			class = wire.Datagram
			part, peer := wire.Fragment{}, wire.Destination{}
			if kind&0x80 != 0 {
				part = wire.Fragment{Part: true, Last: size&1 != 0, Place: byte(size>>1)%wire.MaxPlace + byte(size&1), Number: size >> 14}
			}
			if size&8 != 0 && part.Place == 0 {
				peer = wire.NewDestination(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(size)}), size))
			}
			p = wire.AppendDatagram(nil, id, part, peer, make([]byte, size%1200+1))
		default: // as it comes
			p = make([]byte, size%wire.SessionPacketSize)
			for i := range p {
				p[i] = byte(random.Uint32())
			}
		}
		if m.packet(class, p) != nil {
			return
		}
		if used := m.memory.used.Load(); used > m.memory.limit {
			t.Fatalf("%d bytes held, want at most %d", used, m.memory.limit)
		}
	}
}
