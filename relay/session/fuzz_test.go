package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// FuzzSession has a client and an exit do, in any order, what programs and paths
// do to them: streams are opened, written, read, closed and reset, circuits end or
// go silent, others cannot be had at once. Each two bytes of the script are one
// such thing. Whatever the order, what is read is what was written, to the last
// byte, names are answered, and in the end everything has been given back.
func FuzzSession(f *testing.F) {
	for _, script := range []string{
		"\x00\x00\x01\xff\x05\x00\x03\x00\x02\x00\x03\x00",                 // a circuit ends under way
		"\x00\x00\x01\xff\x06\x00\x01\x40\x03\x00\x02\x00\x0c\x00",         // one goes silent
		"\x00\x00\x00\x00\x01\x10\x0a\x02\x05\x00\x01\x91\x03\x00\x03\x01", // two attempts fail
		"\x08\x05\x05\x00\x08\x06\x09\x00\x07\xff", "\x00\x00\x01\x20\x04\x00\x05\x00\x09\x00", "\x00\x00\x05\x00\x05\x00\x0b\x00",
		"\x00\x00\x02\x00\x07\x05\x0c\x00\x00\x00\x06\x00\x09\x01\x0b\x00",
	} {
		f.Add([]byte(script))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			p := newPlay(t)
			for i := 0; i+1 < len(script) && i < 80 && !p.over; i += 2 {
				p.step(script[i], script[i+1])
			}
			p.finish()
		})
	})
}

// play is one session and what is known of its streams.
type play struct {
	*roads
	t       *testing.T
	over    bool
	failing int // attempts to make a circuit that are still to fail
	streams []*played
	flow    *Flow
}

type played struct {
	*Stream
	wrote, read  int
	closed, dead bool // for writing; in all
	done         bool // read to its end
}

const (
	playedStreams = 8
	playedBytes   = 120_000 // of a stream, so that no window is ever full
)

func newPlay(t *testing.T) *play {
	p := &play{t: t}
	o := serving(t, echo)
	o.udp = func(context.Context) (net.Conn, error) {
		c := newMemFlow()
		go func() { // ends with the flow
			for {
				select {
				case b := <-c.out:
					select {
					case c.in <- b:
					case <-c.closed:
						return
					}
				case <-c.closed:
					return
				}
			}
		}()
		return c, nil
	}
	o.resolve = func(_ context.Context, q []byte) ([]byte, error) { return append(bytes.Clone(q), '!'), nil }
	p.roads = travel(t, o, Config{Attaches: 1000}, func(r *roads) {
		r.refuse = func(n int) error {
			if n == 0 || p.failing == 0 {
				return nil
			}
			p.failing--
			return errors.New("no path")
		}
	})
	time.Sleep(10 * time.Millisecond) // the exit knows the session from now on
	return p
}

// current is the newest circuit.
func (p *play) current() (up, down *sessiontest.Carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up[len(p.up)-1], p.down[len(p.down)-1]
}

// idle tells whether nothing is open: a session that loses its circuit then ends.
func (p *play) idle() bool {
	synctest.Wait()
	return !p.client.needed()
}

func (p *play) step(op, arg byte) {
	p.t.Helper()
	if p.client.ended() && !slices.ContainsFunc(p.streams, func(s *played) bool { return !s.dead && !s.done }) {
		p.over = true // its circuit was lost, and by then nothing was open
		return
	}
	var s *played
	if len(p.streams) > 0 {
		s = p.streams[int(arg)%len(p.streams)]
	}
	switch op % 13 {
	case 0:
		p.dial()
	case 1:
		if s != nil {
			s.write(p.t, int(arg)*200)
		}
	case 2:
		if s != nil && !s.closed && !s.dead {
			s.closed = true
			if err := s.CloseWrite(); err != nil {
				p.t.Errorf("end of a stream: %v", err)
			}
		}
	case 3:
		if s != nil {
			s.readAll(p.t)
		}
	case 4:
		if s != nil {
			s.dead = true
			s.Reset(wire.CodeReset)
		}
	case 5:
		if !p.idle() {
			up, _ := p.current()
			up.Close()
		}
	case 6:
		if p.idle() {
			return
		}
		up, down := p.current()
		up.Dead.Store(true)
		down.Dead.Store(true)
	case 7:
		time.Sleep(time.Duration(arg) * 20 * time.Millisecond)
	case 8:
		p.datagram(int(arg) * 20)
	case 9:
		q := query(string(rune('a' + arg%26)))
		if got, err := p.client.Exchange(p.t.Context(), q); err != nil || !bytes.Equal(got, append(q, '!')) {
			p.t.Errorf("a name: %q, %v", got, err)
		}
	case 10:
		p.mu.Lock()
		p.failing = int(arg % 4)
		p.mu.Unlock()
	case 11:
		p.client.Close()
		p.over = true
	case 12:
		if s != nil {
			s.dead = true
			_ = s.Close() // an error tells that it had ended
		}
	}
}

func (p *play) dial() {
	if len(p.streams) == playedStreams {
		return
	}
	st, err := p.client.OpenTCP(somewhere)
	if err != nil {
		p.t.Fatalf("open: %v", err)
	}
	p.streams = append(p.streams, &played{Stream: st})
}

// pattern is what stands at an offset of a stream.
func pattern(at, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((at + i) * 7 / 5)
	}
	return b
}

func (s *played) write(t *testing.T, n int) {
	t.Helper()
	n = min(n, playedBytes-s.wrote)
	if s.closed || s.dead || n <= 0 {
		return
	}
	if k, err := s.Write(pattern(s.wrote, n)); err != nil || k != n {
		t.Errorf("write of %d bytes: %d, %v", n, k, err)
	}
	s.wrote += n
}

// readAll reads what has been written and comes back, and the end if there is one.
func (s *played) readAll(t *testing.T) {
	t.Helper()
	if s.dead || s.done {
		return
	}
	_ = s.SetReadDeadline(time.Now().Add(50 * time.Second)) // silence takes 3 s to be noticed, attempts that fail a few more
	got := make([]byte, s.wrote-s.read)
	if n, err := io.ReadFull(struct{ io.Reader }{s}, got); err != nil || !bytes.Equal(got, pattern(s.read, len(got))) {
		t.Errorf("read %d bytes of %d, %v; want them as they were written", n, len(got), err)
	}
	s.read = s.wrote
	if s.closed {
		if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("behind the last byte: %d, %v; want the end", n, err)
		}
		s.done = true
	}
}

// datagram sends one and takes what has come: some may be lost, none may change.
func (p *play) datagram(n int) {
	if p.flow == nil {
		ctx, cancel := context.WithTimeout(p.t.Context(), 50*time.Second)
		defer cancel()
		var err error
		if p.flow, err = p.client.DialUDP(ctx, somewhere); err != nil {
			p.t.Fatalf("open a flow: %v", err)
		}
	}
	if _, err := p.flow.Write(pattern(0, n)); err != nil {
		if CodeOf(err, wire.CodeReset) == wire.CodeEnded { // idle for too long
			_ = p.flow.Close()
			p.flow = nil
			return
		}
		p.t.Errorf("write of a datagram: %v", err)
	}
	_ = p.flow.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	b := make([]byte, 1<<16)
	for {
		k, err := p.flow.Read(b)
		if err != nil {
			return
		}
		if !bytes.Equal(b[:k], pattern(0, k)) {
			p.t.Errorf("a datagram has changed: %d bytes", k)
		}
	}
}

// finish reads what is left, ends everything, and looks at what is held.
func (p *play) finish() {
	if !p.over {
		for _, s := range p.streams {
			s.readAll(p.t)
		}
	}
	for _, s := range p.streams {
		_ = s.Close() // an error tells that it had ended
	}
	if p.flow != nil {
		_ = p.flow.Close()
	}
	p.client.Close()
	if used, extra := p.client.m.memory.used.Load(), p.client.m.memory.extra.Load(); used != 0 || extra != 0 {
		p.t.Errorf("after the end the client holds %d bytes, %d of window", used, extra)
	}
}
