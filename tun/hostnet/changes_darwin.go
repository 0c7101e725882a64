package hostnet

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// routeEvents gives a token when the kernel has reported a change. stop ends it.
func routeEvents() (reported <-chan struct{}, stop func()) {
	c, end, err := watchRoutes()
	if err != nil {
		return nil, func() {}
	}
	return c, func() { _ = end() }
}

// watchRoutes reads a routing socket, on which the kernel tells everybody what has
// changed, and does not look at what it says. So a message that is lost costs nothing.
func watchRoutes() (<-chan struct{}, func() error, error) {
	fd, err := routingSocket()
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "routing socket")
	c, ended := make(chan struct{}, 1), make(chan struct{})
	go func() { // ends when stop closes f
		defer close(ended)
		buf := make([]byte, 1<<16)
		for {
			if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case c <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return c, func() error {
		err := f.Close()
		<-ended
		return err
	}, nil
}
