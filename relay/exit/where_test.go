package exit

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestWhere(t *testing.T) {
	e := newExit(t, Config{Policy: policy(t, "allow 10.99.0.0/24")})
	for _, c := range []struct {
		name, question string
		kind           uint16
		source         string // of our sockets
		want           string // "": no record
	}{
		{"IPv4", "exit.cuttle.", dns.TypeA, "5.6.7.8", "5.6.7.8"},
		{"letters in any case", "eXit.CUTtle.", dns.TypeA, "5.6.7.8", "5.6.7.8"},
		{"IPv6", "exit.cuttle.", dns.TypeAAAA, "2a00:1::7", "2a00:1::7"},
		{"behind NAT", "exit.cuttle.", dns.TypeA, "192.168.1.7", ""},
		{"behind carrier-grade NAT", "exit.cuttle.", dns.TypeA, "100.64.1.7", ""},
		{"unique local", "exit.cuttle.", dns.TypeAAAA, "fd00::7", ""},
		{"private, but open to clients", "exit.cuttle.", dns.TypeA, "10.99.0.7", "10.99.0.7"},
		{"no route", "exit.cuttle.", dns.TypeAAAA, "", ""},
		{"other family", "exit.cuttle.", dns.TypeAAAA, "5.6.7.8", ""},
		{"other type", "exit.cuttle.", dns.TypeTXT, "5.6.7.8", ""},
	} {
		e.source = func(context.Context, netip.AddrPort) netip.Addr {
			a, _ := netip.ParseAddr(c.source) // none: the zero value
			return a
		}
		q := new(dns.Msg).SetQuestion(c.question, c.kind)
		packed, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := e.resolve(t.Context(), someone(e), packed)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var m dns.Msg
		if err := m.Unpack(answer); err != nil || m.Rcode != dns.RcodeSuccess || m.Id != q.Id || !m.Response {
			t.Fatalf("%s: answer %v, %v", c.name, &m, err)
		}
		got := ""
		for _, rr := range m.Answer {
			if rr.Header().Ttl != 0 || !strings.EqualFold(rr.Header().Name, "exit.cuttle.") {
				t.Errorf("%s: record %v", c.name, rr)
			}
			switch r := rr.(type) {
			case *dns.A:
				got = r.A.String()
			case *dns.AAAA:
				got = r.AAAA.String()
			}
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestWhereAsksNobody: only that name is answered here, others go to the resolver.
func TestWhereAsksNobody(t *testing.T) {
	asked := make(chan string, 4)
	r := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) { asked <- q.Question[0].Name; says("192.0.2.1")(w, q) }, silent)
	e := newExit(t, Config{Resolvers: at(r)})
	for _, name := range []string{"exit.cuttle.", "www.exit.cuttle.", "exit.cuttles.", "cuttle."} {
		packed, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.resolve(t.Context(), someone(e), packed); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for len(asked) > 0 {
		got = append(got, <-asked)
	}
	if want := "www.exit.cuttle. exit.cuttles. cuttle."; strings.Join(got, " ") != want {
		t.Errorf("the resolver was asked for %q, want %q", got, want)
	}
}

// TestSourceSendsNothing asks the kernel for real; without a route there is none.
func TestSourceSendsNothing(t *testing.T) {
	e := newExit(t, Config{})
	for _, out := range []netip.AddrPort{away4, away6} {
		if a := e.sourceOf(t.Context(), out); a.IsValid() && (a.Is4() != out.Addr().Is4() || a.IsUnspecified()) {
			t.Errorf("to %v: source %v", out, a)
		}
	}
}
