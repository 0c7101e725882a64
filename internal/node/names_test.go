package node

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cuttle/stack"
)

// resolver is a name server with records of many types that counts questions.
type resolver struct {
	address string

	mu    sync.Mutex // guards asked
	asked map[string]int
}

var zone = []string{
	"a.example. 300 IN A 192.0.2.1", "aaaa.example. 300 IN AAAA 2001:db8::1", "mx.example. 300 IN MX 10 mail.example.", `txt.example. 300 IN TXT "text"`,
	"cname.example. 300 IN CNAME other.example.", "ns.example. 300 IN NS ns.example.", "soa.example. 300 IN SOA ns.example. admin.example. 1 2 3 4 5",
	"ptr.example. 300 IN PTR a.example.", "srv.example. 300 IN SRV 1 2 443 a.example.", `caa.example. 300 IN CAA 0 issue "ca.example"`,
	"https.example. 300 IN HTTPS 1 . alpn=h2", "svcb.example. 300 IN SVCB 1 svc.example. port=443", "tlsa.example. 300 IN TLSA 3 1 1 00112233",
	"naptr.example. 300 IN NAPTR 1 2 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" .", "dnskey.example. 300 IN DNSKEY 257 3 13 AAEC",
	"sshfp.example. 300 IN SSHFP 1 1 0011223344556677889900112233445566778899", "type65280.example. 300 IN TYPE65280 \\# 3 c0ffee",
	"brief.example. 0 IN A 192.0.2.1", "large.example. 300 IN TXT " + strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 200),
}

func newResolver(t *testing.T) *resolver {
	t.Helper()
	r := &resolver{asked: make(map[string]int)}
	var pc net.PacketConn
	var ln net.Listener
	for try := 0; ln == nil; try++ {
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil { //nolint:noctx // for the whole test
			t.Fatal(err)
		}
		r.address = pc.LocalAddr().String()
		if ln, err = net.Listen("tcp", r.address); err != nil { //nolint:noctx // likewise
			_ = pc.Close()
			if try == 20 {
				t.Fatal(err)
			}
		}
	}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: r}, {Listener: ln, Handler: r}} {
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }() // ends with Shutdown
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-done
		})
	}
	return r
}

func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	for _, text := range zone {
		if rr, err := dns.NewRR(text); err == nil && rr.Header().Name == name && rr.Header().Rrtype == q.Question[0].Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	if len(m.Answer) == 0 {
		soa, _ := dns.NewRR("example. 900 IN SOA ns.example. admin.example. 1 2 3 4 60")
		m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{soa}
	}
	if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
		m.Truncate(512)
	}
	if !m.Truncated {
		r.mu.Lock()
		r.asked[name]++
		r.mu.Unlock()
	}
	_ = w.WriteMsg(m)
}

func (r *resolver) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[name]
}

// Names of every type are asked for through the exit, once for as long as an answer
// holds and for flows that share a circuit, and anew when other paths are wanted.
func TestNamesAreKept(t *testing.T) {
	nw := newNetwork(t, "plain")
	r := newResolver(t)
	nw.stop["r3"]()
	nw.cfgs["r3"].Exit.Resolver = r.address
	nw.start("r3")
	o := nw.pool()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	id := uint16(0)
	from := func(device, name string, kind uint16) *dns.Msg {
		t.Helper()
		q := new(dns.Msg).SetQuestion(name, kind)
		id++
		q.Id = id
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		a, err := o.Resolve(ctx, stack.NewFlow(netip.MustParseAddrPort(device), netip.MustParseAddrPort("192.0.2.53:53")), b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(a); err != nil || m.Id != id || binary.BigEndian.Uint16(a) != id {
			t.Fatalf("%s: answer %v, %v; want one with the question's identifier", name, m, err)
		}
		return m
	}
	const here, there = "10.0.0.1:1000", "10.0.0.2:1000"
	// Whether the resolver was asked: on a slow machine the exit asks it more than once.
	asks := func(anew bool, what, device, name string, kind uint16) *dns.Msg {
		t.Helper()
		before := r.count(strings.ToLower(name))
		m := from(device, name, kind)
		if got := r.count(strings.ToLower(name)) > before; got != anew {
			t.Errorf("%s, %s: the resolver was asked: %v, want %v", name, what, got, anew)
		}
		return m
	}
	for _, text := range zone {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		for n, what := range []string{"first", "again"} {
			m := asks(n == 0 || rr.Header().Ttl == 0, what, here, rr.Header().Name, rr.Header().Rrtype)
			if len(m.Answer) != 1 || !dns.IsDuplicate(m.Answer[0], rr) {
				t.Errorf("%s: got %v, want the record", rr.Header().Name, m.Answer)
			}
		}
	}
	for n, what := range []string{"first", "again"} {
		if m := asks(n == 0, what, here, "none.example.", dns.TypeA); m.Rcode != dns.RcodeNameError {
			t.Errorf("a name that does not exist: code %d", m.Rcode)
		}
	}
	asks(true, "by another device", there, "a.example.", dns.TypeA)
	if err := nw.nodes["c"].client.newPath(); err != nil {
		t.Fatal(err)
	}
	asks(true, "after new paths were wanted", here, "A.example.", dns.TypeA)
	if err := nw.nodes["c"].client.reroute(2, nil); err != nil {
		t.Fatal(err)
	}
	if got := o.names.Size(); got != 0 {
		t.Errorf("after other paths were wanted %d bytes of answers are kept, want 0", got)
	}
	if logs := nw.logs.String(); strings.Contains(logs, "example") {
		t.Error("a log names what was asked for")
	}
}
