//go:build linux

package exit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"cuttle/relay/wire"
)

// heardConn is a connection on which a resolver says all at once and hangs up; it
// comes in pieces.
type heardConn struct {
	net.Conn
	left   []byte
	piece  int
	closed int
}

func (c *heardConn) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.piece)], c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *heardConn) SetReadDeadline(time.Time) error { return nil }

func (c *heardConn) Close() error { c.closed++; return nil }

// framed puts messages behind their lengths (RFC 1035 section 4.2.2).
func framed(messages ...[]byte) (out []byte) {
	for _, m := range messages {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(m))), m...)
	}
	return out
}

// unframed takes whole messages from a stream; left is what is no whole one.
func unframed(stream []byte) (messages [][]byte, left []byte) {
	for len(stream) >= 2 {
		n := int(stream[0])<<8 | int(stream[1])
		if len(stream) < 2+n {
			break
		}
		messages, stream = append(messages, stream[2:2+n]), stream[2+n:]
	}
	return messages, stream
}

// withID is a message with another identifier.
func withID(id uint16, m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), m[2:]...)
}

// FuzzLine: whatever a resolver says and in whatever pieces, everybody who waits gets
// the first whole message that answers the question and nothing else, and the line
// ends at the first that nobody can have asked for, with nothing after it read.
func FuzzLine(f *testing.F) {
	one := new(dns.Msg).SetQuestion("web.lab.", dns.TypeA)
	two := new(dns.Msg).SetQuestion("mail.lab.", dns.TypeMX)
	query := map[uint16][]byte{1: withID(1, packed(f, one)), 2: withID(2, packed(f, two)), 0xffff: withID(0xffff, packed(f, one))}
	first, second := withID(1, packed(f, new(dns.Msg).SetReply(one))), withID(2, packed(f, new(dns.Msg).SetReply(two)))
	short := first[:headerSize-1]
	for _, stream := range [][]byte{
		{}, {0}, {0, 0}, {0, 1, 0}, {0xff, 0xff, 1},
		framed(first), framed(second, first), framed(first, append(bytes.Clone(first), 0), second), framed(withID(0xffff, first), second),
		framed(first)[:20], framed(first, second)[:len(first)+3],
		framed(withID(7, first), first),  // of a question that was given up
		framed(query[1], first),          // a query
		framed(withID(7, query[1])),      // one that nobody asked
		framed(withID(1, second), first), // of another question
		framed(first, short, second), framed(short), framed(second, nil, first),
		framed(append(bytes.Clone(first), make([]byte, 3000)...), second),
	} {
		f.Add(stream, byte(0))
		f.Add(stream, byte(200))
	}
	f.Fuzz(func(t *testing.T, stream []byte, piece byte) {
		c := &heardConn{left: bytes.Clone(stream), piece: 1 + int(piece)}
		l := &line{conn: c, waiting: make(map[uint16]*asked), dead: make(chan struct{})}
		for id, q := range query {
			l.waiting[id] = &asked{query: q, answer: make(chan []byte, 1)}
		}
		l.read()

		want := make(map[uint16][]byte)
		messages, left := unframed(stream)
		refused, heard := false, uint64(0)
		for n, m := range messages {
			if len(m) < 12 {
				refused = true
			} else {
				id := binary.BigEndian.Uint16(m)
				q := query[id]
				heard++
				refused = m[2]&0x80 == 0 || q != nil && !answers(q, m)
				if q != nil && !refused && want[id] == nil {
					want[id] = m
				}
			}
			if refused {
				left = framed(messages[n+1:]...)
				left = append(left, stream[len(framed(messages...)):]...)
				break
			}
		}
		for id := range query {
			var got []byte
			select {
			case got = <-l.waiting[id].answer:
			default:
			}
			if !bytes.Equal(got, want[id]) || (got == nil) != (want[id] == nil) {
				t.Errorf("question %d got %x, want %x", id, got, want[id])
			}
		}
		switch {
		case refused != errors.Is(l.err, errReply):
			t.Errorf("the line ended with %v, want it refused: %v", l.err, refused)
		case refused && !bytes.Equal(c.left, left):
			t.Errorf("%d bytes are left unread, want %d", len(c.left), len(left))
		case !refused && (len(c.left) != 0 || (l.err == io.EOF) != (len(left) == 0 || len(left) == 2)): //nolint:errorlint // as io.ReadFull gives it
			t.Errorf("%d bytes are left unread at the end, which is %v", len(c.left), l.err)
		}
		if l.heard != heard || l.alive() || c.closed != 1 {
			t.Errorf("heard %d, alive: %v, closed %d times; want %d, dead and closed once", l.heard, l.alive(), c.closed, heard)
		}
	})
}

// saidConn is a connection to a resolver that answers each query with itself,
// marked as a response, behind a message that is meant for nobody.
type saidConn struct {
	net.Conn
	said  []byte        // all that was written
	heard chan struct{} // closed when there is an answer
	in    heardConn
}

func (c *saidConn) Write(p []byte) (int, error) {
	c.said = append(c.said, p...)
	messages, _ := unframed(p)
	for _, m := range messages {
		if len(m) < headerSize {
			continue
		}
		m = bytes.Clone(m)
		m[2] |= 0x80
		c.in.left = append(c.in.left, framed(withID(^binary.BigEndian.Uint16(m), m), m)...)
	}
	close(c.heard)
	return len(p), nil
}

func (c *saidConn) Read(p []byte) (int, error) {
	<-c.heard
	return c.in.Read(p)
}

func (c *saidConn) SetReadDeadline(time.Time) error  { return nil }
func (c *saidConn) SetWriteDeadline(time.Time) error { return nil }
func (c *saidConn) Close() error                     { return nil }

// FuzzLineAsk: a query is written as one message, whole and with nothing changed but
// its identifier, and the answer comes back as it is.
func FuzzLineAsk(f *testing.F) {
	for _, q := range [][]byte{
		ask(f, "web.lab.", dns.TypeA), ask(f, ".", dns.TypeNS), append(ask(f, "web.lab.", dns.TypeTXT), make([]byte, 500)...),
		append(ask(f, "web.lab.", dns.TypeA), make([]byte, 65535-25)...),
	} {
		f.Add(q, byte(0))
		f.Add(q, byte(255))
	}
	f.Fuzz(func(t *testing.T, query []byte, piece byte) {
		if code, err := refusal(query); code != 0 || err != nil || len(query) > 65535 {
			return // not asked
		}
		before := bytes.Clone(query)
		c := &saidConn{heard: make(chan struct{}), in: heardConn{piece: 1 + int(piece)}}
		l := &line{conn: c, waiting: make(map[uint16]*asked), dead: make(chan struct{})}
		done := make(chan struct{})
		go func() { defer close(done); l.read() }() // ends with what the resolver says
		answer, err := l.ask(t.Context(), query)
		<-done
		if err != nil {
			t.Fatalf("ask: %v", err)
		}
		if !bytes.Equal(query, before) {
			t.Error("the caller's query is changed")
		}
		messages, left := unframed(c.said)
		if len(messages) != 1 || len(left) != 0 || !bytes.Equal(messages[0][2:], query[2:]) {
			t.Fatalf("%d bytes written: %d messages and %d bytes, or it is another query", len(c.said), len(messages), len(left))
		}
		want := bytes.Clone(messages[0])
		if want[2] |= 0x80; !bytes.Equal(answer, want) {
			t.Errorf("got %d bytes, want the answer of %d", len(answer), len(want))
		}
		if len(l.waiting) != 0 {
			t.Errorf("%d queries wait when all are answered", len(l.waiting))
		}
	})
}

// FuzzEchoReply: what is taken for a reply is an ICMP echo reply (RFC 792, RFC 4443)
// of this flow with no more data than fits, behind an IPv4 header or not, and what is
// told of it is what it says. Everything that is built as one is taken.
func FuzzEchoReply(f *testing.F) {
	ok4 := []byte{0, 0, 0, 0, 0, 7, 0x12, 0x34, 'd'}
	header := append([]byte{0x45}, make([]byte, 19)...)
	options := append([]byte{0x46}, make([]byte, 23)...)
	for _, b := range [][]byte{
		nil, {0}, ok4, ok4[:8], ok4[:7], ok4[:4], {8, 0, 0, 0, 0, 7, 0, 1}, {3, 0, 0, 0, 0, 7, 0, 1}, {129, 0, 0, 0, 0, 7, 0x12, 0x34, 'd'}, {128, 0, 0, 0, 0, 7, 0, 1},
		append(bytes.Clone(header), ok4...), append(bytes.Clone(options), ok4...), header, append([]byte{0x4f}, header...), append([]byte{0x41}, header[1:]...),
		append(ok4[:8:8], make([]byte, wire.MaxEcho)...), append(ok4[:8:8], make([]byte, wire.MaxEcho+1)...),
	} {
		for choose := range byte(4) {
			f.Add(b, uint16(7), choose)
		}
		f.Add(b, uint16(8), byte(0))
		f.Add(b, uint16(8), byte(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, id uint16, choose byte) {
		x := &echoConn{six: choose&1 != 0, check: choose&2 != 0, id: int(id)}
		m, kind := b, byte(0)
		if x.six {
			kind = 129
		} else if len(b) >= 20 && b[0]>>4 == 4 {
			if n := 4 * int(b[0]&15); n >= 20 && n <= len(b) {
				m = b[n:]
			}
		}
		want := len(m) >= 8 && len(m) <= 8+wire.MaxEcho && m[0] == kind && (!x.check || binary.BigEndian.Uint16(m[4:]) == id)
		before := bytes.Clone(b)
		sequence, data, ok := x.reply(b)
		if ok != want || !bytes.Equal(b, before) {
			t.Fatalf("%x (six: %v, of flow %d: %v) is taken for a reply: %v, want %v", b, x.six, id, x.check, ok, want)
		}
		if ok && (sequence != binary.BigEndian.Uint16(m[6:]) || !bytes.Equal(data, m[8:])) {
			t.Fatalf("%x is reply %d with %x", b, sequence, data)
		}
		if ok { // no such datagram is refused on the way to the client
			status, s, d, err := wire.ParseEcho(wire.AppendEcho(nil, wire.EchoData, sequence, data))
			if err != nil || status != wire.EchoData || s != sequence || !bytes.Equal(d, data) {
				t.Fatalf("reply %d with %x cannot be told: %v", sequence, data, err)
			}
		}

		if len(b) > wire.MaxEcho {
			return
		}
		made := icmp.Message{Type: ipv4.ICMPTypeEchoReply, Body: &icmp.Echo{ID: int(id), Seq: len(b), Data: b}}
		var front []byte
		if x.six {
			made.Type = ipv6.ICMPTypeEchoReply
		} else if n := int(choose >> 4); n >= 5 { // as a raw socket shows it
			front = append([]byte{0x40 | byte(n)}, make([]byte, 4*n-1)...)
		}
		whole, err := made.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		sequence, data, ok = x.reply(append(front, whole...))
		if !ok || int(sequence) != len(b) || !bytes.Equal(data, b) {
			t.Fatalf("reply %d with %x behind %d bytes comes out as %d with %x, %v", len(b), b, len(front), sequence, data, ok)
		}
		x.check, x.id = true, int(id)+1
		if _, _, ok := x.reply(append(front, whole...)); ok {
			t.Fatalf("a reply to flow %d is taken for one to flow %d", id, x.id)
		}
	})
}

// control makes a control message (cmsg(3)) with its padding.
func control(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	at := 8
	if unix.SizeofCmsghdr == 16 {
		binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(unix.CmsgLen(len(data))))
		at = 4
	}
	binary.NativeEndian.PutUint32(b[at:], uint32(level))
	binary.NativeEndian.PutUint32(b[at+4:], uint32(kind))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// FuzzExtendedErrors: the errors found are those among well-formed control messages,
// all of them, in order and whole, and nothing outside the control message itself
// is read, whatever stands there. b is what the kernel might say, and as data of two
// messages what it does say.
func FuzzExtendedErrors(f *testing.F) {
	ee := func(errno unix.Errno, origin, kind, code byte) []byte {
		return append(binary.NativeEndian.AppendUint32(nil, uint32(errno)), origin, kind, code, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	for _, b := range [][]byte{
		nil, make([]byte, 7), make([]byte, 8), make([]byte, 16), bytes.Repeat([]byte{0xff}, 64),
		ee(unix.ECONNREFUSED, unix.SO_EE_ORIGIN_ICMP, 3, 3), ee(unix.EHOSTUNREACH, unix.SO_EE_ORIGIN_ICMP, 11, 0),
		ee(unix.EHOSTUNREACH, unix.SO_EE_ORIGIN_ICMP, 3, 13), ee(unix.EACCES, unix.SO_EE_ORIGIN_ICMP6, 1, 1),
		ee(unix.EHOSTUNREACH, unix.SO_EE_ORIGIN_ICMP6, 3, 0), ee(unix.EMSGSIZE, unix.SO_EE_ORIGIN_LOCAL, 0, 0), ee(unix.ENETUNREACH, unix.SO_EE_ORIGIN_ICMP, 3, 0),
	} {
		for _, choose := range []byte{0, 0x0a, 0x0c, 0xfa, 0x80, 0x81} {
			f.Add(b, choose)
		}
		f.Add(control(unix.IPPROTO_IP, unix.IP_RECVERR, b), byte(3))
		f.Add(control(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, b), byte(17))
		f.Add(append(control(unix.IPPROTO_IP, unix.IP_TTL, b), control(unix.IPPROTO_IP, unix.IP_RECVERR, b)...), byte(255))
	}
	f.Fuzz(func(t *testing.T, b []byte, choose byte) {
		before := bytes.Clone(b)
		for _, e := range extendedErrors(b) {
			if len(e) < 8 || !bytes.Contains(b, e) {
				t.Fatalf("%x has the error %x", b, e)
			}
		}
		status, ok := errorStatus(b)
		if _, found := errorNumber(b); ok && !found {
			t.Fatalf("%x tells %v without an error", b, status)
		}
		if ok != (status != wire.EchoData) || ok && status != wire.EchoHostUnreachable && status != wire.EchoNetUnreachable &&
			status != wire.EchoForbidden && status != wire.EchoTimeExceeded {
			t.Fatalf("%x tells %v, %v", b, status, ok)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("the control message is changed")
		}

		var whole []byte
		var want [][]byte
		cut := len(b) * int(choose>>4) / 15
		for n, data := range [][]byte{b[:cut], b[cut:]} {
			level, kind := int32(unix.IPPROTO_IP), int32(unix.IP_RECVERR)
			if choose&1 != 0 {
				level, kind = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
			}
			other := choose>>1&3 == byte(n)+1 // not an error
			if other {
				kind = unix.IP_TTL
				if choose&8 != 0 {
					level, kind = unix.SOL_SOCKET, unix.IP_RECVERR
				}
			}
			whole = append(whole, control(level, kind, data)...)
			if !other && len(data) >= 8 {
				want = append(want, data)
			}
		}
		got := extendedErrors(whole)
		if len(got) != len(want) {
			t.Fatalf("%x has %d errors, want %d", whole, len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("%x: error %d is %x, want %x", whole, i, got[i], want[i])
			}
		}
		errno, found := errorNumber(whole)
		if found != (len(want) > 0) || found && uint32(errno) != binary.NativeEndian.Uint32(want[0]) {
			t.Fatalf("%x: errno %d, %v", whole, errno, found)
		}
	})
}

// TestErrorStatus: what an error about an echo request becomes (RFC 792, RFC 1812,
// RFC 4443), from the first error that says something.
func TestErrorStatus(t *testing.T) {
	ee := func(errno unix.Errno, origin, kind, code byte) []byte {
		return append(binary.NativeEndian.AppendUint32(nil, uint32(errno)), origin, kind, code, 0)
	}
	const icmp4, icmp6, local = unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6, unix.SO_EE_ORIGIN_LOCAL
	for _, tc := range []struct {
		name   string
		errors [][]byte
		want   wire.EchoStatus // EchoData: none
	}{
		{"time exceeded", [][]byte{ee(unix.EHOSTUNREACH, icmp4, 11, 0)}, wire.EchoTimeExceeded},
		{"time exceeded, IPv6", [][]byte{ee(unix.EHOSTUNREACH, icmp6, 3, 0)}, wire.EchoTimeExceeded},
		{"prohibited net", [][]byte{ee(unix.ENETUNREACH, icmp4, 3, 9)}, wire.EchoForbidden},
		{"prohibited host", [][]byte{ee(unix.EHOSTUNREACH, icmp4, 3, 10)}, wire.EchoForbidden},
		{"prohibited", [][]byte{ee(unix.EHOSTUNREACH, icmp4, 3, 13)}, wire.EchoForbidden},
		{"prohibited, IPv6", [][]byte{ee(unix.EACCES, icmp6, 1, 1)}, wire.EchoForbidden},
		{"rejected route, IPv6", [][]byte{ee(unix.EACCES, icmp6, 1, 6)}, wire.EchoForbidden},
		{"net", [][]byte{ee(unix.ENETUNREACH, icmp4, 3, 0)}, wire.EchoNetUnreachable},
		{"no route, IPv6", [][]byte{ee(unix.ENETUNREACH, icmp6, 1, 0)}, wire.EchoNetUnreachable},
		{"host", [][]byte{ee(unix.EHOSTUNREACH, icmp4, 3, 1)}, wire.EchoHostUnreachable},
		{"port", [][]byte{ee(unix.ECONNREFUSED, icmp4, 3, 3)}, wire.EchoHostUnreachable},
		{"own firewall", [][]byte{ee(unix.EPERM, local, 0, 0)}, wire.EchoForbidden},
		{"type 11 of this machine", [][]byte{ee(unix.ENETUNREACH, local, 11, 0)}, wire.EchoNetUnreachable},
		{"too long", [][]byte{ee(unix.EMSGSIZE, local, 0, 0)}, wire.EchoData},
		{"too long, then host", [][]byte{ee(unix.EMSGSIZE, local, 0, 0), ee(unix.EHOSTUNREACH, icmp4, 3, 1)}, wire.EchoHostUnreachable},
		{"short", [][]byte{ee(unix.EHOSTUNREACH, icmp4, 3, 1)[:7]}, wire.EchoData},
		{"none", nil, wire.EchoData},
	} {
		var b []byte
		for _, e := range tc.errors {
			b = append(b, control(unix.IPPROTO_IP, unix.IP_RECVERR, e)...)
		}
		if got, ok := errorStatus(b); got != tc.want || ok != (tc.want != wire.EchoData) {
			t.Errorf("%s: got %v, %v; want %v", tc.name, got, ok, tc.want)
		}
	}
}

// FuzzResolverAddress: an address with or without a port is one resolver's, as the
// standard library reads it, never with port 0 or a zone.
func FuzzResolverAddress(f *testing.F) {
	for _, s := range []string{"9.9.9.9", "9.9.9.9:53", "9.9.9.9:0", "[2620:fe::fe]", "[2620:fe::fe]:53", "2620:fe::fe", "fe80::1%eth0", "[fe80::1%eth0]:53",
		"::ffff:9.9.9.9", "[::ffff:9.9.9.9]:5353", "[9.9.9.9]", "[9.9.9.9", "9.9.9.9:65536", "", "[]", "1:2:3:4:5:6:7:8:53"} {
		f.Add(s, uint16(853))
	}
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		port = max(port, 1)
		got, err := addrPort(text, port)
		if err != nil {
			if got.IsValid() {
				t.Fatalf("%q: %v beside the error", text, got)
			}
			if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
				t.Fatalf("the address %q is refused", text)
			}
			return
		}
		if !got.IsValid() || got.Port() == 0 || got.Addr().Zone() != "" || got.Addr().Is4In6() {
			t.Fatalf("%q is read as %v", text, got)
		}
		if again, err := addrPort(got.String(), 1); err != nil || again != got {
			t.Fatalf("%q is %v, which is read as %v, %v", text, got, again, err)
		}
		if a, err := netip.ParseAddr(text); err == nil && got != netip.AddrPortFrom(a.Unmap(), port) {
			t.Fatalf("the address %q is read as %v", text, got)
		}
	})
}
