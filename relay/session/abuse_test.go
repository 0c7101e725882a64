package session

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"cuttle/relay/wire"
)

// TestOpenAndResetWithoutReading: a client that takes nothing off its circuit
// opens and resets streams without end. What waits to be said about them must not
// grow without end, too.
func TestOpenAndResetWithoutReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := &recorder{make(chan []byte), make(chan struct{})} // nobody reads
		w := &world{udp: func(context.Context) (net.Conn, error) { return newMemFlow(), nil }}
		s := serveOn(blocked, w, Config{})
		defer s.Close()
		id := wire.StreamID(0)
		for range 200 {
			first := id + 1
			var err error
			for range 100 {
				id++
				err = errors.Join(err, s.Packet(wire.Reliable, open(id, wire.KindUDP)))
			}
			synctest.Wait()
			for i := first; i <= id; i++ {
				err = errors.Join(err, s.Packet(wire.Reliable, wire.AppendReset(nil, i, wire.CodeEnded)))
			}
			synctest.Wait()
			if err != nil {
				break
			}
		}
		s.m.control.mu.Lock()
		n := len(s.m.control.waiting)
		s.m.control.mu.Unlock()
		if most := 2*s.m.cfg.Streams + maxRefusals; n > most {
			t.Errorf("%d streams wait to be spoken of, want at most %d", n, most)
		}
	})
}

// TestDNSStreamsAreFew: a client needs one; each costs the exit a goroutine and a
// message's memory, and no connection that a limit would count.
func TestDNSStreamsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := newRecorder(1000)
		s := serveOn(rec, hang(), Config{})
		defer s.Close()
		for id := range wire.StreamID(50) {
			if err := s.Packet(wire.Reliable, open(id+1, wire.KindDNS)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		refused := 0
		for _, f := range rec.frames(t) {
			if f.Type == wire.SessionReset && f.Code == wire.CodeResources {
				refused++
			}
		}
		if refused != 50-maxLines || s.Streams() != maxLines {
			t.Errorf("%d of 50 dns streams refused, %d open; want %d and %d", refused, s.Streams(), 50-maxLines, maxLines)
		}
	})
}

// endless gives a message's length and then nothing.
type endless struct{ sent bool }

func (e *endless) Read(p []byte) (int, error) {
	if e.sent {
		return 0, io.EOF
	}
	e.sent = true
	return copy(p, []byte{0xff, 0xff}), nil
}

// TestMessageLengthIsNoPromise: a length alone gets no memory.
func TestMessageLengthIsNoPromise(t *testing.T) {
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readMessage(&endless{}); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatalf("half a message: %v", err)
			}
		}
	})
	if n := r.AllocedBytesPerOp(); n > 4096 {
		t.Errorf("a message of which only the length came costs %d bytes", n)
	}
}

// TestSharedBudget: sessions share the memory of an exit. One that holds much of
// it loses streams; one that holds little does not.
func TestSharedBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 1 << 20
		shared := NewBudget(limit)
		stuck := func(context.Context) (Conn, error) {
			near, far := memPair()
			t.Cleanup(func() { _ = far.Close() })
			return near, nil // far never reads
		}
		var all []*server
		serve := func() *server {
			s := serveOn(newRecorder(1000), &world{tcp: stuck}, Config{Shared: shared})
			t.Cleanup(s.Close)
			all = append(all, s)
			return s
		}
		fill := func(s *server, id wire.StreamID, bytes int) {
			if err := s.Packet(wire.Reliable, open(id, wire.KindTCP)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			for ; bytes > 0; bytes -= maxData {
				if err := s.Packet(wire.Reliable, wire.AppendData(nil, id, make([]byte, min(bytes, maxData)))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
		}
		modest := serve()
		fill(modest, 1, 64<<10)
		for range 4 {
			greedy := serve()
			for id := range wire.StreamID(4) {
				fill(greedy, id+1, 200<<10)
			}
		}
		if used := shared.Used(); used > limit+64<<10 {
			t.Errorf("%d bytes are held, the budget is %d", used, limit)
		}
		if modest.Streams() != 1 {
			t.Error("the session that held little lost its stream")
		}
		for _, s := range all {
			s.Close()
		}
		if used := shared.Used(); used != 0 {
			t.Errorf("%d bytes are held after the end, want none", used)
		}
	})
}
