package https

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// rawConn is the connection beneath TLS. While corked it collects records, so
// that one system call carries several. It is safe for one reader and several
// writers at a time.
type rawConn struct {
	net.Conn
	once    sync.Once
	gone    func()      // called once, on Close; may be nil
	closing atomic.Bool // the close_notify is about to be sent: it may not wait long

	mu     sync.Mutex // guards what follows, and keeps writes whole
	corked bool
	out    []byte
	err    error // the first write error; nothing is written after it
}

func (c *rawConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.corked {
		c.out = append(c.out, p...)
		return len(p), nil
	}
	n, err := c.Conn.Write(p)
	c.err = err
	return n, err
}

// cork makes writes wait for uncork.
func (c *rawConn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// uncork writes what was collected.
func (c *rawConn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	if c.err == nil && len(c.out) > 0 {
		_, c.err = c.Conn.Write(c.out)
	}
	c.out = c.out[:0]
	return c.err
}

// SetWriteDeadline bounds what a closing TLS connection may wait, which would
// otherwise be seconds when the far end does not read.
func (c *rawConn) SetWriteDeadline(t time.Time) error {
	if c.closing.Load() {
		if soon := time.Now().Add(closeTimeout); t.IsZero() || t.After(soon) {
			t = soon
		}
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *rawConn) Close() error {
	c.once.Do(func() {
		if c.gone != nil {
			c.gone()
		}
	})
	return c.Conn.Close()
}
