package exit

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

const (
	echoRate   = 200  // echo requests per second of one circuit, and twice as many at once; more are dropped
	echoBuffer = 2048 // bytes: an echo of wire.MaxEcho with its headers
	maxPending = 16   // errors taken from the system at a time
)

// echoConn sends ICMP echo requests to one host from a socket of its own, whose
// identifier no other flow has. It is a net.Conn of which a Read or Write is a
// datagram of wire.AppendEcho.
type echoConn struct {
	net.Conn // the socket, connected
	raw      syscall.RawConn
	circuit  *Circuit
	host     netip.Addr
	six      bool
	id       int
	check    bool // replies to others come here, too; then id is one of Exit.echoes
	once     sync.Once
}

// OpenEcho makes a socket for echo requests to dst: an unprivileged one (ICMP
// datagram socket) where the system has them, else a raw one. Errors carry a
// *session.Error.
func (c *Circuit) OpenEcho(_ context.Context, dst netip.Addr) (net.Conn, error) {
	e := c.exit
	dst = dst.Unmap()
	if err := c.admit(ICMP, netip.AddrPortFrom(dst, 0)); err != nil {
		return nil, err
	}
	conn, raw, err := e.echoSocket(dst)
	if err != nil {
		c.leave()
		e.counts.failed.Add(1)
		return nil, &session.Error{Code: CodeOf(err)}
	}
	x := &echoConn{Conn: conn, circuit: c, host: dst, six: dst.Is6()}
	if raw || runtime.GOOS != "linux" { // else the system chooses the identifier
		id, ok := e.echoes.take(dst)
		if !ok {
			_ = x.Close()
			e.counts.limited.Add(1)
			return nil, errLimit
		}
		x.id, x.check = int(id), true
	}
	if x.raw, err = conn.(syscall.Conn).SyscallConn(); err != nil {
		_ = x.Close()
		return nil, &session.Error{Code: CodeOf(err)}
	}
	e.counts.opened.Add(1)
	return x, nil
}

// echoSocket opens and connects a socket; raw tells which sort it is.
func (e *Exit) echoSocket(dst netip.Addr) (conn net.Conn, raw bool, err error) {
	conn, err = e.icmpSocket(syscall.SOCK_DGRAM, dst)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EPROTONOSUPPORT) {
		conn, err = e.icmpSocket(syscall.SOCK_RAW, dst)
		return conn, true, err
	}
	return conn, false, err
}

func (e *Exit) icmpSocket(kind int, dst netip.Addr) (net.Conn, error) {
	family, proto, network := syscall.AF_INET, 1, "ip4:icmp"
	var to syscall.Sockaddr
	if dst.Is6() {
		family, proto, network = syscall.AF_INET6, 58, "ip6:ipv6-icmp"
		to = &syscall.SockaddrInet6{Addr: dst.As16()}
	} else {
		to = &syscall.SockaddrInet4{Addr: dst.As4()}
	}
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(family, kind, proto)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "icmp")
	defer f.Close() // FileConn has a copy
	wantErrors(fd, dst.Is6())
	if e.cfg.Control != nil {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := e.cfg.Control(network, dst.String(), raw); err != nil {
			return nil, err
		}
	}
	if err := syscall.Connect(fd, to); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}

// Write sends one echo request. One over the rate, or that the network does not
// take, is lost.
func (x *echoConn) Write(p []byte) (int, error) {
	status, sequence, data, err := wire.ParseEcho(p)
	if err != nil || status != wire.EchoData {
		return 0, errForbidden
	}
	if now := time.Now(); !x.circuit.echo.take(now) || !x.circuit.near.Load().echo.take(now) {
		x.circuit.exit.counts.limited.Add(1)
		return len(p), nil
	}
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: x.id, Seq: int(sequence), Data: data}}
	if x.six {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil) // the system adds ICMPv6's checksum
	if err != nil {
		return 0, errForbidden
	}
	if _, err := x.Conn.Write(b); err != nil && errors.Is(err, net.ErrClosed) {
		return 0, streamError(err)
	}
	return len(p), nil // what the system says about it comes with Read
}

// Read takes one reply or error.
func (x *echoConn) Read(p []byte) (int, error) {
	var out []byte
	_, err := x.receive(func(b []byte) error { out = append(out, b...); return io.EOF })
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	return copy(p, out), nil
}

// WriteTo passes each reply and each error to w, until the socket fails.
func (x *echoConn) WriteTo(w io.Writer) (total int64, err error) {
	return x.receive(func(b []byte) error {
		n, err := w.Write(b)
		total += int64(n)
		return err
	})
}

// receive calls take with what comes until take or the socket fails.
func (x *echoConn) receive(take func([]byte) error) (int64, error) {
	var in [echoBuffer]byte
	out := make([]byte, 0, echoBuffer)
	for broken := 0; broken < maxPending; { // errors are about a request each; many in a row are about the socket
		var n int
		var readErr error
		var failed []echoFailure
		err := x.raw.Read(func(fd uintptr) bool {
			n, readErr = syscall.Read(int(fd), in[:])
			failed = readErrors(int(fd))
			return readErr == nil || len(failed) > 0 || !errors.Is(readErr, syscall.EAGAIN)
		})
		if err != nil {
			return 0, streamError(err)
		}
		if len(failed) > 0 {
			broken = -1 // the socket works
		}
		for _, f := range failed {
			if x.check && f.id != x.id {
				continue
			}
			out = wire.AppendEcho(out[:0], f.status, f.sequence, nil)
			if err := take(out); err != nil {
				return 0, err
			}
		}
		if readErr != nil { // told by failed, or of no flow of ours
			if !errors.Is(readErr, syscall.EAGAIN) {
				broken++
			}
			continue
		}
		broken = 0
		if sequence, data, ok := x.reply(in[:n]); ok {
			out = wire.AppendEcho(out[:0], wire.EchoData, sequence, data)
			if err := take(out); err != nil {
				return 0, err
			}
		}
	}
	return 0, &session.Error{Code: wire.CodeHostUnreachable}
}

// reply reads an echo reply to this flow.
func (x *echoConn) reply(b []byte) (sequence uint16, data []byte, ok bool) {
	proto, kind := 1, icmp.Type(ipv4.ICMPTypeEchoReply)
	if x.six {
		proto, kind = 58, ipv6.ICMPTypeEchoReply
	} else if len(b) >= 20 && b[0]>>4 == 4 { // raw sockets show the IPv4 header
		if n := int(b[0]&0xf) * 4; n >= 20 && n <= len(b) {
			b = b[n:]
		}
	}
	m, err := icmp.ParseMessage(proto, b)
	if err != nil || m.Type != kind {
		return 0, nil, false
	}
	echo, isEcho := m.Body.(*icmp.Echo)
	if !isEcho || x.check && echo.ID != x.id || len(echo.Data) > wire.MaxEcho {
		return 0, nil, false
	}
	return uint16(echo.Seq), echo.Data, true
}

// Close ends the socket; calls of Read and WriteTo return.
func (x *echoConn) Close() error {
	err := x.Conn.Close()
	x.once.Do(func() {
		if x.check {
			x.circuit.exit.echoes.give(x.host, uint16(x.id))
		}
		x.circuit.leave()
	})
	return err
}

// echoFailure is an ICMP error about a request.
type echoFailure struct {
	id       int
	sequence uint16
	status   wire.EchoStatus
}
