package session

import (
	"context"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// maxLines bounds the DNS streams of one session. A client needs one, and another
// while that one ends.
const maxLines = 4

// server is the exit's end of one session: it serves what the client opens.
type server struct {
	m       *mux
	opener  Opener
	serving atomic.Int64  // streams with a goroutine
	opening atomic.Int64  // of these, those whose destination is being connected
	lines   atomic.Int64  // of these, DNS streams
	queries chan struct{} // one token per DNS query
}

// newServer starts a session without a carrier, whose streams end at opener's
// sockets. Its goroutines end with the session, but those of streams that finish leaves.
func newServer(opener Opener, cfg Config) *server {
	s := &server{m: newMux(cfg), opener: opener}
	s.queries = make(chan struct{}, s.m.cfg.Queries)
	ctx, stop := context.WithCancel(context.Background())
	s.m.accept = func(f wire.SessionFrame) error { return s.accept(ctx, f) }
	s.m.cut = stop
	s.m.trunk.onEnd = func() { s.m.finish(wire.CodeEnded) }
	s.m.start()
	return s
}

// settle waits for the end of the session and of the streams that finish has left, which
// have Config.Resume for it.
func (s *server) settle() {
	<-s.m.done
	s.m.trunk.free()
	late := time.AfterFunc(s.m.cfg.Resume, s.m.cut)
	defer late.Stop()
	s.m.work.Wait()
}

// accept takes an OPEN and starts a goroutine that serves the stream, or has it
// refused when there are too many.
func (s *server) accept(ctx context.Context, f wire.SessionFrame) error {
	room := s.serving.Load() < int64(s.m.cfg.Streams) && s.opening.Load() < int64(s.m.cfg.Opens)
	if f.Kind == wire.KindDNS && s.lines.Load() >= maxLines {
		room = false
	}
	e, err := s.m.admit(f.Stream, room, func() end {
		if f.Kind == wire.KindUDP || f.Kind == wire.KindEcho {
			flow := newFlow(s.m, f.Stream)
			flow.dst, flow.peers = f.Destination, f.Kind == wire.KindUDP
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
	s.m.trunk.haste.begun(time.Now())
	s.serving.Add(1)
	s.opening.Add(1)
	if f.Kind == wire.KindDNS {
		s.lines.Add(1)
	}
	// Every one of these ends with its stream, which ends with the session or is left by
	// finish.
	s.m.work.Go(func() {
		defer s.serving.Add(-1)
		switch e := e.(type) {
		case *Flow:
			s.serveFlow(ctx, e, f.Kind, f.Destination.Reveal())
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
