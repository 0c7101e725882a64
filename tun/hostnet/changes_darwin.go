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
// changed. It looks at the kind of a message only, since answers to questions and
// missed routes come there, too; when one was lost, that counts as a change.
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
			n, err := f.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			if err == nil && !changes(buf[:n]) {
				continue
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

// changes tells whether a message of a routing socket, route(4), reports a change of
// routes, addresses or interfaces. Its fourth byte is its type.
func changes(message []byte) bool {
	if len(message) < 4 {
		return false
	}
	switch message[3] {
	case unix.RTM_ADD, unix.RTM_DELETE, unix.RTM_CHANGE, unix.RTM_REDIRECT, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_IFINFO:
		return true
	}
	return false
}
