package session

import (
	"context"
	"crypto/rand"
	"net/netip"
	"time"

	"cuttle/relay/wire"
)

// Line is a carrier as a client gets it: fresh, nothing was sent on it.
type Line interface {
	Carrier
	// Attach gives what comes on the carrier to h, from now on.
	Attach(h Handler)
}

// Redial finds another carrier to the same exit after one was lost. silent tells
// that it was not closed but has gone silent, so that others over the same relays
// may have, too. Errors that are ErrExitGone or ErrExitMute count for it. It is
// called by one goroutine at a time.
type Redial func(ctx context.Context, silent bool) (Line, error)

// Client is the client's end of a session. Its methods may be called by any
// number of goroutines.
type Client struct {
	m      *mux
	dns    exchanger
	id     wire.SessionID
	redial Redial
	poke   chan struct{} // one token: look for a carrier again soon
	asked  time.Time     // ATTACH was given to the carrier and is not answered; of keep
}

// NewClient starts a session on a fresh carrier. redial is asked for another when
// that one ends while there are streams; nil: the session ends then. Goroutines
// end with the session; Close waits for them.
func NewClient(c Line, redial Redial, cfg Config) *Client {
	client := &Client{m: newMux(cfg), redial: redial, poke: make(chan struct{}, 1)}
	_, _ = rand.Read(client.id[:]) // never fails
	client.m.trunk.client = true
	client.dns.init(client)
	first := client.attach(c, false)
	client.m.start()
	client.m.work.Go(func() { client.keep(first) }) // ends with the session
	return client
}

// Done is closed when the session has ended.
func (c *Client) Done() <-chan struct{} { return c.m.done }

// Close ends the session and its carrier and waits for its goroutines. The exit is
// told, unless that takes longer than closeTime. Not to be called from where a
// Handler is called.
func (c *Client) Close() {
	c.farewell()
	c.m.close()
}

// Retry lets a session that has looked for a carrier in vain look again soon, e.g.
// since a link came up.
func (c *Client) Retry() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Streams counts streams and flows that are open.
func (c *Client) Streams() int { return c.m.count() }

// Dropped counts datagrams of either direction that were dropped at this end.
func (c *Client) Dropped() uint64 { return c.m.dropped() }

// DialTCP opens a stream to dst and waits until the exit has connected it. An
// *Error says why it has not.
func (c *Client) DialTCP(ctx context.Context, dst netip.AddrPort) (*Stream, error) {
	s, err := c.OpenTCP(dst)
	if err != nil {
		return nil, err
	}
	if err := s.Opened(ctx); err != nil {
		s.Reset(wire.CodeEnded)
		return nil, err
	}
	return s, nil
}

// OpenTCP opens a stream to dst and does not wait: what is written travels behind
// the OPEN. See Stream.Opened.
func (c *Client) OpenTCP(dst netip.AddrPort) (*Stream, error) {
	if !dst.IsValid() {
		return nil, &Error{wire.CodeNetworkUnreachable}
	}
	return c.openStream(wire.KindTCP, wire.NewDestination(dst))
}

func (c *Client) openStream(kind wire.Kind, dst wire.Destination) (*Stream, error) {
	var s *Stream
	lead := 0
	if kind == wire.KindTCP {
		lead = c.m.trunk.lead()
	}
	_, err := c.m.add(func(id wire.StreamID) end {
		s = newStream(c.m, id)
		s.out.opens, s.out.announce, s.out.noted = true, true, true
		s.out.opening = func(b []byte) []byte { return wire.AppendOpen(b, id, kind, dst) }
		s.out.window = uint32(s.window.open(lead, &c.m.memory))
		return s
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DialUDP opens a flow to dst, and others as Flow.Send names them. It waits until the OPEN is on its way, not for the
// exit's answer: that comes with Flow.Opened, or as an *Error of Read.
func (c *Client) DialUDP(ctx context.Context, dst netip.AddrPort) (*Flow, error) {
	return c.dialFlow(ctx, wire.KindUDP, dst)
}

// DialEcho opens a flow of ICMP echo to dst, as DialUDP does. What a Read or Write
// moves is wire.EchoHead bytes and data, docs/protocol.md section 6.3.
func (c *Client) DialEcho(ctx context.Context, dst netip.Addr) (*Flow, error) {
	return c.dialFlow(ctx, wire.KindEcho, netip.AddrPortFrom(dst, 0))
}

func (c *Client) dialFlow(ctx context.Context, kind wire.Kind, dst netip.AddrPort) (*Flow, error) {
	if !dst.IsValid() {
		return nil, &Error{wire.CodeNetworkUnreachable}
	}
	var f *Flow
	_, err := c.m.add(func(id wire.StreamID) end {
		f = newFlow(c.m, id)
		f.out.opens, f.out.announce, f.out.noted = true, true, true
		f.dst, f.peers = wire.NewDestination(dst), kind == wire.KindUDP
		f.out.opening = func(b []byte) []byte { return wire.AppendOpen(b, id, kind, f.dst) }
		return f
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-f.sent:
	case <-ctx.Done():
		_ = f.Close()
		return nil, ctx.Err()
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

// Opened waits until the exit has connected the destination; an *Error says why
// it has not. When ctx ends first the stream stays as it is.
func (s *Stream) Opened(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Err()
}
