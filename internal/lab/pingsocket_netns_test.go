//go:build linux && netns

package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"cuttle/internal/lab/netns"
)

// pinger is a connected ICMP socket as ping(8) has them: of either sort, with errors
// from the socket's error queue.
type pinger struct {
	fd  int
	six bool
	raw bool
	id  uint16
}

const (
	pingTries = 40   // requests, of which any may be lost
	pingWait  = 1500 // milliseconds between them: a router answers one packet a second that it has no route for
)

// newPinger opens one in the calling thread's namespace.
func newPinger(dst netip.Addr, raw bool, id uint16) (*pinger, error) {
	p := &pinger{six: dst.Is6(), raw: raw, id: id}
	family, proto, level, option := unix.AF_INET, unix.IPPROTO_ICMP, unix.IPPROTO_IP, unix.IP_RECVERR
	sa := unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(dst.AsSlice()[:4])})
	if p.six {
		family, proto, level, option = unix.AF_INET6, unix.IPPROTO_ICMPV6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR
		sa = &unix.SockaddrInet6{Addr: dst.As16()}
	}
	sort := unix.SOCK_DGRAM
	if raw {
		sort = unix.SOCK_RAW
	}
	var err error
	if p.fd, err = unix.Socket(family, sort|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err = errors.Join(unix.SetsockoptInt(p.fd, level, option, 1), unix.Connect(p.fd, sa)); err != nil {
		_ = unix.Close(p.fd)
		return nil, err
	}
	return p, nil
}

// ask sends requests from a sequence number on until there is a reply to one, of which
// it gives the data, or an ICMP error about one, of which it gives type and code.
func (p *pinger) ask(first int, data []byte) (reply []byte, kind, code byte, err error) {
	for n := range pingTries {
		request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(p.id), Seq: first + n, Data: data}}
		if p.six {
			request.Type = ipv6.ICMPTypeEchoRequest
		}
		b, err := request.Marshal(nil)
		if err != nil {
			return nil, 0, 0, err
		}
		_ = unix.Send(p.fd, b, 0) // an error is about an earlier one, and on the queue
		for deadline := time.Now().Add(pingWait * time.Millisecond); time.Now().Before(deadline); {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, pingWait); err != nil && !errors.Is(err, unix.EINTR) {
				return nil, 0, 0, err
			}
			if kind, code, ok := p.failure(first); ok {
				return nil, kind, code, nil
			}
			if reply, ok := p.reply(first); ok {
				return reply, 0, 0, nil
			}
		}
	}
	return nil, 0, 0, errors.New("neither a reply nor an error came")
}

// failure takes an error from the queue, and tells whether it is about one of the requests.
func (p *pinger) failure(first int) (kind, code byte, ok bool) {
	var head [8]byte
	var control [512]byte
	n, k, _, _, err := unix.Recvmsg(p.fd, head[:], control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil || n < len(head) || int(binary.BigEndian.Uint16(head[6:])) < first {
		return 0, 0, false
	}
	messages, err := unix.ParseSocketControlMessage(control[:k])
	if err != nil {
		return 0, 0, false
	}
	for _, m := range messages {
		if len(m.Data) >= 8 && (m.Data[4] == unix.SO_EE_ORIGIN_ICMP || m.Data[4] == unix.SO_EE_ORIGIN_ICMP6) {
			return m.Data[5], m.Data[6], true
		}
	}
	return 0, 0, false
}

// reply takes a message, and tells whether it is the reply to one of the requests.
func (p *pinger) reply(first int) ([]byte, bool) {
	var b [4096]byte
	n, err := unix.Read(p.fd, b[:])
	if err != nil {
		return nil, false
	}
	m, proto, want := b[:n], 1, icmp.Type(ipv4.ICMPTypeEchoReply)
	if p.six {
		proto, want = 58, ipv6.ICMPTypeEchoReply
	} else if p.raw && n > 20 {
		m = m[int(m[0]&15)*4:]
	}
	parsed, err := icmp.ParseMessage(proto, m)
	if err != nil || parsed.Type != want {
		return nil, false
	}
	echo, ok := parsed.Body.(*icmp.Echo)
	if !ok || echo.Seq < first || p.raw && echo.ID != int(p.id) {
		return nil, false
	}
	return echo.Data, true
}

// TestPingSockets: programs' sockets of both sorts get replies and, on their error
// queues, what became of requests, through exits with sockets of both sorts.
func TestPingSockets(t *testing.T) {
	l := up(t, options(t))
	client, exit := l.namespaceOf(t, "client"), l.namespaceOf(t, "n4")
	const group = "net/ipv4/ping_group_range"
	// Linux takes from one account for "no route" and for the answer that says so: with
	// both limits in force, one request a second is never answered.
	err := errors.Join(netns.Sysctl(client, group, "0 2147483647"),
		netns.Sysctl(l.plan.Router, "net/ipv4/icmp_ratelimit", "0"), netns.Sysctl(l.plan.Router, "net/ipv6/icmp/ratelimit", "0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct{ name, groups string }{{"raw sockets at the exit", "1 0"}, {"datagram sockets at the exit", "0 2147483647"}} {
		if err := netns.Sysctl(exit, group, at.groups); err != nil {
			t.Fatal(err)
		}
		for number, tt := range []struct {
			name       string
			dst        netip.Addr
			kind, code byte // of the error; 0: a reply
		}{
			{"IPv4", webV4, 0, 0},
			{"IPv6", webV6, 0, 0},
			{"IPv4 unreachable", unreachV4A, 3, 1},
			{"IPv6 unreachable", unreachV6A, 1, 0}, // so Linux answers for a route that is unreachable
			{"private IPv4", netip.MustParseAddr("10.55.0.1"), 3, 13},
			{"private IPv6", netip.MustParseAddr("fd55::1"), 1, 1},
		} {
			for _, raw := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/raw %v", at.name, tt.name, raw), func(t *testing.T) {
					var p *pinger
					err := netns.Do(client, func() (err error) {
						id := uint16(1000 + 10*len(at.groups) + number) // of a raw one: a flow of its own
						p, err = newPinger(tt.dst, raw, id)
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
					defer unix.Close(p.fd)
					data := bytes.Repeat([]byte("ping"), 14)
					for _, first := range []int{1, 1001} {
						reply, kind, code, err := p.ask(first, data)
						if err != nil {
							t.Fatalf("from request %d on: %v", first, err)
						}
						if kind != tt.kind || code != tt.code || tt.kind == 0 && !bytes.Equal(reply, data) {
							t.Errorf("from request %d on: %d bytes, type %d code %d; want type %d code %d", first, len(reply), kind, code, tt.kind, tt.code)
						}
					}
				})
			}
		}
	}
}
