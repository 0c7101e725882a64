// Package nowait reads and writes TCP sockets and the TUN device by system calls
// of which Go's scheduler is not told, because they never wait.
//
// An ordinary system call lets the scheduler take the processor away from the
// goroutine after 20 us and give it to another thread, in case the call waits. On
// a descriptor that does not block it never does: what looks like waiting is
// the kernel's own work, copying 64 KiB and often carrying them through to the
// receiver. Taking the processor away then only wakes threads, which cost a node
// a third of its processor time (docs/performance.md). The price is that a
// collection of garbage may begin as much later as one call takes.
//
// Descriptors must not block. Where there is no such call (anywhere but on Linux)
// everything is as usual. It is called by internal/node for what is beneath masks,
// by relay/exit and by tun.
package nowait

import (
	"context"
	"net"
)

// Dialer dials as the one inside; TCP connections come as Wrap makes them.
type Dialer struct{ net.Dialer }

// DialContext is the inner dialer's.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return Wrap(c), nil
}

// Listener accepts from the one inside; TCP connections come as Wrap makes them.
type Listener struct{ net.Listener }

// Accept is the inner listener's.
func (l Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Wrap(c), nil
}
