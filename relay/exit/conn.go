package exit

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// buffer is what is read from sockets at a time. It is taken from the pool when
// a socket has something to read, so that silent connections hold none.
type buffer [64 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// tcpConn is a TCP connection whose errors carry codes and no addresses. Writing
// of many buffers at once (net.Buffers) stays one system call, by the methods of
// the *net.TCPConn inside.
type tcpConn struct {
	*net.TCPConn
	raw   syscall.RawConn
	leave func() // once
	once  sync.Once
}

func newTCPConn(c *net.TCPConn, leave func()) *tcpConn {
	t := &tcpConn{TCPConn: c, leave: leave}
	t.raw, _ = c.SyscallConn() // fails for a nil connection only
	return t
}

func (c *tcpConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = streamError(err)
	}
	return n, err
}

func (c *tcpConn) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	if err != nil {
		err = streamError(err)
	}
	return n, err
}

// WriteTo reads until the far end has finished and writes to w, with a large
// pooled buffer that is held only while there is something to read.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) { return pump(c.raw, w, true) }

// CloseWrite sends FIN.
func (c *tcpConn) CloseWrite() error {
	if err := c.TCPConn.CloseWrite(); err != nil {
		return streamError(err)
	}
	return nil
}

// Abort closes the connection with RST.
func (c *tcpConn) Abort() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (c *tcpConn) Close() error {
	c.once.Do(c.leave)
	return c.TCPConn.Close()
}

// udpConn is a connected UDP socket whose errors carry codes and no addresses.
type udpConn struct {
	*net.UDPConn
	raw   syscall.RawConn
	leave func() // once
	once  sync.Once
}

func newUDPConn(c *net.UDPConn, leave func()) *udpConn {
	u := &udpConn{UDPConn: c, leave: leave}
	u.raw, _ = c.SyscallConn() // fails for a nil connection only
	return u
}

func (c *udpConn) Read(p []byte) (int, error) {
	n, err := c.UDPConn.Read(p)
	if err != nil {
		err = streamError(err)
	}
	return n, err
}

// Write sends one datagram. One that the network does not take (too large, queue
// full, refused by the local firewall) is lost, as datagrams may be.
func (c *udpConn) Write(p []byte) (int, error) {
	_, err := c.UDPConn.Write(p)
	switch {
	case err == nil, errors.Is(err, syscall.EMSGSIZE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.EPERM):
		return len(p), nil
	}
	return 0, streamError(err)
}

// WriteTo passes each datagram that arrives to w, until the socket fails.
func (c *udpConn) WriteTo(w io.Writer) (int64, error) { return pump(c.raw, w, false) }

func (c *udpConn) Close() error {
	c.once.Do(c.leave)
	return c.UDPConn.Close()
}

// pump reads from the socket and writes to w, until the end of a stream, which
// is no error, or a failure. It waits without holding a buffer.
func pump(raw syscall.RawConn, w io.Writer, stream bool) (total int64, err error) {
	var b *buffer
	var n int
	var readErr error
	read := func(fd uintptr) bool {
		b = buffers.Get().(*buffer)
		for {
			n, readErr = syscall.Read(int(fd), b[:])
			if !errors.Is(readErr, syscall.EINTR) {
				break
			}
		}
		if errors.Is(readErr, syscall.EAGAIN) {
			buffers.Put(b)
			b = nil
			return false // wait until there is something
		}
		return true
	}
	for {
		b = nil
		err := raw.Read(read)
		if err == nil {
			err = readErr
		}
		if err == nil && (n > 0 || !stream) {
			var k int
			k, err = w.Write(b[:n])
			total += int64(k)
			buffers.Put(b)
			if err != nil {
				return total, err
			}
			continue
		}
		if b != nil {
			buffers.Put(b)
		}
		if err != nil {
			return total, streamError(err)
		}
		return total, nil
	}
}
