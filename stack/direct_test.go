package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// direct is a Dialer over this machine's own sockets: the second implementation
// beside the relay client's.
type direct struct {
	control func(network, address string, c syscall.RawConn) error // marks sockets; nil: does not
	rewrite func(netip.AddrPort) netip.AddrPort                    // where a destination really is; nil: there
	resolve func(ctx context.Context, f Flow, query []byte) ([]byte, error)
	echo    func(request []byte) []byte // nil: echo is prohibited

	mu       sync.Mutex
	failures map[netip.Addr]error // destinations that fail
	dialed   []netip.AddrPort     // destinations asked for
}

func (d *direct) target(f Flow) (string, error) {
	d.mu.Lock()
	d.dialed = append(d.dialed, f.Dst())
	err := d.failures[f.Dst().Addr()]
	d.mu.Unlock()
	if err != nil {
		return "", err
	}
	if d.rewrite != nil {
		return d.rewrite(f.Dst()).String(), nil
	}
	return f.Dst().String(), nil
}

func (d *direct) asked(dst netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.dialed {
		if a == dst {
			return true
		}
	}
	return false
}

func (d *direct) DialTCP(ctx context.Context, f Flow) (Conn, error) {
	target, err := d.target(f)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{Control: d.control}).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, typed(err)
	}
	return tcpConn{c.(*net.TCPConn)}, nil
}

func (d *direct) DialUDP(ctx context.Context, f Flow) (PacketConn, error) {
	target, err := d.target(f)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{Control: d.control}).DialContext(ctx, "udp", target)
	if err != nil {
		return nil, typed(err)
	}
	return udpConn{c}, nil
}

func (d *direct) Resolve(ctx context.Context, f Flow, query []byte) ([]byte, error) {
	if d.resolve == nil {
		return nil, errors.New("no resolver")
	}
	return d.resolve(ctx, f, query)
}

// typed turns the system's errors into ours.
func typed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ECONNREFUSED):
		return ErrRefused
	case errors.Is(err, unix.EHOSTUNREACH):
		return ErrHostUnreachable
	case errors.Is(err, unix.ENETUNREACH):
		return ErrNetUnreachable
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return ErrProhibited
	case errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	}
	return err
}

type tcpConn struct{ *net.TCPConn }

func (c tcpConn) Reset() error {
	return errors.Join(c.SetLinger(0), c.TCPConn.Close())
}

func (c tcpConn) Close() error {
	err := c.TCPConn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil // Reset came before
	}
	return err
}

type udpConn struct{ net.Conn }

func (c udpConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, typed(err)
}

func (c udpConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, typed(err)
}

// eventually waits until ok says so.
func eventually(limit time.Duration, ok func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// DialEcho gives a flow whose far end is echo, called for each request.
func (d *direct) DialEcho(_ context.Context, f Flow) (PacketConn, error) {
	if _, err := d.target(f); err != nil {
		return nil, err
	}
	if d.echo == nil {
		return nil, ErrProhibited
	}
	return &echoConn{answer: d.echo, out: make(chan []byte, 16), closed: make(chan struct{})}, nil
}

// echoConn hands each request to answer, and what that gives to the reader.
type echoConn struct {
	answer func(request []byte) []byte
	out    chan []byte
	closed chan struct{}
}

func (c *echoConn) Write(p []byte) (int, error) {
	if b := c.answer(append([]byte(nil), p...)); b != nil {
		c.out <- b
	}
	return len(p), nil
}

func (c *echoConn) Read(p []byte) (int, error) {
	select {
	case b := <-c.out:
		return copy(p, b), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *echoConn) Close() error { close(c.closed); return nil }
