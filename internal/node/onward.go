package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"

	"cuttle/relay/circuit"
	"cuttle/relay/session"
	"cuttle/relay/wire"
	"cuttle/stack"
)

// attempts bounds on how many circuits one flow is tried, when the circuit (not
// the destination) is what failed.
const attempts = 3

// errDown says that flows cannot be carried since the client is off.
var errDown = errors.New("the tunnel is down")

// onward carries flows of the stack, and our own calls to the chain, over the
// circuits of a pool: one session per circuit. It satisfies stack.Dialer.
type onward struct {
	pool atomic.Pointer[circuit.Pool] // nil while the client is off

	mu       sync.Mutex // guards sessions
	sessions map[*circuit.Circuit]*session.Client
	ending   sync.WaitGroup // one for each session, until it has ended
}

var _ stack.Dialer = (*onward)(nil)

func newOnward() *onward { return &onward{sessions: make(map[*circuit.Circuit]*session.Client)} }

// opened puts a session on a new circuit.
func (o *onward) opened(c *circuit.Circuit) {
	s := session.NewClient(c, session.Config{})
	c.Attach(s.Packet)
	o.mu.Lock()
	o.sessions[c] = s
	o.mu.Unlock()
	o.ending.Go(func() { // ends with the circuit
		<-c.Done()
		o.mu.Lock()
		delete(o.sessions, c)
		o.mu.Unlock()
		s.Close()
	})
}

// get takes a circuit into use with the session on it.
func (o *onward) get(ctx context.Context) (*circuit.Circuit, *session.Client, error) {
	p := o.pool.Load()
	if p == nil {
		return nil, nil, errDown
	}
	for {
		c, err := p.Get(ctx)
		if err != nil {
			return nil, nil, err
		}
		o.mu.Lock()
		s := o.sessions[c]
		o.mu.Unlock()
		if s != nil {
			return c, s, nil
		}
		c.Release() // has ended since
	}
}

// each calls do with circuits until it is done for another reason than the end
// of the circuit. do releases the circuit unless it returns an error.
func (o *onward) each(ctx context.Context, do func(*circuit.Circuit, *session.Client) error) error {
	var err error
	for range attempts {
		var c *circuit.Circuit
		var s *session.Client
		if c, s, err = o.get(ctx); err != nil {
			return fmt.Errorf("%w: %w", stack.ErrTimeout, err)
		}
		if err = do(c, s); err == nil {
			return nil
		}
		c.Release()
		if session.CodeOf(err, wire.CodeReset) != wire.CodeEnded || ctx.Err() != nil {
			break
		}
	}
	return onwardError(err)
}

// stream opens a TCP stream; it ends its use of the circuit when it is closed.
func (o *onward) stream(ctx context.Context, dst netip.AddrPort) (*stream, error) {
	var out *stream
	err := o.each(ctx, func(c *circuit.Circuit, s *session.Client) error {
		st, err := s.DialTCP(ctx, dst)
		if err != nil {
			return err
		}
		out = &stream{Stream: st, release: sync.OnceFunc(c.Release)}
		return nil
	})
	return out, err
}

// DialTCP opens a stream through the exit.
func (o *onward) DialTCP(ctx context.Context, f stack.Flow) (stack.Conn, error) {
	s, err := o.stream(ctx, f.Dst())
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DialUDP opens a flow of datagrams through the exit.
func (o *onward) DialUDP(ctx context.Context, f stack.Flow) (stack.PacketConn, error) {
	var out *flow
	err := o.each(ctx, func(c *circuit.Circuit, s *session.Client) error {
		fl, err := s.DialUDP(ctx, f.Dst())
		if err != nil {
			return err
		}
		out = &flow{Flow: fl, release: sync.OnceFunc(c.Release)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Resolve has the exit's resolver answer, whatever server was asked.
func (o *onward) Resolve(ctx context.Context, _ stack.Flow, query []byte) ([]byte, error) {
	var answer []byte
	err := o.each(ctx, func(c *circuit.Circuit, s *session.Client) error {
		a, err := s.Exchange(ctx, query)
		if err != nil {
			return err
		}
		c.Release()
		answer = a
		return nil
	})
	return answer, err
}

// DialContext connects to host:port through the exit, for calls of our own to
// the chain; names are resolved by the exit.
func (o *onward) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.New("want host:port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, errors.New("want a port from 1 to 65535")
	}
	addr, err := o.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	s, err := o.stream(ctx, netip.AddrPortFrom(addr, uint16(number)))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// stream is a session's stream as the stack and net/http use it.
type stream struct {
	*session.Stream
	release func()
}

// Reset breaks the stream: the far end sees a reset.
func (s *stream) Reset() error {
	s.Stream.Reset(wire.CodeReset)
	return nil
}

// Close ends the stream and its use of the circuit.
func (s *stream) Close() error {
	defer s.release()
	return s.Stream.Close()
}

// flow is a session's UDP flow as the stack uses it.
type flow struct {
	*session.Flow
	release func()
}

// Read reads one datagram; errors are those the stack knows.
func (f *flow) Read(p []byte) (int, error) {
	n, err := f.Flow.Read(p)
	return n, onwardError(err)
}

// Close ends the flow and its use of the circuit.
func (f *flow) Close() error {
	defer f.release()
	return f.Flow.Close()
}

// onwardError turns what the exit said into what the stack tells programs.
func onwardError(err error) error {
	var e *session.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case wire.CodeRefused:
		return fmt.Errorf("%w: %w", stack.ErrRefused, err)
	case wire.CodeHostUnreachable:
		return fmt.Errorf("%w: %w", stack.ErrHostUnreachable, err)
	case wire.CodeNetworkUnreachable:
		return fmt.Errorf("%w: %w", stack.ErrNetUnreachable, err)
	case wire.CodeTimeout:
		return fmt.Errorf("%w: %w", stack.ErrTimeout, err)
	case wire.CodeForbidden:
		return fmt.Errorf("%w: %w", stack.ErrProhibited, err)
	default:
		return err // the program sees a reset
	}
}
