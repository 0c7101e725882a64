package session

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cuttle/relay/wire"
)

// bind returns a context that ends with ctx or with the stream.
func bind(ctx context.Context, e interface{ whenFailed(func()) }) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	e.whenFailed(cancel)
	return ctx, cancel
}

// serveTCP connects the destination and copies both directions until both have
// ended, each in its own way. A far end that has closed takes nothing more, which takes
// nothing from its answer: the client gets all of it, and what the client still sends
// is dropped.
func (s *server) serveTCP(ctx context.Context, stream *Stream, dst netip.AddrPort) {
	ctx, cancel := bind(ctx, stream)
	defer cancel()
	defer stream.Close()
	conn, err := s.opener.OpenTCP(ctx, dst)
	s.opening.Add(-1)
	if err != nil {
		stream.Reset(CodeOf(err, wire.CodeHostUnreachable))
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, conn.Abort) // the stream was reset: so is the connection
	defer stop()
	stream.announce()
	reset := func(err error) {
		stream.Reset(CodeOf(err, wire.CodeReset))
		conn.Abort() // stop may come before the same above
	}

	up := make(chan error, 1)
	go func() { // ends with the stream's or the connection's end
		_, err := stream.WriteTo(conn)
		if err == nil {
			err = conn.CloseWrite()
		}
		switch {
		case errors.Is(err, syscall.EPIPE):
			_ = stream.CloseRead()
		case err != nil:
			reset(err)
		}
		up <- err
	}()
	if _, err := io.Copy(stream, conn); err != nil {
		reset(err)
	} else {
		_ = stream.CloseWrite()
	}
	answered := time.Now()
	// A reset may overtake the answer, so it is left to Close as long as the client may
	// be at that.
	if err := <-up; errors.Is(err, syscall.EPIPE) && time.Since(answered) > s.m.cfg.Linger {
		reset(err)
	}
}

// serveFlow moves datagrams between a flow and a socket until either fails or
// both have been silent for too long.
func (s *server) serveFlow(ctx context.Context, flow *Flow, kind wire.Kind, dst netip.AddrPort) {
	ctx, cancel := bind(ctx, flow)
	defer cancel()
	defer flow.Close()
	var conn net.Conn
	var err error
	if kind == wire.KindEcho {
		conn, err = s.opener.OpenEcho(ctx, dst.Addr())
	} else {
		conn, err = s.opener.OpenUDP(ctx, dst)
	}
	s.opening.Add(-1)
	if err != nil {
		flow.reset(CodeOf(err, wire.CodeHostUnreachable))
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	idle := newIdle(s.m.cfg, func() { flow.reset(wire.CodeEnded) })
	defer idle.stop()
	flow.mu.Lock()
	flow.heard = idle.touch
	flow.mu.Unlock()
	flow.announce()
	packets, _ := conn.(Packets)

	up := make(chan struct{})
	go func() { // ends with the flow
		defer close(up)
		for {
			d, err := flow.next()
			if err != nil {
				return
			}
			if packets != nil {
				err = packets.Send(d.b, flow.peerOf(d))
			} else {
				_, err = conn.Write(d.b)
			}
			d.release()
			if err != nil {
				flow.reset(CodeOf(err, wire.CodeHostUnreachable))
				return
			}
		}
	}()
	back := replies{flow, idle}
	if packets != nil {
		err = packets.Receive(back.send)
	} else {
		err = copyDatagrams(back, conn)
	}
	flow.reset(CodeOf(err, wire.CodeEnded))
	<-up
}

// replies passes datagrams of the far end to the flow.
type replies struct {
	flow *Flow
	idle *idle
}

func (r replies) Write(p []byte) (int, error) {
	return len(p), r.send(p, r.flow.dst.Reveal(), true)
}

// send passes one on. Strangers do not keep a flow open (RFC 4787 REQ-6).
func (r replies) send(p []byte, from netip.AddrPort, asked bool) error {
	if asked {
		r.idle.replied.Store(true)
		r.idle.touch()
	}
	return r.flow.Send(p, from)
}

// copyDatagrams reads from conn until it fails, a datagram at a time.
func copyDatagrams(w io.Writer, conn net.Conn) error {
	if from, ok := conn.(io.WriterTo); ok {
		_, err := from.WriteTo(w)
		return err
	}
	b := bufferPool.Get().(*buffer)
	defer bufferPool.Put(b)
	for {
		n, err := conn.Read(b[:])
		if err != nil {
			return err
		}
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
	}
}

// idle ends a flow that has been silent for too long.
type idle struct {
	cfg     Config
	start   time.Time
	last    atomic.Int64 // nanoseconds since start of the last datagram
	replied atomic.Bool
	mu      sync.Mutex // guards timer and stopped
	timer   *time.Timer
	stopped bool
}

func newIdle(cfg Config, expire func()) *idle {
	i := &idle{cfg: cfg, start: time.Now()}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.timer = time.AfterFunc(i.limit(), func() { i.check(expire) })
	return i
}

func (i *idle) limit() time.Duration {
	if i.replied.Load() {
		return i.cfg.IdleReplied
	}
	return i.cfg.IdleUnreplied
}

func (i *idle) touch() { i.last.Store(int64(time.Since(i.start))) }

// check runs when the timer does: it expires the flow or waits for the rest.
func (i *idle) check(expire func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return
	}
	silent := time.Since(i.start) - time.Duration(i.last.Load())
	if left := i.limit() - silent; left > 0 {
		i.timer.Reset(left)
		return
	}
	expire()
}

func (i *idle) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
	i.timer.Stop()
}

// serveDNS answers the messages of a DNS stream, several at a time; when too
// many are under way it stops reading, and the stream's window pushes back.
func (s *server) serveDNS(ctx context.Context, stream *Stream) {
	ctx, cancel := bind(ctx, stream)
	defer cancel()
	defer stream.Close()
	stream.announce()
	var answers sync.WaitGroup
	in := questions{stream: stream}
	for {
		query, bytes, err := in.next()
		if err != nil {
			answers.Wait()
			if errors.Is(err, io.EOF) {
				_ = stream.CloseWrite()
			} else {
				stream.Reset(CodeOf(err, wire.CodeEnded))
			}
			return
		}
		s.m.trunk.haste.begun(time.Now())
		select {
		case s.queries <- struct{}{}:
		case <-ctx.Done():
			stream.serve(-bytes)
			continue // the next read says why
		}
		answers.Go(func() { // ends with Resolve, which ends with ctx
			defer func() {
				stream.serve(-bytes)
				<-s.queries
			}()
			answer, err := s.opener.Resolve(ctx, query)
			if err == nil && len(answer) > maxMessage {
				err = errMessage
			}
			if err != nil {
				stream.Reset(CodeOf(err, wire.CodeResources))
				return
			}
			defer stream.serve(-len(answer))
			if !stream.serve(len(answer)) { // many answers that the client does not take
				stream.Reset(wire.CodeResources)
				return
			}
			frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
			_, _ = stream.Write(append(frame, answer...)) // a failure ends the stream, which the reader sees
		})
	}
}
