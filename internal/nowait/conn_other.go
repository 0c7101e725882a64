//go:build !linux

package nowait

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Read is read(2).
func Read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Wrap gives c.
func Wrap(c net.Conn) net.Conn { return c }
