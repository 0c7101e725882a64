package exit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const resolverName = "dns.lab"

// certificate is for dns.lab and 127.0.0.1, signed by itself.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: resolverName}, DNSNames: []string{resolverName}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// counted counts the connections that a listener takes.
type counted struct {
	net.Listener
	n atomic.Int32
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// overTLSServer is a real DNS server over TLS.
func overTLSServer(t testing.TB, cert tls.Certificate, h dns.HandlerFunc) (netip.AddrPort, *counted) {
	t.Helper()
	raw, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: raw}
	s := &dns.Server{Listener: tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}), Net: "tcp-tls", Handler: h}
	started, ended := make(chan struct{}), make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	go func() { defer close(ended); _ = s.ActivateAndServe() }() // ends with Shutdown
	<-started
	t.Cleanup(func() { _ = s.Shutdown(); <-ended })
	return netip.MustParseAddrPort(raw.Addr().String()), l
}

// replied keeps what a DNS handler answers.
type replied struct {
	dns.ResponseWriter
	m *dns.Msg
}

func (r *replied) WriteMsg(m *dns.Msg) error { r.m = m; return nil }

// overHTTPSServer is a real DNS server over HTTP/2.
func overHTTPSServer(t testing.TB, cert tls.Certificate, h dns.HandlerFunc) (netip.AddrPort, *counted) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		q := new(dns.Msg)
		if err != nil || q.Unpack(body) != nil || q.Id != 0 || r.Method != http.MethodPost || r.URL.Path != "/dns-query" ||
			r.Header.Get("Content-Type") != dnsType || r.ProtoMajor != 2 || r.UserAgent() != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		var out replied
		if h(&out, q); out.m == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		b, _ := out.m.Pack()
		w.Header().Set("Content-Type", dnsType)
		_, _ = w.Write(b)
	}))
	l := &counted{Listener: s.Listener}
	s.Listener, s.EnableHTTP2, s.TLS = l, true, &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(l.Addr().String()), l
}

// records are one of each type, and one that nobody knows (RFC 3597).
var records = []string{
	"web.lab. 60 IN A 192.0.2.1", "web.lab. 60 IN AAAA 2001:db8::1", `web.lab. 60 IN HTTPS 1 . alpn="h2,h3" port="8443"`,
	`web.lab. 60 IN SVCB 1 web.lab. ipv4hint="192.0.2.1"`, `web.lab. 60 IN TXT "hello" "world"`, "web.lab. 60 IN SRV 1 2 443 web.lab.",
	"web.lab. 60 IN MX 10 mail.lab.", "web.lab. 60 IN CNAME other.lab.", "web.lab. 60 IN NS ns.lab.", `web.lab. 60 IN CAA 0 issue "ca.lab"`,
	`web.lab. 60 IN TYPE65400 \# 4 01020304`,
}

// zone answers with the record of the type asked for.
func zone(t testing.TB) dns.HandlerFunc {
	t.Helper()
	all := make(map[uint16]dns.RR)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		all[rr.Header().Rrtype] = rr
	}
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if rr := all[q.Question[0].Qtype]; rr != nil {
			m.Answer = []dns.RR{rr}
		}
		_ = w.WriteMsg(m)
	}
}

// TestSecureResolvers asks real servers over TLS and HTTPS for every type of record,
// many at a time, over the same connection.
func TestSecureResolvers(t *testing.T) {
	cert, roots := certificate(t)
	tlsAddr, tlsConns := overTLSServer(t, cert, zone(t))
	httpsAddr, httpsConns := overHTTPSServer(t, cert, zone(t))
	plain := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) { // all cut off
		m := new(dns.Msg).SetReply(q)
		m.Truncated = true
		_ = w.WriteMsg(m)
	}, zone(t))
	for text, conns := range map[string]*counted{
		fmt.Sprintf("tls://%v#%s", tlsAddr, resolverName):                                tlsConns,
		fmt.Sprintf("https://%s:%d/dns-query#127.0.0.1", resolverName, httpsAddr.Port()): httpsConns,
		fmt.Sprint(plain): nil,
	} {
		r, err := ParseResolver(text)
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int32
		e := newExit(t, Config{Resolvers: []Resolver{r}, Roots: roots})
		c := someone(e)
		var work sync.WaitGroup
		for range 5 {
			for _, text := range records {
				work.Go(func() { // ends with the answer
					rr, err := dns.NewRR(text)
					if err != nil {
						t.Error(err)
						return
					}
					q := ask(t, "web.lab.", rr.Header().Rrtype)
					b, err := c.Resolve(t.Context(), q)
					if err != nil {
						t.Errorf("%v: %v", r, err)
						return
					}
					m := unpacked(t, b)
					if m.Id != unpackID(q) || len(m.Answer) != 1 || m.Answer[0].String() != rr.String() {
						t.Errorf("%v: got %v, want %v", r, m.Answer, rr)
					}
					asked.Add(1)
				})
			}
		}
		work.Wait()
		if conns != nil {
			if n := conns.n.Load(); n > 2 { // two may begin at once
				t.Errorf("%v: %d connections for %d questions, want one or two", r, n, asked.Load())
			}
		}
		e.Close()
	}
}

// TestResolverIsChecked: a resolver whose certificate is another's is not asked, and
// the next one is; nothing falls back to an open way of asking the first.
func TestResolverIsChecked(t *testing.T) {
	cert, roots := certificate(t)
	impostor := func(dns.ResponseWriter, *dns.Msg) { t.Error("a resolver that is not certified was asked") }
	_, other := certificate(t)
	tlsAddr, _ := overTLSServer(t, cert, impostor)
	httpsAddr, _ := overHTTPSServer(t, cert, impostor)
	good := resolver(t, says("192.0.2.1"), silent)
	for _, tt := range []struct {
		text  string
		roots *x509.CertPool
	}{
		{fmt.Sprintf("tls://%v#%s", tlsAddr, "other.lab"), roots},
		{fmt.Sprintf("tls://%v#%s", tlsAddr, resolverName), other},
		{fmt.Sprintf("https://other.lab:%d/dns-query#127.0.0.1", httpsAddr.Port()), roots},
		{fmt.Sprintf("https://127.0.0.1:%d/dns-query", httpsAddr.Port()), other},
	} {
		r, err := ParseResolver(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		e := newExit(t, Config{Resolvers: []Resolver{r}, Roots: tt.roots})
		b, err := someone(e).Resolve(t.Context(), ask(t, "web.lab.", dns.TypeA))
		if err != nil || unpacked(t, b).Rcode != dns.RcodeServerFailure {
			t.Errorf("%s alone: got %x, %v; want SERVFAIL", tt.text, b, err)
		}
		e = newExit(t, Config{Resolvers: append([]Resolver{r}, at(good)...), Roots: tt.roots})
		for range failures + 1 {
			b, err = someone(e).Resolve(t.Context(), ask(t, "web.lab.", dns.TypeA))
			if err != nil || len(unpacked(t, b).Answer) != 1 {
				t.Errorf("%s and another: got %x, %v; want the other's answer", tt.text, b, err)
			}
		}
		if first := e.inOrder()[0]; first != e.upstreams[1] {
			t.Errorf("%s is still asked first after %d failures", tt.text, failures+1)
		}
	}
}

// TestPipeReconnects: a resolver that closes its connections is asked over another.
func TestPipeReconnects(t *testing.T) {
	cert, roots := certificate(t)
	addr, conns := overTLSServer(t, cert, func(w dns.ResponseWriter, q *dns.Msg) {
		says("192.0.2.1")(w, q)
		_ = w.Close()
	})
	e := newExit(t, Config{Resolvers: []Resolver{{way: overTLS, addr: addr, name: resolverName}}, Roots: roots})
	for i := range 5 {
		b, err := someone(e).Resolve(t.Context(), ask(t, "web.lab.", dns.TypeA))
		if err != nil || len(unpacked(t, b).Answer) != 1 {
			t.Fatalf("question %d: got %x, %v; want an answer", i, b, err)
		}
	}
	if n := conns.n.Load(); n != 5 {
		t.Errorf("%d connections, want 5", n)
	}
}

// TestLineAnswers: answers reach who asked, in any order, and what nobody asked for
// ends the connection.
func TestLineAnswers(t *testing.T) {
	near, far := net.Pipe()
	p := newPipe(func(context.Context) (net.Conn, error) { return near, nil })
	defer p.close()
	query := ask(t, "web.lab.", dns.TypeA)
	got := make(chan error, 2)
	for range 2 {
		go func() { // ends with the answer
			_, err := p.ask(t.Context(), query)
			got <- err
		}()
	}
	read := func() []byte {
		b := make([]byte, 2+len(query))
		if _, err := io.ReadFull(far, b); err != nil {
			t.Error(err)
		}
		return b
	}
	first, second := read(), read()
	if slices.Equal(first[2:4], second[2:4]) {
		t.Error("two queries under way have one identifier")
	}
	for _, frame := range [][]byte{second, first} {
		frame[4] |= 0x80 // a response
		if _, err := far.Write(frame); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Errorf("answer: %v", err)
		}
	}
	if _, err := far.Write([]byte{0, 1, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on after garbage")
	}
}

func TestParseResolver(t *testing.T) {
	for text, want := range map[string]string{
		"9.9.9.9": "9.9.9.9:53", "9.9.9.9:5353": "9.9.9.9:5353", "2620:fe::fe": "[2620:fe::fe]:53", "[2620:fe::fe]:54": "[2620:fe::fe]:54", "[2620:fe::fe]": "[2620:fe::fe]:53",
		"::ffff:9.9.9.9": "9.9.9.9:53",
		"tls://9.9.9.9":  "tls://9.9.9.9:853", "tls://9.9.9.9:1853#dns.quad9.net": "tls://9.9.9.9:1853#dns.quad9.net", "tls://[2620:fe::fe]#dns.quad9.net": "tls://[2620:fe::fe]:853#dns.quad9.net",
		"https://9.9.9.9/dns-query": "https://9.9.9.9/dns-query", "https://dns.quad9.net:444/dns-query#9.9.9.9": "https://dns.quad9.net:444/dns-query#9.9.9.9",
		"https://[2620:fe::fe]/dns-query": "https://[2620:fe::fe]/dns-query",
	} {
		r, err := ParseResolver(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: got %v, %v; want %s", text, r, err, want)
			continue
		}
		if again, err := ParseResolver(want); err != nil || again != r {
			t.Errorf("%q: written as %q it reads as %v, %v", text, want, again, err)
		}
	}
	for _, text := range []string{
		"", "dns.quad9.net", "9.9.9.9:0", "9.9.9.9:x", "fe80::1%eth0", "tls://dns.quad9.net", "tls://9.9.9.9#not a name", "tls://9.9.9.9#1.1.1.1", "tls://",
		"https://dns.quad9.net/dns-query", "https://9.9.9.9/dns-query#1.1.1.1", "https://user@9.9.9.9/", "https://9.9.9.9:0/", "https://9.9.9.9:99999/", "https://9.9.9.9/dns-query?dns=",
		"https://dns.quad9.net/#other.lab", "https:///", "udp://9.9.9.9", "http://9.9.9.9/",
	} {
		if r, err := ParseResolver(text); err == nil {
			t.Errorf("%q reads as %v, want an error", text, r)
		}
	}
}

// FuzzParseResolver: what parses is written back the same.
func FuzzParseResolver(f *testing.F) {
	for _, s := range []string{"9.9.9.9", "tls://9.9.9.9#dns.quad9.net", "https://dns.quad9.net:444/dns-query#9.9.9.9", "https://[::1]/%2f", "tls://[::1]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseResolver(text)
		if err != nil {
			return
		}
		if again, err := ParseResolver(r.String()); err != nil || again != r {
			t.Errorf("%q is written as %q and read as %v, %v", text, r, again, err)
		}
	})
}
