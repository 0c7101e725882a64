package web

import (
	"errors"
	"io"
	"net"
	"sync"
)

// echoPackets sends every datagram back (RFC 862) until the socket is closed.
func echoPackets(pc net.PacketConn) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		_, _ = pc.WriteTo(buf[:n], from) // a datagram may be lost
	}
}

// maxEcho bounds the connections served at once; more wait in the kernel.
const maxEcho = 1024

// echoServer sends back what it is sent over TCP (RFC 862).
type echoServer struct {
	mu     sync.Mutex // guards conns and closed
	conns  map[net.Conn]struct{}
	closed bool
}

// serve returns when the listener is closed and every connection has ended.
func (e *echoServer) serve(ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxEcho)
	for {
		slots <- struct{}{}
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		if !e.keep(c) {
			return c.Close()
		}
		wg.Go(func() { // ends with its connection, which close ends
			defer func() { e.drop(c); <-slots }()
			_, _ = io.Copy(c, c) // the caller has gone; nobody to tell
		})
	}
}

func (e *echoServer) keep(c net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	if e.conns == nil {
		e.conns = make(map[net.Conn]struct{})
	}
	e.conns[c] = struct{}{}
	return true
}

func (e *echoServer) drop(c net.Conn) {
	_ = c.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
}

func (e *echoServer) close(ln net.Listener) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for c := range e.conns {
		_ = c.Close()
	}
	return ln.Close()
}
