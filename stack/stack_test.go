package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"cuttle/tun"
)

func TestTCPHalfClose(t *testing.T) {
	server := listen(t, func(c *net.TCPConn) { // answers after the end of the request
		request, err := io.ReadAll(c)
		if err == nil {
			_, _ = fmt.Fprintf(c, "%d", len(request))
		}
	})
	p := newPrograms(t, &direct{rewrite: to(server)}, Config{})
	for _, addr := range []netip.Addr{far4, far6} {
		c, err := p.dialTCP(t, netip.AddrPortFrom(addr, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		const size = 3 << 20
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != fmt.Sprint(size) {
			t.Fatalf("answer over %v is %q (%v), want %d", addr.BitLen(), got, err, size)
		}
	}
	if !eventually(20*time.Second, func() bool { return p.stack.Stats().TCPFlows == 0 }) {
		t.Fatalf("%d TCP flows are left, want none", p.stack.Stats().TCPFlows)
	}
}

// TestTCPFarEndsFirst lets the server end its direction first.
func TestTCPFarEndsFirst(t *testing.T) {
	got := make(chan string, 1)
	server := listen(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "hello")
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	p := newPrograms(t, &direct{rewrite: to(server)}, Config{})
	c, err := p.dialTCP(t, netip.AddrPortFrom(far4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Fatalf("read %q (%v), want hello", b, err)
	}
	if _, err := io.WriteString(c, "bye"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "bye" {
		t.Fatalf("server got %q after its end, want bye", s)
	}
}

// TestTCPResetByFarEnd: a program whose server resets the connection gets ECONNRESET.
func TestTCPResetByFarEnd(t *testing.T) {
	server := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0) // close sends a reset
	})
	p := newPrograms(t, &direct{rewrite: to(server)}, Config{})
	c, err := p.dialTCP(t, netip.AddrPortFrom(far4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Err.Error() != (&tcpip.ErrConnectionReset{}).String() { // what gVisor calls ECONNRESET
		t.Fatalf("read after a reset by the far end: %v, want a reset", err)
	}
}

// TestTCPResetByProgram: a server whose program resets the connection gets ECONNRESET.
func TestTCPResetByProgram(t *testing.T) {
	ended := make(chan error, 1)
	server := listen(t, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	p := newPrograms(t, &direct{rewrite: to(server)}, Config{})
	c, err := p.dialTCP(t, netip.AddrPortFrom(far4, 80))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	for _, e := range p.net.RegisteredEndpoints() { // the program's only endpoint
		e.Abort()
	}
	if err := <-ended; !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("server saw %v, want a reset", err)
	}
	_ = c.Close()
}

func TestTCPRefusals(t *testing.T) {
	address := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, last}) }
	address6 := func(last byte) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: last})
	}
	d := &direct{failures: map[netip.Addr]error{}}
	tests := []struct {
		err  error
		want string // gVisor's word for it; it ignores ICMPv6 address unreachable
	}{
		{ErrRefused, "connection was refused"},
		{ErrHostUnreachable, "no route to host"},
		{ErrTimeout, "no route to host"},
		{ErrNetUnreachable, "network is unreachable"},
		{errors.New("circuit has gone"), "connection was refused"},
	}
	for i, test := range tests {
		d.failures[address(byte(i+1))], d.failures[address6(byte(i+1))] = test.err, test.err
	}
	p := newPrograms(t, d, Config{})
	for i, test := range tests {
		addresses := []netip.Addr{address(byte(i + 1)), address6(byte(i + 1))}
		if test.want == "no route to host" {
			addresses = addresses[:1]
		}
		for _, a := range addresses {
			c, err := p.dialTCP(t, netip.AddrPortFrom(a, 80))
			if err == nil {
				_ = c.Close()
				t.Fatalf("%v: connected to IPv%d, want %q", test.err, len(a.AsSlice())/4+2, test.want)
			}
			var op *net.OpError
			if !errors.As(err, &op) || op.Err.Error() != test.want {
				t.Errorf("%v: program sees %v, want %q", test.err, err, test.want)
			}
		}
	}
	p.stack.syns.mu.Lock()
	defer p.stack.syns.mu.Unlock()
	if n := len(p.stack.syns.headers); n != 0 {
		t.Errorf("%d SYNs are remembered after all were answered, want none", n)
	}
}

func TestTCPFlowLimit(t *testing.T) {
	server := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	p := newPrograms(t, &direct{rewrite: to(server)}, Config{MaxTCP: 1})
	c, err := p.dialTCP(t, netip.AddrPortFrom(far4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if second, err := p.dialTCP(t, netip.AddrPortFrom(far4, 80)); err == nil {
		_ = second.Close()
		t.Fatal("a second flow was accepted over a limit of one")
	}
}

// echoUDP answers every datagram with itself.
func echoUDP(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ends when c is closed
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	})
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestUDPEcho(t *testing.T) {
	p := newPrograms(t, &direct{rewrite: to(echoUDP(t))}, Config{})
	for _, addr := range []netip.Addr{far4, far6} {
		c := p.dialUDP(t, netip.AddrPortFrom(addr, 7))
		for _, size := range []int{1, 1400, 9000, 60000} { // larger ones are fragments both ways
			if addr.Is6() && size > 1400 {
				continue // has an MTU of its own test below
			}
			out := make([]byte, size)
			for i := range out {
				out[i] = byte(i * 7)
			}
			if _, err := c.Write(out); err != nil {
				t.Fatal(err)
			}
			in := make([]byte, 65535)
			n, err := c.Read(in)
			if err != nil || !slices.Equal(in[:n], out) {
				t.Fatalf("echo of %d bytes to IPv%d: %d bytes, %v", size, 4+2*(addr.BitLen()/128), n, err)
			}
		}
	}
}

// expectICMP waits for an ICMP packet of one of two types and codes, and checks
// that it is whole.
func (p *programs) expectICMP(t *testing.T, kind4, kind6 [2]byte) []byte {
	t.Helper()
	var b []byte
	select {
	case b = <-p.raw:
	case <-time.After(20 * time.Second):
		t.Fatal("no ICMP came")
	}
	s, ok := summarize(b)
	if !ok {
		t.Fatalf("malformed packet %x", b)
	}
	want, icmp := kind4, b[s.payload:]
	sum := checksum.Checksum(icmp, 0)
	if s.dst.Is6() {
		want, sum = kind6, checksum.Checksum(icmp, pseudoHeader(s.src, s.dst, protoICMP6, len(icmp)))
	}
	if [2]byte(icmp) != want || sum != 0xffff {
		t.Fatalf("ICMP type and code %v with sum %#x, want %v and 0xffff", icmp[:2], sum, want)
	}
	return icmp
}

func TestUDPRefusals(t *testing.T) {
	d := &direct{failures: make(map[netip.Addr]error)}
	p := newPrograms(t, d, Config{})
	tests := []struct {
		err          error
		kind4, kind6 [2]byte
	}{
		{ErrRefused, [2]byte{3, 3}, [2]byte{1, 4}},
		{ErrHostUnreachable, [2]byte{3, 1}, [2]byte{1, 3}},
		{ErrTimeout, [2]byte{3, 1}, [2]byte{1, 3}},
		{ErrNetUnreachable, [2]byte{3, 0}, [2]byte{1, 0}},
		{ErrProhibited, [2]byte{3, 13}, [2]byte{1, 1}},
	}
	for _, test := range tests {
		for _, addr := range []netip.Addr{far4, far6} {
			d.mu.Lock()
			d.failures[addr] = test.err
			d.mu.Unlock()
			if _, err := p.dialUDP(t, netip.AddrPortFrom(addr, 9)).Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			icmp := p.expectICMP(t, test.kind4, test.kind6)
			if q := icmp[8:]; q[len(q)-5] != 9 {
				t.Errorf("ICMP quotes %x, want a datagram to port 9", q)
			}
		}
	}
}

func TestOtherProtocolsAreProhibited(t *testing.T) {
	p := newPrograms(t, &direct{}, Config{})
	for _, request := range [][]byte{
		packet4(program4, far4, 132, make([]byte, 12)), // SCTP
		packet6(program6, far6, 132, make([]byte, 12)),
	} {
		if _, err := p.device.Write([]tun.Vector{{Pieces: [][]byte{request}}}); err != nil {
			t.Fatal(err)
		}
		icmp := p.expectICMP(t, [2]byte{3, 13}, [2]byte{1, 1})
		if !slices.Equal(icmp[8:], request) {
			t.Errorf("ICMP quotes %x, want %x", icmp[8:], request)
		}
	}
}

func TestTooBig(t *testing.T) {
	d := &direct{rewrite: to(echoUDP(t))}
	p := newPrograms(t, d, Config{PathMTU: 1400})
	datagram := func(size int) []byte { // without a checksum where that is allowed
		u := make([]byte, size)
		u[0], u[1], u[2], u[3], u[4], u[5] = 9, 9, 0, 7, byte(size>>8), byte(size)
		return u
	}
	df := packet4(program4, far4, protoUDP, datagram(1400))
	df[6] = 0x40
	finish4(df)
	big6 := packet6(program6, far6, protoUDP, datagram(1400))
	sum := ^checksum.Checksum(big6[40:], pseudoHeader(program6, far6, protoUDP, 1400))
	big6[46], big6[47] = byte(sum>>8), byte(sum)
	for _, request := range [][]byte{df, big6} {
		if _, err := p.device.Write([]tun.Vector{{Pieces: [][]byte{request}}}); err != nil {
			t.Fatal(err)
		}
		icmp := p.expectICMP(t, [2]byte{3, 4}, [2]byte{2, 0})
		if mtu := int(icmp[6])<<8 | int(icmp[7]); mtu != 1400 {
			t.Errorf("ICMP says mtu %d, want 1400", mtu)
		}
	}
	if d.asked(netip.AddrPortFrom(far4, 7)) || d.asked(netip.AddrPortFrom(far6, 7)) {
		t.Error("a datagram that is too big was carried")
	}
	if _, err := p.device.Write([]tun.Vector{{Pieces: [][]byte{packet4(program4, far4, protoUDP, datagram(1400))}}}); err != nil {
		t.Fatal(err)
	}
	if !eventually(20*time.Second, func() bool { return d.asked(netip.AddrPortFrom(far4, 7)) }) {
		t.Error("a datagram that may be fragmented was not carried")
	}
}

func TestDNS(t *testing.T) {
	d := &direct{resolve: func(_ context.Context, _ Flow, query []byte) ([]byte, error) {
		var m dns.Msg
		if err := m.Unpack(query); err != nil {
			return nil, err
		}
		if m.Question[0].Name == "broken." {
			return nil, errors.New("exit has gone")
		}
		r := new(dns.Msg).SetReply(&m)
		for i := range map[string]int{"one.": 1, "many.": 100}[m.Question[0].Name] {
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
				A: net.IPv4(192, 0, 2, byte(i))})
		}
		return r.Pack()
	}}
	p := newPrograms(t, d, Config{})
	tests := []struct {
		name, network string
		edns          uint16
		answers       int
		rcode         int
		truncated     bool
	}{
		{name: "one.", network: "udp", answers: 1},
		{name: "one.", network: "tcp", answers: 1},
		{name: "many.", network: "udp", truncated: true},
		{name: "many.", network: "udp", edns: 4096, answers: 100},
		{name: "many.", network: "tcp", answers: 100},
		{name: "broken.", network: "udp", rcode: dns.RcodeServerFailure},
		{name: "broken.", network: "tcp", rcode: dns.RcodeServerFailure},
	}
	for _, test := range tests {
		for _, server := range []netip.Addr{far4, far6} {
			q := new(dns.Msg).SetQuestion(test.name, dns.TypeA)
			if test.edns != 0 {
				q.SetEdns0(test.edns, false)
			}
			var c net.Conn
			if test.network == "tcp" {
				tc, err := p.dialTCP(t, netip.AddrPortFrom(server, 53))
				if err != nil {
					t.Fatal(err)
				}
				c = tc
			} else {
				c = p.dialUDP(t, netip.AddrPortFrom(server, 53))
			}
			dc := &dns.Conn{Conn: c, UDPSize: 65535}
			if err := dc.WriteMsg(q); err != nil {
				t.Fatal(err)
			}
			r, err := dc.ReadMsg()
			if err != nil {
				t.Fatalf("%s over %s: %v", test.name, test.network, err)
			}
			if r.Id != q.Id || len(r.Answer) != test.answers || r.Rcode != test.rcode || r.Truncated != test.truncated {
				t.Errorf("%s over %s: %d answers, rcode %d, truncated %v; want %d, %d, %v", test.name, test.network,
					len(r.Answer), r.Rcode, r.Truncated, test.answers, test.rcode, test.truncated)
			}
			if test.network == "tcp" {
				_ = c.Close()
			}
		}
	}
}
