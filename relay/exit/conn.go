package exit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"cuttle/internal/nowait"
	"cuttle/relay/session"
	"cuttle/relay/wire"
)

// buffer is what is read from sockets at a time. It is taken from the pool when
// a socket has something to read, so that silent connections hold none.
type buffer [64 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// tcpConn is a TCP connection whose errors carry codes and no addresses.
type tcpConn struct {
	*net.TCPConn
	raw   syscall.RawConn
	out   *nowait.Gather
	leave func() // once
	once  sync.Once
	quiet quiet

	writing sync.Mutex // held during a write; guards broken
	broken  error      // of a write, but errPipe
}

// errPipe says that nothing can be written any more, and leaves it to the reader to say
// how the connection ended: what arrived before can still be read.
var errPipe = fmt.Errorf("%w (%w)", &session.Error{Code: wire.CodeReset}, syscall.EPIPE)

// newTCPConn has the connection reset when it has been silent for too long.
func (c *Circuit) newTCPConn(conn *net.TCPConn) *tcpConn {
	e := c.exit
	t := &tcpConn{TCPConn: conn, out: nowait.NewGather(conn), leave: c.leave}
	t.raw, _ = conn.SyscallConn() // fails for a nil connection only
	t.quiet = quiet{open: e.cfg.TCPIdle, half: min(e.cfg.TCPIdle, e.cfg.HalfClosed), moved: t.moved, expire: func() {
		e.counts.idle.Add(1)
		t.Abort()
	}}
	t.quiet.start()
	return t
}

func (c *tcpConn) moved() (n uint64, ok bool) {
	if c.raw.Control(func(fd uintptr) { n, ok = moved(fd) }) != nil {
		return 0, false
	}
	return n, ok
}

func (c *tcpConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		if broken := c.finished(); broken != nil {
			err = broken
		}
	case err != nil:
		err = streamError(err)
	}
	return n, err
}

// finished notes that the far end has, and returns an error if the connection was reset
// instead: the kernel tells of that once, and when a write hears of it reads give EOF.
func (c *tcpConn) finished() error {
	over := false
	if c.raw.Control(func(fd uintptr) { over = closed(fd) }) == nil && over {
		c.writing.Lock() // no write waits for a closed socket
		defer c.writing.Unlock()
		if c.broken != nil {
			return c.broken
		}
	}
	c.quiet.finish()
	return nil
}

func (c *tcpConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.TCPConn.Write(p)
	return n, c.wrote(err)
}

// WriteVector writes many buffers by one system call; the session's stream calls it.
func (c *tcpConn) WriteVector(v *net.Buffers) (int64, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.out.Write(v)
	return n, c.wrote(err)
}

// wrote gives the error of a write as users of the connection get it. Called with
// writing held.
func (c *tcpConn) wrote(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE):
		c.quiet.finish()
		return errPipe
	}
	c.broken = streamError(err)
	return c.broken
}

// WriteTo reads until the far end has finished and writes to w, with a large
// pooled buffer that is held only while there is something to read.
func (c *tcpConn) WriteTo(w io.Writer) (int64, error) {
	n, err := pump(c.raw, w)
	if err == nil {
		err = c.finished()
	}
	return n, err
}

// CloseWrite sends FIN.
func (c *tcpConn) CloseWrite() error {
	c.quiet.finish()
	err := c.TCPConn.CloseWrite()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTCONN): // it has ended both ways
		return errPipe
	}
	return streamError(err)
}

// Abort closes the connection with RST.
func (c *tcpConn) Abort() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (c *tcpConn) Close() error {
	c.quiet.stop()
	c.once.Do(c.leave)
	return c.TCPConn.Close()
}

// pump reads from the socket and writes to w, until the end of the stream, which
// is no error, or a failure. It waits without holding a buffer.
func pump(raw syscall.RawConn, w io.Writer) (total int64, err error) {
	var b *buffer
	var n int
	var readErr error
	read := func(fd uintptr) bool {
		b = buffers.Get().(*buffer)
		n, readErr = nowait.Read(int(fd), b[:])
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
		if err == nil && n > 0 {
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
