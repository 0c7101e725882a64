// Package plain is the mask that is none: bytes pass through as they are. It is
// for the lab and for measuring what the other masks cost. On a real network a
// plain link is a stream of random bytes, which is what the detectors of fully
// encrypted traffic look for.
//
// It proves nothing about the far end (the link's handshake does) and holds no
// state, so there is nothing to lock. internal/node lists it.
package plain

import (
	"context"
	"fmt"
	"net"

	"cuttle/obfs"
)

// Mask passes bytes through. The zero value is ready.
type Mask struct{}

var _ obfs.Mask = Mask{}

// Name is "plain".
func (Mask) Name() string { return "plain" }

// Dial opens a connection to the endpoint. It takes no parameters.
func (Mask) Dial(ctx context.Context, d obfs.Dialer, to obfs.Endpoint) (net.Conn, error) {
	if err := obfs.Only(to.Params); err != nil {
		return nil, fmt.Errorf("mask plain: %w", err)
	}
	c, err := d.DialContext(ctx, "tcp", to.Address)
	if err != nil {
		return nil, fmt.Errorf("mask plain: %w", obfs.Scrub(err))
	}
	return &conn{c}, nil
}

// Listen gives every connection of ln. It takes no options.
func (Mask) Listen(ln net.Listener, o obfs.Options) (net.Listener, error) {
	if err := obfs.Only(o.Values); err != nil {
		return nil, fmt.Errorf("mask plain: %w", err)
	}
	return &listener{ln}, nil
}

type listener struct{ net.Listener }

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, obfs.Scrub(err)
	}
	return &conn{c}, nil
}

// conn is the raw connection with its errors scrubbed.
type conn struct{ net.Conn }

// NetConn gives the raw connection.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, obfs.Scrub(err)
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, obfs.Scrub(err)
}

func (c *conn) Close() error { return obfs.Scrub(c.Conn.Close()) }
