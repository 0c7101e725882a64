package exit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cuttle/relay/session"
)

const (
	maxPeers   = 1024 // of a socket that are remembered; then it starts anew
	strayRate  = 200  // datagrams of up to strayUnit bytes per second of those nothing was sent to, and twice as many at once
	strayUnit  = 1400
	evictAfter = 10 * time.Second // how long another session's socket must have been silent
)

// udpConn is a UDP socket with the behaviour that RFC 4787 asks a NAT for: one
// mapping for all peers, and datagrams from any of them. Each peer is checked
// against the policy before something is sent to it and when something comes from
// it, so that nothing inside the exit's own network can speak to a client. It
// satisfies session.Packets.
type udpConn struct {
	*net.UDPConn
	raw     syscall.RawConn
	circuit *Circuit
	first   netip.AddrPort // whom it was opened for
	strays  bucket
	used    atomic.Int64 // nanoseconds since the Unix epoch of the last datagram
	once    sync.Once

	mu    sync.Mutex // guards the rest
	peers map[netip.AddrPort]struct{}
	other bool // one but first was among them
}

// OpenUDP makes a UDP socket for dst and other peers of its family. Errors carry a
// *session.Error.
func (c *Circuit) OpenUDP(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	e := c.exit
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if err := c.admit(UDP, dst); err != nil {
		return nil, err
	}
	network, local := "udp4", "0.0.0.0:0"
	if dst.Addr().Is6() {
		network, local = "udp6", "[::]:0"
	}
	l := net.ListenConfig{Control: e.cfg.Control}
	conn, err := l.ListenPacket(ctx, network, local)
	if err != nil {
		c.leave()
		e.counts.failed.Add(1)
		return nil, &session.Error{Code: CodeOf(err)}
	}
	u := &udpConn{
		UDPConn: conn.(*net.UDPConn), circuit: c, first: dst, strays: bucket{rate: strayRate, burst: 2 * strayRate},
		peers: map[netip.AddrPort]struct{}{dst: {}},
	}
	u.raw, _ = u.SyscallConn() // fails for a nil connection only
	_ = u.raw.Control(func(fd uintptr) {
		// package net allows broadcasts; one would reach the exit's own network, and
		// the exit.
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 0)
		wantErrors(int(fd), dst.Addr().Is6())
	})
	u.touch()
	e.udp.Lock()
	e.flows[u] = struct{}{}
	e.udp.Unlock()
	e.counts.opened.Add(1)
	return u, nil
}

func (u *udpConn) touch() { u.used.Store(time.Now().UnixNano()) }

// Send sends one datagram. One that the policy, a limit or the network does not
// take is lost, as datagrams may be; an error about the first peer, while there is
// no other, ends the flow.
func (u *udpConn) Send(p []byte, to netip.AddrPort) error {
	u.touch()
	if !u.knows(to) && !u.admit(to) {
		return nil
	}
	_, err := u.WriteToUDPAddrPort(p, to)
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.EMSGSIZE) {
		_, err = u.WriteToUDPAddrPort(p, to) // it was said about an earlier one, which Receive reads of; our own comes again
	}
	switch {
	case err == nil, errors.Is(err, syscall.EMSGSIZE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.EPERM), !u.alone(to):
		return nil
	}
	return streamError(err)
}

// Write sends to the first peer.
func (u *udpConn) Write(p []byte) (int, error) {
	if err := u.Send(p, u.first); err != nil {
		return 0, err
	}
	return len(p), nil
}

// knows tells whether a peer has been sent to.
func (u *udpConn) knows(peer netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.peers[peer]
	return ok
}

// alone tells whether peer is the one and only of the socket.
func (u *udpConn) alone(peer netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.other && peer == u.first
}

// admit asks policy and rates about a new peer.
func (u *udpConn) admit(peer netip.AddrPort) bool {
	e := u.circuit.exit
	if peer.Addr().Is4() != u.first.Addr().Is4() || e.cfg.Policy.Check(UDP, peer, e.own()) != nil {
		e.counts.forbidden.Add(1)
		return false
	}
	if !u.circuit.paced() {
		e.counts.limited.Add(1)
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.peers) >= maxPeers {
		clear(u.peers)
	}
	u.peers[peer], u.other = struct{}{}, true
	return true
}

// welcome tells whether a datagram of so many bytes from a peer that nothing was
// sent to may go to the client.
func (u *udpConn) welcome(peer netip.AddrPort, size int) bool {
	e := u.circuit.exit
	now := time.Now()
	for range 1 + size/strayUnit {
		if !u.strays.take(now) {
			return false
		}
	}
	return e.cfg.Policy.Check(UDP, peer, e.own()) == nil
}

// Receive calls take with each datagram, its sender and whether it was sent to until
// take or the socket fails. It holds a buffer only while there is something to read.
func (u *udpConn) Receive(take func(p []byte, from netip.AddrPort, asked bool) error) error {
	for {
		b, n, from, err := u.read()
		known := u.knows(from)
		if err == nil && (known || u.welcome(from, n)) {
			if known { // strangers do not keep a flow alive (RFC 4787 REQ-6)
				u.touch()
			}
			err = take(b[:n], from, known)
		}
		if b != nil {
			buffers.Put(b)
		}
		if err != nil {
			return streamError(err)
		}
	}
}

// read waits for a datagram; the buffer is the caller's. Errors about peers are
// lost but for those that end the flow.
func (u *udpConn) read() (b *buffer, n int, from netip.AddrPort, failure error) {
	err := u.raw.Read(func(fd uintptr) bool {
		for {
			b = buffers.Get().(*buffer)
			var name syscall.Sockaddr
			var err error
			n, name, err = syscall.Recvfrom(int(fd), b[:], 0)
			if err == nil {
				from = addrPortOf(name)
				return true
			}
			buffers.Put(b)
			b = nil
			failed := readFailures(int(fd))
			for _, f := range failed {
				if u.alone(f.to) && !errors.Is(f.err, syscall.EMSGSIZE) {
					failure = f.err
					return true
				}
			}
			if errors.Is(err, syscall.EAGAIN) {
				return false
			}
			if len(failed) == 0 && !passing(err) { // with an entry it is about a datagram, whoever says so
				failure = err
				return true
			}
		}
	})
	if err != nil {
		failure = err
	}
	return b, n, from, failure
}

// passing tells whether an error of a socket is about a datagram that was sent.
func passing(err error) bool {
	for _, e := range []error{
		syscall.EINTR, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN,
		syscall.EMSGSIZE, syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EACCES, syscall.EOPNOTSUPP,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func addrPortOf(name syscall.Sockaddr) netip.AddrPort {
	switch a := name.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// udpFailure is what became of a datagram.
type udpFailure struct {
	to  netip.AddrPort
	err error
}

// Close ends the socket; Receive returns.
func (u *udpConn) Close() error {
	u.once.Do(func() {
		e := u.circuit.exit
		e.udp.Lock()
		delete(e.flows, u)
		e.udp.Unlock()
		u.circuit.leave()
	})
	return u.UDPConn.Close()
}

// evict closes the UDP socket that has been silent for longest: one of the
// session's own; else any that has been silent for a while, of the session's neighbor
// if it is that one's limit, or at a full exit. False: there is none.
func (e *Exit) evict(c *Circuit) bool {
	var own, near, any *udpConn
	older := func(u, than *udpConn) bool { return than == nil || u.used.Load() < than.used.Load() }
	e.udp.Lock()
	for u := range e.flows {
		if u.circuit == c && older(u, own) {
			own = u
		}
		if u.circuit.near.Load() == c.near.Load() && older(u, near) {
			near = u
		}
		if older(u, any) {
			any = u
		}
	}
	e.udp.Unlock()
	victim := own
	if victim == nil {
		switch {
		case e.places.crowded(&c.places):
			victim = near
		case e.places.short(&c.places):
			victim = any
		}
		if victim == nil || time.Since(time.Unix(0, victim.used.Load())) < evictAfter {
			return false
		}
	}
	e.counts.evicted.Add(1)
	_ = victim.Close()
	return true
}

var _ session.Packets = (*udpConn)(nil)
