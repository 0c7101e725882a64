package control

import (
	"net"
	"sync"
)

// door admits at most maxConns callers at a time and asks the kernel who each of
// them is. Those beyond wait in the kernel's backlog.
type door struct {
	net.Listener
	seats  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newDoor(ln net.Listener) *door {
	return &door{Listener: ln, seats: make(chan struct{}, maxConns), closed: make(chan struct{})}
}

// caller is who a connection comes from, or why we do not know.
type caller struct {
	peer peer
	err  error
}

// visit is one connection with its caller and its seat.
type visit struct {
	net.Conn
	who  caller
	once sync.Once
	rise func()
}

// Accept waits for a seat, then for a caller.
func (d *door) Accept() (net.Conn, error) {
	select {
	case d.seats <- struct{}{}:
	case <-d.closed:
		return nil, net.ErrClosed
	}
	c, err := d.Listener.Accept()
	if err != nil {
		<-d.seats
		return nil, err
	}
	p, err := identify(c)
	return &visit{Conn: c, who: caller{p, err}, rise: func() { <-d.seats }}, nil
}

// Close closes the socket and ends a waiting Accept.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Listener.Close()
}

// Close gives the seat back.
func (v *visit) Close() error {
	v.once.Do(v.rise)
	if v.who.peer.process.held != nil {
		_ = v.who.peer.process.held.Close() // again, or nothing was written
	}
	return v.Conn.Close()
}
