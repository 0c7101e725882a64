package nowait

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read is read(2).
func Read(fd int, p []byte) (int, error) {
	return call(unix.SYS_READ, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p))
}

// Readv is readv(2).
func Readv(fd int, v []unix.Iovec) (int, error) {
	return call(unix.SYS_READV, fd, unsafe.Pointer(unsafe.SliceData(v)), len(v))
}

// Writev is writev(2).
func Writev(fd int, v []unix.Iovec) (int, error) {
	return call(unix.SYS_WRITEV, fd, unsafe.Pointer(unsafe.SliceData(v)), len(v))
}

// Piece is p for Readv and Writev.
func Piece(p []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return v
}

// call is a system call on n elements at p.
func call(trap uintptr, fd int, p unsafe.Pointer, n int) (int, error) {
	if n == 0 {
		return 0, nil
	}
	for {
		got, _, e := unix.RawSyscall(trap, uintptr(fd), uintptr(p), uintptr(n))
		switch e {
		case 0:
			return int(got), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// conn is a TCP connection that is read and written by this package's calls.
type conn struct {
	*net.TCPConn
	raw syscall.RawConn
	in  half
	out half
}

// half is one direction.
type half struct {
	mu   sync.Mutex // held during a call; guards the rest
	p    []byte
	n    int
	err  error
	step func(fd uintptr) bool // bound once, so that a call allocates nothing
}

// Wrap gives a TCP connection whose Read and Write are this package's, and any
// other connection as it is.
func Wrap(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return c
	}
	w := &conn{TCPConn: t, raw: raw}
	w.in.step = func(fd uintptr) bool { return w.in.try(unix.SYS_READ, fd) }
	w.out.step = func(fd uintptr) bool { return w.out.try(unix.SYS_WRITE, fd) }
	return w
}

// try makes the call once; false means that the socket is not ready for it.
func (h *half) try(trap, fd uintptr) bool {
	h.n, h.err = call(trap, int(fd), unsafe.Pointer(unsafe.SliceData(h.p)), len(h.p))
	return !errors.Is(h.err, unix.EAGAIN)
}

// NetConn gives the connection beneath.
func (c *conn) NetConn() net.Conn { return c.TCPConn }

func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h := &c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	h.p = p
	err := c.raw.Read(h.step)
	h.p = nil
	switch {
	case err != nil:
		return 0, err
	case h.err != nil:
		return 0, c.failed("read", h.err)
	case h.n == 0:
		return 0, io.EOF
	}
	return h.n, nil
}

func (c *conn) Write(p []byte) (done int, err error) {
	h := &c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() { h.p = nil }()
	for done < len(p) {
		h.p = p[done:]
		if err := c.raw.Write(h.step); err != nil {
			return done, err
		}
		if h.err != nil {
			return done, c.failed("write", h.err)
		}
		done += h.n
	}
	return done, nil
}

// failed makes the error that package net would give.
func (c *conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}
