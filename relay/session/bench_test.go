package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// sink is a far end that takes everything.
type sink struct {
	net.Conn
	stop chan struct{}
}

func (c *sink) Read([]byte) (int, error)    { <-c.stop; return 0, io.EOF }
func (c *sink) Write(p []byte) (int, error) { return len(p), nil }
func (c *sink) CloseWrite() error           { return nil }
func (c *sink) Abort()                      {}
func (c *sink) Close() error                { return nil }

// BenchmarkTransfer writes on one stream and reads on the other side of a pair of
// carriers in memory: 128 KiB an iteration.
func BenchmarkTransfer(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			up, down := sessiontest.Pipe(128)
			m, n := newMux(Config{}), newMux(Config{})
			m.trunk.client = true
			up.Attach(attachTo(m, up))
			down.Attach(attachTo(n, down))
			m.start()
			n.start()
			sessiontest.Join(up, down)
			defer func() { m.close(); n.close(); up.Wait() }()
			const size = 128 << 10
			b.SetBytes(size * int64(streams))
			b.ReportAllocs()
			write, read := make([]*Stream, streams), make([]*Stream, streams)
			for i := range streams {
				write[i], read[i] = benchStreams(m, n, wire.StreamID(i+1))
			}
			start := make([]chan struct{}, streams)
			for i := range start {
				start[i] = make(chan struct{}, 4)
				go func() { // ends when start is closed
					p := make([]byte, size)
					for range start[i] {
						if _, err := write[i].Write(p); err != nil {
							b.Errorf("write: %v", err)
							return
						}
					}
				}()
			}
			p := make([]byte, size)
			for b.Loop() {
				for i := range start {
					start[i] <- struct{}{}
				}
				for i := range read {
					if _, err := io.ReadFull(read[i], p); err != nil {
						b.Fatal(err)
					}
				}
			}
			for i := range start {
				close(start[i])
			}
		})
	}
}

// benchStreams puts a stream on the tables of both ends, as if it had been opened.
func benchStreams(m, n *mux, id wire.StreamID) (a, b *Stream) {
	a, b = newStream(m, id), newStream(n, id)
	for s, at := range map[*Stream]*mux{a: m, b: n} {
		s.remote.answered, s.out.announced = true, true
		at.mu.Lock()
		at.ends[id], at.last = s, id
		at.mu.Unlock()
	}
	return a, b
}

// BenchmarkUpload is what an exit does with a client's bytes: stream to socket.
func BenchmarkUpload(b *testing.B) {
	far := &sink{stop: make(chan struct{})}
	s := connect(b, &world{tcp: func(context.Context) (Conn, error) { return far, nil }}, Config{})
	st := dial(b, s)
	p := make([]byte, 128<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := st.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	close(far.stop)
}

// blackhole takes packets and does nothing.
type blackhole struct{ done chan struct{} }

func (blackhole) Send(byte, wire.Class, []byte) error      { return nil }
func (blackhole) SendAll(byte, wire.Class, [][]byte) error { return nil }
func (blackhole) Attach(Handler)                           {}
func (blackhole) Close()                                   {}
func (c blackhole) Done() <-chan struct{}                  { return c.done }

// BenchmarkWrite is the sender's cost alone.
func BenchmarkWrite(b *testing.B) {
	m := muxOn(blackhole{make(chan struct{})}, Config{})
	s, _ := benchStreams(m, m, 1)
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		s.credits = 1 << 30
		if _, err := s.Write(p); err != nil {
			b.Fatal(err)
		}
		if err := m.trunk.acknowledge(m.trunk.next.Load()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResend is what a sender does for a new carrier: it sends a window of
// packets that were not acknowledged once more, in order. (The circuit keeps the
// order, so a receiver never puts packets back into it.)
func BenchmarkResend(b *testing.B) {
	const size = 512 << 10
	carrier := blackhole{make(chan struct{})}
	m := muxOn(carrier, Config{})
	s, _ := benchStreams(m, m, 1)
	s.credits = 1 << 30
	m.trunk.flight.limit = mostFlight
	m.trunk.until.Store(mostFlight)
	if _, err := s.Write(make([]byte, size)); err != nil {
		b.Fatal(err)
	}
	m.trunk.sending.Lock()
	defer m.trunk.sending.Unlock()
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if !m.trunk.resend(carrier) {
			b.Fatal("the carrier takes nothing")
		}
	}
}

// BenchmarkPacketRead is the receiver's cost alone: 52 full packets, one read.
func BenchmarkPacketRead(b *testing.B) {
	m := newMux(Config{})
	h := attachTo(m, blackhole{make(chan struct{})})
	_, s := benchStreams(m, m, 1)
	m.ends[1] = s
	packet := wire.AppendData(nil, 1, make([]byte, maxData))
	p := make([]byte, 52*maxData)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		for range 52 {
			if err := h(wire.PayloadSession, wire.Reliable, packet); err != nil {
				b.Fatal(err)
			}
		}
		if n, err := s.Read(p); n != len(p) || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkDatagram sends datagrams of 1200 bytes from one end to the other.
func BenchmarkDatagram(b *testing.B) {
	m := muxOn(blackhole{make(chan struct{})}, Config{})
	f := newFlow(m, 1)
	m.ends[1] = f
	packet := wire.AppendDatagram(nil, 1, wire.Fragment{}, wire.Destination{}, make([]byte, 1200))
	p := make([]byte, 2048)
	b.SetBytes(1200)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.packet(wire.Datagram, packet); err != nil {
			b.Fatal(err)
		}
		if _, err := f.Read(p); err != nil {
			b.Fatal(err)
		}
	}
}
