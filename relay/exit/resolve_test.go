package exit

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cuttle/relay/wire"
)

// resolver runs a DNS server on loopback, over UDP and TCP on one port.
func resolver(t testing.TB, udp, tcp dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: p, Handler: udp}, {Listener: l, Handler: tcp}} {
		started, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(ended); _ = s.ActivateAndServe() }() // ends with Shutdown
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-ended })
	}
	return netip.MustParseAddrPort(l.Addr().String())
}

// says answers every query for an address with ip.
func says(ip string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(ip)}}
		_ = w.WriteMsg(m)
	}
}

func fails(rcode int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, rcode)) }
}

func silent(dns.ResponseWriter, *dns.Msg) {}

// closedPort is an address on loopback where nothing listens.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	return netip.MustParseAddrPort(p.LocalAddr().String())
}

func newExit(t testing.TB, cfg Config) *Exit {
	t.Helper()
	if cfg.Policy == nil {
		cfg.Policy = policy(t, "allow 127.0.0.0/8")
	}
	if cfg.Resolvers == nil {
		cfg.Resolvers = at(closedPort(t))
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// at are plain resolvers.
func at(addresses ...netip.AddrPort) (out []Resolver) {
	for _, a := range addresses {
		out = append(out, Resolver{way: overUDP, addr: a})
	}
	return out
}

func TestResolve(t *testing.T) {
	good := resolver(t, says("192.0.2.1"), says("192.0.2.2"))
	cut := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Truncated = true
		_ = w.WriteMsg(m)
	}, says("192.0.2.2"))
	missing := resolver(t, fails(dns.RcodeNameError), silent)
	broken := resolver(t, fails(dns.RcodeServerFailure), silent)
	refusing := resolver(t, fails(dns.RcodeRefused), silent)
	private := resolver(t, says("10.0.0.1"), silent)
	guessed := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		for i := range uint16(maxStrays) {
			m := new(dns.Msg).SetReply(q)
			m.Id += i + 1
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(6, 6, 6, 6)}}
			_ = w.WriteMsg(m)
		}
	}, says("192.0.2.2"))
	stray := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		other := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("evil.lab.", dns.TypeA))
		other.Id = q.Id
		_ = w.WriteMsg(other)
		says("192.0.2.1")(w, q)
	}, silent)
	nobody := closedPort(t)
	tests := []struct {
		name      string
		resolvers []netip.AddrPort
		rcode     int
		answer    string
	}{
		{"over UDP", []netip.AddrPort{good}, 0, "192.0.2.1"},
		{"truncated, over TCP", []netip.AddrPort{cut}, 0, "192.0.2.2"},
		{"no such name passes through", []netip.AddrPort{missing, good}, dns.RcodeNameError, ""},
		{"the next after one that fails", []netip.AddrPort{broken, good}, 0, "192.0.2.1"},
		{"the next after one that refuses", []netip.AddrPort{refusing, good}, 0, "192.0.2.1"},
		{"the next after one that is away", []netip.AddrPort{nobody, good}, 0, "192.0.2.1"},
		{"all fail", []netip.AddrPort{broken, nobody}, dns.RcodeServerFailure, ""},
		{"all away", []netip.AddrPort{nobody}, dns.RcodeServerFailure, ""},
		{"an answer to another question is not taken", []netip.AddrPort{stray}, 0, "192.0.2.1"},
		{"guesses are not taken, but TCP", []netip.AddrPort{guessed}, 0, "192.0.2.2"},
		{"forbidden addresses pass: dialing is checked", []netip.AddrPort{private}, 0, "10.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newExit(t, Config{Resolvers: at(tt.resolvers...)})
			q := ask(t, "web.lab.", dns.TypeA)
			b, err := someone(e).Resolve(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			m := unpacked(t, b)
			if m.Rcode != tt.rcode || m.Id != unpackID(q) || !m.Response {
				t.Errorf("got %v, want code %d", m, tt.rcode)
			}
			got := ""
			if len(m.Answer) == 1 {
				got = m.Answer[0].(*dns.A).A.String()
			}
			if got != tt.answer {
				t.Errorf("answer: got %q, want %q", got, tt.answer)
			}
		})
	}
}

// TestResolveTimeout: a silent resolver gives SERVFAIL when the time is over.
func TestResolveTimeout(t *testing.T) {
	e := newExit(t, Config{Resolvers: at(resolver(t, silent, silent))})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	b, err := someone(e).Resolve(ctx, ask(t, "web.lab.", dns.TypeA))
	if err != nil || unpacked(t, b).Rcode != dns.RcodeServerFailure {
		t.Errorf("got %x, %v; want SERVFAIL", b, err)
	}
	if got := e.Counts(); got.Queries != 1 || got.Unanswered != 1 {
		t.Errorf("counts: got %+v, want one query without an answer", got)
	}
	_, err = someone(e).Resolve(ctx, []byte("garbage"))
	codeWanted(t, "garbage", err, wire.CodeForbidden)
}

// TestResolveIdentifier: queries go out with identifiers of their own, from
// sockets that the node's control function has seen.
func TestResolveIdentifier(t *testing.T) {
	var mu sync.Mutex
	seen := make(map[uint16]bool)
	var sockets atomic.Int32
	e := newExit(t, Config{
		Resolvers: at(resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
			mu.Lock()
			seen[q.Id] = true
			mu.Unlock()
			says("192.0.2.1")(w, q)
		}, silent)),
		Control: func(string, string, syscall.RawConn) error { sockets.Add(1); return nil },
	})
	q := ask(t, strings.Repeat("long.", 40), dns.TypeA)
	for range 50 {
		if _, err := someone(e).Resolve(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) < 45 || sockets.Load() != 50 {
		t.Errorf("50 queries: %d identifiers and %d sockets, want about 50 of each", len(seen), sockets.Load())
	}
}
