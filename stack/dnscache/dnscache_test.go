package dnscache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const size = 1 << 20

var begin = time.Now()

// ask packs a question; change may alter it.
func ask(t testing.TB, name string, kind uint16, change ...func(*dns.Msg)) []byte {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, kind)
	for _, f := range change {
		f(q)
	}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// reply packs an answer to a question; records of the answer are given as text.
func reply(t testing.TB, query []byte, records []string, change ...func(*dns.Msg)) []byte {
	t.Helper()
	var q dns.Msg
	if err := q.Unpack(query); err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg).SetReply(&q)
	m.RecursionAvailable, m.Compress = true, true
	for _, text := range records {
		m.Answer = append(m.Answer, rr(t, text))
	}
	for _, f := range change {
		f(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rr(t testing.TB, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	if err != nil || r == nil {
		t.Fatalf("record %q: %v", text, err)
	}
	return r
}

func parsed(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("an answer of the cache cannot be read: %v", err)
	}
	return m
}

// store has the cache learn an answer as internal/node does.
func store(t testing.TB, c *Cache, g Group, query, answer []byte) {
	t.Helper()
	got, ticket := c.Get(g, query, begin)
	if got != nil {
		t.Fatal("the cache knew an answer before it was told one")
	}
	c.Put(ticket, answer)
}

func get(c *Cache, g Group, query []byte, after time.Duration) []byte {
	b, _ := c.Get(g, query, begin.Add(after))
	return b
}

// records has one record of each kind that programs ask for; %s is the owner and
// the TTL.
var records = map[uint16]string{
	dns.TypeA: "%s A 192.0.2.1", dns.TypeAAAA: "%s AAAA 2001:db8::1", dns.TypeCNAME: "%s CNAME other.example.",
	dns.TypeMX: "%s MX 10 mail.host.example.", dns.TypeTXT: `%s TXT "one" "two"`, dns.TypeNS: "%s NS ns.host.example.",
	dns.TypePTR: "%s PTR host.example.", dns.TypeSRV: "%s SRV 1 2 443 host.example.", dns.TypeSOA: "%s SOA ns.example. admin.example. 1 2 3 4 60",
	dns.TypeCAA: `%s CAA 0 issue "ca.example"`, dns.TypeNAPTR: `%s NAPTR 1 2 "u" "E2U+sip" "!^.*$!sip:a@b!" .`,
	dns.TypeHTTPS: "%s HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1", dns.TypeSVCB: "%s SVCB 1 svc.example. port=443", dns.TypeTLSA: "%s TLSA 3 1 1 00112233",
	dns.TypeDS: "%s DS 1 13 2 0011223344556677889900112233445566778899001122334455667788990011", dns.TypeDNSKEY: "%s DNSKEY 257 3 13 AAEC",
	dns.TypeSSHFP: "%s SSHFP 1 1 0011223344556677889900112233445566778899", dns.TypeLOC: "%s LOC 51 30 12.748 N 0 7 39.612 W 0.00m 0.00m 0.00m 0.00m",
	dns.TypeDNAME: "%s DNAME other.example.", dns.TypeHINFO: `%s HINFO "cpu" "os"`, dns.TypeURI: `%s URI 1 2 "https://a.example/"`,
	dns.TypeNSEC: "%s NSEC b.host.example. A RRSIG NSEC", dns.TypeRRSIG: "%s RRSIG A 13 2 60 20300101000000 20200101000000 1 example. AAEC",
	dns.TypeOPENPGPKEY: "%s OPENPGPKEY AAEC", dns.TypeSPF: `%s SPF "v=spf1 -all"`, dns.TypeEUI48: "%s EUI48 00-00-5e-00-53-2a",
}

// TestEveryType keeps records of every type there is a number for, those the
// library can write by name in their real form.
func TestEveryType(t *testing.T) {
	c := New(64 << 20)
	kept := 0
	for n := range 1 << 16 {
		kind := uint16(n)
		const owner = "host.example. 300 IN"
		text, real := records[kind]
		if text = fmt.Sprintf(text, owner); !real {
			text = fmt.Sprintf("%s TYPE%d \\# 3 c0ffee", owner, kind)
			if n < 300 && n > 0 && dns.TypeToRR[kind] != nil || kind == dns.TypeTA || kind == dns.TypeDLV {
				continue // the library wants a true one of these; records has those that matter
			}
		}
		meta := n == 0 || kind == dns.TypeOPT || n >= firstMeta && n <= lastMeta
		if meta {
			if _, ticket := c.Get(Group{}, ask(t, "host.example.", kind), begin); ticket.ok {
				t.Errorf("type %d is nothing to keep, but may be stored", n)
			}
			continue
		}
		q := ask(t, "host.example.", kind)
		a := reply(t, q, []string{text})
		store(t, c, Group{}, q, a)
		got := get(c, Group{}, q, 100*time.Second)
		if got == nil {
			t.Errorf("type %d is not kept", n)
			continue
		}
		want := parsed(t, a)
		want.Answer[0].Header().Ttl = 200
		if m := parsed(t, got); m.String() != want.String() {
			t.Errorf("type %d: got\n%v\nwant\n%v", n, m, want)
		}
		kept++
	}
	if kept < 65000 {
		t.Errorf("%d types were tried, want nearly all", kept)
	}
}

func TestLife(t *testing.T) {
	soa := func(ttl, minimum int) func(*dns.Msg) {
		return func(m *dns.Msg) {
			m.Ns = append(m.Ns, rr(t, fmt.Sprintf("example. %d IN SOA ns.example. admin.example. 1 2 3 4 %d", ttl, minimum)))
		}
	}
	rcode := func(n int) func(*dns.Msg) { return func(m *dns.Msg) { m.Rcode = n } }
	const a = "host.example. 300 IN A 192.0.2.1"
	for _, c := range []struct {
		what    string
		records []string
		change  []func(*dns.Msg)
		want    time.Duration
	}{
		{"an address", []string{a}, nil, 300 * time.Second},
		{"the shortest of all", []string{a, "host.example. 20 IN A 192.0.2.2"}, nil, 20 * time.Second},
		{"an alias that ends sooner", []string{"host.example. 5 IN CNAME b.example.", "b.example. 300 IN A 192.0.2.1"}, nil, 5 * time.Second},
		{"an additional record that ends sooner", []string{a}, []func(*dns.Msg){func(m *dns.Msg) { m.Extra = append(m.Extra, rr(t, "x.example. 7 IN A 192.0.2.9")) }}, 7 * time.Second},
		{"a very long TTL", []string{"host.example. 604800 IN A 192.0.2.1"}, nil, mostPositive},
		{"TTL 0", []string{"host.example. 0 IN A 192.0.2.1"}, nil, 0},
		{"a TTL with the highest bit", []string{"host.example. 2147483648 IN A 192.0.2.1"}, nil, 0},
		{"no such name", nil, []func(*dns.Msg){rcode(dns.RcodeNameError), soa(900, 60)}, 60 * time.Second},
		{"no such name, SOA's own TTL", nil, []func(*dns.Msg){rcode(dns.RcodeNameError), soa(30, 60)}, 30 * time.Second},
		{"no such name, for a week", nil, []func(*dns.Msg){rcode(dns.RcodeNameError), soa(604800, 604800)}, mostNegative},
		{"no such name, nobody says for how long", nil, []func(*dns.Msg){rcode(dns.RcodeNameError)}, 0},
		{"no such record", nil, []func(*dns.Msg){soa(900, 45)}, 45 * time.Second},
		{"no such record behind an alias", []string{"host.example. 10 IN CNAME b.example."}, []func(*dns.Msg){soa(900, 45)}, 10 * time.Second},
		{"an alias that leads nowhere", []string{"host.example. 10 IN CNAME b.example."}, nil, 0},
		{"a referral", nil, []func(*dns.Msg){func(m *dns.Msg) { m.Ns = append(m.Ns, rr(t, "example. 300 IN NS ns.example.")) }}, 0},
		{"a failure", []string{a}, []func(*dns.Msg){rcode(dns.RcodeServerFailure)}, 0},
		{"a refusal", []string{a}, []func(*dns.Msg){rcode(dns.RcodeRefused)}, 0},
		{"cut off", []string{a}, []func(*dns.Msg){func(m *dns.Msg) { m.Truncated = true }}, 0},
		{"another question's", []string{a}, []func(*dns.Msg){func(m *dns.Msg) { m.Question[0].Name = "evil.example." }}, 0},
		{"another type's", []string{a}, []func(*dns.Msg){func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }}, 0},
		{"no answer at all", []string{a}, []func(*dns.Msg){func(m *dns.Msg) { m.Response = false }}, 0},
		{"EDNS nobody asked for", []string{a}, []func(*dns.Msg){func(m *dns.Msg) { m.SetEdns0(1232, false) }}, 0},
		{"signed for this exchange", []string{a}, []func(*dns.Msg){func(m *dns.Msg) {
			m.Extra = append(m.Extra, &dns.SIG{RRSIG: dns.RRSIG{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSIG, Class: dns.ClassANY, Ttl: 9}, SignerName: "."}})
		}}, 0},
	} {
		cache := New(size)
		q := ask(t, "host.example.", dns.TypeA)
		store(t, cache, Group{}, q, reply(t, q, c.records, c.change...))
		if got := get(cache, Group{}, q, c.want-time.Nanosecond) != nil; got != (c.want > 0) {
			t.Errorf("%s: kept until its end %v, want %v", c.what, got, c.want > 0)
		}
		if get(cache, Group{}, q, c.want) != nil {
			t.Errorf("%s: still given out after %v", c.what, c.want)
		}
		if got := cache.Size(); got != 0 {
			t.Errorf("%s: %d bytes in use after its end, want 0", c.what, got)
		}
	}
}

// TestNegativeTTL: programs that keep answers themselves must not keep this one for
// longer than we do.
func TestNegativeTTL(t *testing.T) {
	c := New(size)
	q := ask(t, "host.example.", dns.TypeA)
	store(t, c, Group{}, q, reply(t, q, nil, func(m *dns.Msg) {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{rr(t, "example. 900 IN SOA ns.example. admin.example. 1 2 3 4 60")}
	}))
	m := parsed(t, get(c, Group{}, q, 20*time.Second))
	if got := m.Ns[0].Header().Ttl; m.Rcode != dns.RcodeNameError || got != 40 {
		t.Errorf("code %d, TTL %d; want %d and 40", m.Rcode, got, dns.RcodeNameError)
	}
}

// TestClocks: neither a machine that slept nor a clock that was set back makes an
// answer last longer.
func TestClocks(t *testing.T) {
	q := ask(t, "host.example.", dns.TypeA)
	for what, now := range map[string]time.Time{
		"slept":    begin.Round(0).Add(300 * time.Second),
		"set back": begin.Round(0).Add(-time.Second),
	} {
		c := New(size)
		store(t, c, Group{}, q, reply(t, q, []string{"host.example. 300 IN A 192.0.2.1"}))
		if b, _ := c.Get(Group{}, q, now); b != nil {
			t.Errorf("%s: an old answer was given out", what)
		}
	}
}

// TestQuestionKept: identifier and spelling of the name are the question's own
// (draft-vixie-dnsext-dns0x20), and the answer is not called authoritative.
func TestQuestionKept(t *testing.T) {
	c := New(size)
	q := ask(t, "host.example.", dns.TypeA)
	store(t, c, Group{}, q, reply(t, q, []string{"host.example. 300 IN A 192.0.2.1"}, func(m *dns.Msg) { m.Authoritative = true }))
	other := ask(t, "HoSt.eXample.", dns.TypeA)
	before := bytes.Clone(other)
	got := parsed(t, get(c, Group{}, other, 0))
	want := parsed(t, other)
	if got.Id != want.Id || got.Question[0] != want.Question[0] || got.Authoritative {
		t.Errorf("got\n%v\nwant the identifier and question of\n%v", got, want)
	}
	if name := got.Answer[0].Header().Name; name != "HoSt.eXample." {
		t.Errorf("the record is called %q, want it as in the question", name)
	}
	if !bytes.Equal(other, before) {
		t.Error("the question was changed")
	}
	got.Answer = nil
	again := get(c, Group{}, q, 0)
	again[len(again)-1]++ // ours to change
	if b := get(c, Group{}, q, 0); bytes.Equal(b, again) {
		t.Error("what was given out is what is kept")
	}
}

// TestDependsOn: an answer is for questions that ask the same thing in the same
// way, by the same group.
func TestDependsOn(t *testing.T) {
	edns := func(do bool) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(1232, do) } }
	const a = "host.example. 300 IN A 192.0.2.1"
	variants := map[string][]byte{
		"plain":     ask(t, "host.example.", dns.TypeA),
		"type":      ask(t, "host.example.", dns.TypeAAAA),
		"name":      ask(t, "hosts.example.", dns.TypeA),
		"CD":        ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.CheckingDisabled = true }),
		"AD":        ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.AuthenticatedData = true }),
		"no RD":     ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }),
		"EDNS":      ask(t, "host.example.", dns.TypeA, edns(false)),
		"EDNS, DO":  ask(t, "host.example.", dns.TypeA, edns(true)),
		"DO and CD": ask(t, "host.example.", dns.TypeA, edns(true), func(m *dns.Msg) { m.CheckingDisabled = true }),
	}
	for what, q := range variants {
		c := New(size)
		record := strings.Replace(a, "host.example.", parsed(t, q).Question[0].Name, 1)
		if what == "type" {
			record = "host.example. 300 IN AAAA 2001:db8::1"
		}
		store(t, c, Group{1}, q, reply(t, q, []string{record}))
		for other, p := range variants {
			if got := get(c, Group{1}, p, 0) != nil; got != (what == other) {
				t.Errorf("stored for %s: known for %s is %v", what, other, got)
			}
		}
		if get(c, Group{2}, q, 0) != nil || get(c, Group{}, q, 0) != nil {
			t.Errorf("%s: another group was told", what)
		}
	}
}

// TestOptions: options between program and resolver are neither kept nor in the
// way; others, like a client's network, make an answer its own.
func TestOptions(t *testing.T) {
	with := func(o dns.EDNS0) func(*dns.Msg) {
		return func(m *dns.Msg) {
			m.SetEdns0(1232, true)
			m.Extra[len(m.Extra)-1].(*dns.OPT).Option = []dns.EDNS0{o}
		}
	}
	cookie := &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"}
	subnet := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}}
	plain := ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })
	c := New(size)
	q := ask(t, "host.example.", dns.TypeA, with(cookie))
	store(t, c, Group{}, q, reply(t, q, []string{"host.example. 300 IN A 192.0.2.1"}, with(cookie)))
	b := get(c, Group{}, plain, 0)
	if b == nil {
		t.Fatal("an answer with a cookie was not kept")
	}
	o := parsed(t, b).IsEdns0()
	if o == nil || len(o.Option) != 0 || !o.Do() {
		t.Errorf("EDNS of the answer: %v; want it without options, with DO", o)
	}
	for what, q := range map[string][]byte{
		"a client's network": ask(t, "host.example.", dns.TypeA, with(subnet)),
		"EDNS version 1":     ask(t, "host.example.", dns.TypeA, with(cookie), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }),
		"another class":      ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"two questions":      ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		"an update":          ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }),
		"bytes behind it":    append(ask(t, "host.example.", dns.TypeA), 0),
		"a record":           ask(t, "host.example.", dns.TypeA, func(m *dns.Msg) { m.Answer = []dns.RR{rr(t, "host.example. 1 IN A 192.0.2.1")} }),
	} {
		if b, ticket := c.Get(Group{}, q, begin); b != nil || ticket.ok {
			t.Errorf("%s: answered %v, to be stored %v; want neither", what, b != nil, ticket.ok)
		}
	}
}

func TestOff(t *testing.T) {
	for _, c := range []*Cache{New(0), {}} {
		q := ask(t, "host.example.", dns.TypeA)
		store(t, c, Group{}, q, reply(t, q, []string{"host.example. 300 IN A 192.0.2.1"}))
		if get(c, Group{}, q, 0) != nil || c.Size() != 0 {
			t.Error("a cache that is off keeps an answer")
		}
	}
}

func TestClear(t *testing.T) {
	c := New(size)
	q, p := ask(t, "host.example.", dns.TypeA), ask(t, "host2.example.", dns.TypeA)
	store(t, c, Group{}, q, reply(t, q, []string{"host.example. 300 IN A 192.0.2.1"}))
	_, ticket := c.Get(Group{}, p, begin)
	c.Clear()
	c.Put(ticket, reply(t, p, []string{"host2.example. 300 IN A 192.0.2.1"}))
	if get(c, Group{}, q, 0) != nil || get(c, Group{}, p, 0) != nil || c.Size() != 0 {
		t.Error("something has outlived Clear, an answer that was under way perhaps")
	}
}

// TestBounded: however many answers, of whatever size and by however many groups
// at once, memory stays; the one that was used last stays longest.
func TestBounded(t *testing.T) {
	const most = 64 << 10
	c := New(most)
	favorite := ask(t, "favorite.example.", dns.TypeA)
	store(t, c, Group{}, favorite, reply(t, favorite, []string{"favorite.example. 300 IN A 192.0.2.1"}))
	var work sync.WaitGroup
	for g := range 4 {
		work.Go(func() {
			for i := range 500 {
				q := ask(t, fmt.Sprintf("h%d.example.", i), dns.TypeTXT)
				_, ticket := c.Get(Group{byte(g)}, q, begin)
				text := strings.Repeat(`"`+strings.Repeat("x", 200)+`" `, 1+rand.N(30))
				c.Put(ticket, reply(t, q, []string{fmt.Sprintf("h%d.example. 300 IN TXT %s", i, text)}))
				if got := c.Size(); got > most {
					t.Errorf("%d bytes in use, want at most %d", got, most)
					return
				}
				if i%2 == 0 && get(c, Group{}, favorite, 0) == nil {
					t.Error("an answer in use made room for others")
					return
				}
			}
		})
	}
	work.Wait()
	if c.Size() < most/2 {
		t.Errorf("%d of %d bytes in use after many answers, want most", c.Size(), most)
	}
	if n := c.order.Len(); n != len(c.entries) {
		t.Errorf("%d in order, %d by key", n, len(c.entries))
	}
}

func FuzzAnswer(f *testing.F) {
	q := ask(f, "Host.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })
	f.Add(q, reply(f, q, []string{"Host.example. 300 IN CNAME b.example.", "b.example. 7 IN A 192.0.2.1"}, func(m *dns.Msg) { m.SetEdns0(4096, true) }))
	p := ask(f, "no.example.", dns.TypeMX)
	f.Add(p, reply(f, p, nil, func(m *dns.Msg) {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{rr(f, "example. 900 IN SOA ns.example. admin.example. 1 2 3 4 60")}
	}))
	f.Add(p[:13], append(p[:12:12], 0xc0, 0x0c))
	f.Fuzz(func(t *testing.T, query, answer []byte) {
		c := New(size)
		asked, told := bytes.Clone(query), bytes.Clone(answer)
		_, ticket := c.Get(Group{}, query, begin)
		c.Put(ticket, answer)
		got := get(c, Group{}, query, 0)
		if !bytes.Equal(query, asked) || !bytes.Equal(answer, told) {
			t.Fatal("what was lent was changed")
		}
		if got == nil {
			if c.Size() != 0 {
				t.Fatal("kept, but not given out")
			}
			return
		}
		q, _, _ := readQuery(query)
		if len(got) > len(answer) || !bytes.Equal(got[:2], query[:2]) || !bytes.Equal(got[headerSize:headerSize+len(q)], q) {
			t.Fatalf("answer %x to %x", got, query)
		}
		for _, after := range []time.Duration{time.Second, mostPositive} {
			if b := get(c, Group{}, query, after); b != nil && len(b) != len(got) {
				t.Fatal("the answer's size depends on its age")
			}
		}
		if c.Size() != 0 {
			t.Fatal("kept beyond the limit")
		}
		m := new(dns.Msg)
		if m.Unpack(answer) != nil {
			return // the library reads data, too, which is not ours to judge
		}
		if err := new(dns.Msg).Unpack(got); err != nil {
			t.Fatalf("the answer could be read, what was made of it cannot: %v", err)
		}
	})
}
