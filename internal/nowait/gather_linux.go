package nowait

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// mostPieces bounds the buffers of one call; the kernel takes 1024 (IOV_MAX).
const mostPieces = 256

// Gather writes many buffers at a time to a TCP connection. It is one goroutine's.
type Gather struct {
	raw  syscall.RawConn
	iov  []unix.Iovec
	n    int
	err  error
	step func(fd uintptr) bool // bound once, so that a call allocates nothing
}

// NewGather writes to the connection.
func NewGather(c *net.TCPConn) *Gather {
	g := &Gather{}
	g.raw, g.err = c.SyscallConn()
	g.step = func(fd uintptr) bool {
		g.n, g.err = Writev(int(fd), g.iov)
		return !errors.Is(g.err, unix.EAGAIN)
	}
	return g
}

// Write writes all of the buffers, and takes from them what was written. Its errors
// are those of the system call, and os.ErrDeadlineExceeded and net.ErrClosed, wrapped.
func (g *Gather) Write(buffers *net.Buffers) (total int64, err error) {
	if g.raw == nil {
		return 0, g.err
	}
	defer func() { clear(g.iov) }()
	for {
		g.iov = g.iov[:0]
		for _, p := range *buffers {
			if len(g.iov) == mostPieces {
				break
			}
			if len(p) > 0 {
				g.iov = append(g.iov, Piece(p))
			}
		}
		if len(g.iov) == 0 {
			*buffers = nil
			return total, nil
		}
		if err := g.raw.Write(g.step); err != nil {
			return total, err
		}
		if g.err != nil {
			return total, g.err
		}
		total += int64(g.n)
		take(buffers, g.n)
	}
}

// take removes the first n bytes.
func take(buffers *net.Buffers, n int) {
	for len(*buffers) > 0 {
		p := (*buffers)[0]
		if n < len(p) {
			(*buffers)[0] = p[n:]
			return
		}
		n -= len(p)
		(*buffers)[0] = nil
		*buffers = (*buffers)[1:]
	}
}
