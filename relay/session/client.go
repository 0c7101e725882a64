package session

import (
	"context"
	"net/netip"

	"cuttle/relay/wire"
)

// Client is the client's end of a session. Its methods may be called by any
// number of goroutines.
type Client struct {
	m   *mux
	dns exchanger
}

// NewClient starts a session on c. It has two goroutines of its own, which end
// with the carrier; Close waits for them. Whoever owns the carrier hands every
// packet that arrives to Packet.
func NewClient(c Carrier, cfg Config) *Client {
	client := &Client{m: newMux(c, cfg)}
	client.dns.init(client)
	client.m.start()
	return client
}

// Packet takes a packet from the exit. It is called by the link's reader: it
// does not block or keep p. An error means that the circuit must be closed; the
// session has ended.
func (c *Client) Packet(class wire.Class, p []byte) error { return c.m.packet(class, p) }

// Close ends the session and its carrier, and waits for its goroutines. Not to be
// called from where Packet is called.
func (c *Client) Close() { c.m.close() }

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
	_, err := c.m.add(func(id wire.StreamID) end {
		s = newStream(c.m, id)
		s.out.opens, s.out.announce, s.out.noted = true, true, true
		s.out.opening = func(b []byte) []byte { return wire.AppendOpen(b, id, kind, dst) }
		return s
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DialUDP opens a flow to dst. It waits until the OPEN is on its way, not for the
// exit's answer: that comes with Flow.Opened, or as an *Error of Read.
func (c *Client) DialUDP(ctx context.Context, dst netip.AddrPort) (*Flow, error) {
	if !dst.IsValid() {
		return nil, &Error{wire.CodeNetworkUnreachable}
	}
	var f *Flow
	_, err := c.m.add(func(id wire.StreamID) end {
		f = newFlow(c.m, id)
		f.out.opens, f.out.announce, f.out.noted = true, true, true
		d := wire.NewDestination(dst)
		f.out.opening = func(b []byte) []byte { return wire.AppendOpen(b, id, wire.KindUDP, d) }
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
