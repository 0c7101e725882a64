package https

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"cuttle/obfs"
	"cuttle/relay/wire"
)

// pipes is a listener whose connections are made by the test, in memory.
type pipes struct {
	ends   chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.ends:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestSlowStrangers: whoever stops half-way is cut after the time that is given
// for that, and not before. Over HTTP/2 that is the HTTP/2 server's own timer, as
// with any Go server (TestLikeNetHTTP).
func TestSlowStrangers(t *testing.T) {
	shake := func(t *testing.T, c net.Conn, protocol string) *tls.Conn {
		s := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
		if err := s.Handshake(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	say := func(t *testing.T, c net.Conn, text string) {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	const settings = http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, c := range []struct {
		name string
		do   func(t *testing.T, c net.Conn) net.Conn // gives what to read the end from
		low  time.Duration
		high time.Duration
	}{
		{"says nothing", func(*testing.T, net.Conn) net.Conn { return nil }, firstTimeout, firstTimeout},
		{"half a TLS record", func(t *testing.T, c net.Conn) net.Conn { say(t, c, "\x16\x03\x01"); return nil }, firstTimeout, firstTimeout},
		{"no request over HTTP/1.1", func(t *testing.T, c net.Conn) net.Conn { return shake(t, c, "http/1.1") },
			firstTimeout, firstTimeout},
		{"half a request over HTTP/1.1", func(t *testing.T, c net.Conn) net.Conn {
			s := shake(t, c, "http/1.1")
			say(t, s, "GET / HTTP/1.1\r\nHo")
			return s
		}, firstTimeout, firstTimeout},
		{"no preface over HTTP/2", func(t *testing.T, c net.Conn) net.Conn { return shake(t, c, "h2") }, time.Second, firstTimeout},
		{"no request over HTTP/2", func(t *testing.T, c net.Conn) net.Conn {
			s := shake(t, c, "h2")
			say(t, s, settings)
			return s
		}, visitTimeout, visitTimeout},
		{"half a frame over HTTP/2", func(t *testing.T, c net.Conn) net.Conn {
			s := shake(t, c, "h2")
			say(t, s, settings+"\x00\x01\x00\x01\x05\x00\x00\x00\x01abc")
			return s
		}, visitTimeout, visitTimeout},
		{"headers that do not end over HTTP/2", func(t *testing.T, c net.Conn) net.Conn {
			s := shake(t, c, "h2")
			say(t, s, settings+"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")
			return s
		}, visitTimeout, visitTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := &pipes{ends: make(chan net.Conn), closed: make(chan struct{})}
				ln, err := Mask{}.Listen(in, obfs.Options{Node: wire.NodeID{1}})
				if err != nil {
					t.Fatal(err)
				}
				here, there := net.Pipe()
				in.ends <- there
				start := time.Now()
				end := c.do(t, here)
				if end == nil {
					end = here
				}
				_, err = io.Copy(io.Discard, end)
				if took := time.Since(start); took < c.low || took > c.high+time.Second {
					t.Errorf("cut after %v (%v), want %v to %v", took, err, c.low, c.high)
				}
				if err := errors.Join(here.Close(), ln.Close()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
