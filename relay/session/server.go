package session

import (
	"context"
	"sync/atomic"

	"cuttle/relay/wire"
)

// maxLines bounds the DNS streams of one session. A client needs one, and another
// while that one ends.
const maxLines = 4

// Server is the exit's end of a session: it serves what the client opens.
type Server struct {
	m       *mux
	opener  Opener
	serving atomic.Int64  // streams with a goroutine
	opening atomic.Int64  // of these, those whose destination is being connected
	lines   atomic.Int64  // of these, DNS streams
	queries chan struct{} // one token per DNS query
}

// NewServer starts a session on c whose streams end at opener's sockets. Its
// goroutines end with the carrier; Close waits for them. Whoever owns the
// carrier hands every packet that arrives to Packet.
func NewServer(c Carrier, opener Opener, cfg Config) *Server {
	s := &Server{m: newMux(c, cfg), opener: opener}
	s.queries = make(chan struct{}, s.m.cfg.Queries)
	ctx, stop := context.WithCancel(context.Background())
	s.m.accept = func(f wire.SessionFrame) error { return s.accept(ctx, f) }
	s.m.onEnd = stop
	s.m.start()
	return s
}

// Packet takes a packet from the client. It is called by the link's reader: it
// does not block or keep p. An error means that the circuit must be closed; the
// session has ended.
func (s *Server) Packet(class wire.Class, p []byte) error { return s.m.packet(class, p) }

// Close ends the session and its carrier, and waits for its goroutines. Not to be
// called from where Packet is called.
func (s *Server) Close() { s.m.close() }

// Streams counts streams and flows that are open.
func (s *Server) Streams() int { return s.m.count() }

// Dropped counts datagrams of either direction that were dropped at this end.
func (s *Server) Dropped() uint64 { return s.m.dropped() }

// accept takes an OPEN and starts a goroutine that serves the stream, or has it
// refused when there are too many.
func (s *Server) accept(ctx context.Context, f wire.SessionFrame) error {
	room := s.serving.Load() < int64(s.m.cfg.Streams) && s.opening.Load() < int64(s.m.cfg.Opens)
	if f.Kind == wire.KindDNS && s.lines.Load() >= maxLines {
		room = false
	}
	e, err := s.m.admit(f.Stream, room, func() end {
		if f.Kind == wire.KindUDP {
			flow := newFlow(s.m, f.Stream)
			flow.out.opening = func(b []byte) []byte { return wire.AppendOpened(b, f.Stream) }
			flow.answered = true
			close(flow.ready)
			return flow
		}
		stream := newStream(s.m, f.Stream)
		stream.out.opening = func(b []byte) []byte { return wire.AppendOpened(b, f.Stream) }
		stream.remote.answered = true
		close(stream.ready)
		return stream
	})
	if err != nil {
		return err
	}
	if e == nil {
		return s.m.refuse(f.Stream, wire.CodeResources)
	}
	s.serving.Add(1)
	s.opening.Add(1)
	if f.Kind == wire.KindDNS {
		s.lines.Add(1)
	}
	// Every one of these ends with its stream, which ends with the session.
	s.m.work.Go(func() {
		defer s.serving.Add(-1)
		switch e := e.(type) {
		case *Flow:
			s.serveFlow(ctx, e, f.Destination.Reveal())
		case *Stream:
			if f.Kind == wire.KindDNS {
				defer s.lines.Add(-1)
				s.opening.Add(-1)
				s.serveDNS(ctx, e)
				return
			}
			s.serveTCP(ctx, e, f.Destination.Reveal())
		}
	})
	return nil
}
