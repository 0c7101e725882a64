package exit

import (
	"bytes"
	"testing"

	"github.com/miekg/dns"
)

func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatalf("pack: %v", err)
	}
	return b
}

func ask(t testing.TB, name string, kind uint16) []byte {
	return packed(t, new(dns.Msg).SetQuestion(name, kind))
}

func unpacked(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack: %v", err)
	}
	return m
}

func TestRefusal(t *testing.T) {
	change := func(f func(*dns.Msg)) []byte {
		m := new(dns.Msg).SetQuestion("web.lab.", dns.TypeA)
		f(m)
		return packed(t, m)
	}
	pointer := ask(t, "web.lab.", dns.TypeA)
	pointer = append(pointer[:headerSize], 0xc0, 0, 0, 1, 0, 1)
	tests := []struct {
		name  string
		query []byte
		want  int // -1: no query
	}{
		{"address", ask(t, "web.lab.", dns.TypeA), 0},
		{"with EDNS", change(func(m *dns.Msg) { m.SetEdns0(1232, true) }), 0},
		{"root", ask(t, ".", dns.TypeNS), 0},
		{"transfer", ask(t, "lab.", dns.TypeAXFR), rcodeRefused},
		{"incremental transfer", ask(t, "lab.", dns.TypeIXFR), rcodeRefused},
		{"chaos", change(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), rcodeRefused},
		{"update", change(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), rcodeNotImp},
		{"no question", change(func(m *dns.Msg) { m.Question = nil }), rcodeFormErr},
		{"two questions", change(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), rcodeFormErr},
		{"compressed question", pointer, rcodeFormErr},
		{"cut off", ask(t, "web.lab.", dns.TypeA)[:18], rcodeFormErr},
		{"response", change(func(m *dns.Msg) { m.Response = true }), -1},
		{"short", make([]byte, 11), -1},
	}
	for _, tt := range tests {
		got, err := refusal(tt.query)
		if err != nil {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%s: got %d (%v), want %d", tt.name, got, err, tt.want)
		}
		if tt.want > 0 {
			m := unpacked(t, failure(tt.query, tt.want))
			if !m.Response || m.Rcode != tt.want || m.Id != unpackID(tt.query) {
				t.Errorf("%s: answer of the exit is %v", tt.name, m)
			}
		}
	}
}

func unpackID(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

func TestAnswers(t *testing.T) {
	q := new(dns.Msg).SetQuestion("web.lab.", dns.TypeA)
	tests := []struct {
		name   string
		change func(m *dns.Msg)
		want   bool
	}{
		{"right", func(*dns.Msg) {}, true},
		{"other case", func(m *dns.Msg) { m.Question[0].Name = "WEB.lAb." }, true},
		{"other identifier", func(m *dns.Msg) { m.Id++ }, false},
		{"query", func(m *dns.Msg) { m.Response = false }, false},
		{"other name", func(m *dns.Msg) { m.Question[0].Name = "wab.lab." }, false},
		{"other type", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }, false},
		{"other class", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, false},
		{"other opcode", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, false},
		{"no question", func(m *dns.Msg) { m.Question = nil }, false},
	}
	for _, tt := range tests {
		m := new(dns.Msg).SetReply(q)
		tt.change(m)
		if got := answers(packed(t, q), packed(t, m)); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// FuzzAnswers: a reply that is taken for an answer carries the query's
// identifier and question, by the judgement of another parser.
func FuzzAnswers(f *testing.F) {
	q := new(dns.Msg).SetQuestion("web.lab.", dns.TypeA)
	f.Add(packed(f, q), packed(f, new(dns.Msg).SetReply(q)))
	f.Add(packed(f, q), packed(f, q))
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'w'}, make([]byte, 20))
	f.Fuzz(func(t *testing.T, query, reply []byte) {
		code, err := refusal(query)
		if err != nil {
			return
		}
		own := failure(query, max(code, rcodeServFail))
		if question(query) != nil && !answers(query, own) {
			t.Errorf("the exit's own answer %x does not answer %x", own, query)
		}
		if !answers(query, reply) {
			return
		}
		var a, b dns.Msg
		if a.Unpack(query) != nil || b.Unpack(reply) != nil {
			return // names that this parser does not print, records cut off behind the question
		}
		if a.Id != b.Id || !b.Response || len(b.Question) != 1 || a.Question[0].Qtype != b.Question[0].Qtype ||
			!bytes.EqualFold([]byte(a.Question[0].Name), []byte(b.Question[0].Name)) {
			t.Errorf("%v taken for an answer to %v", &b, &a)
		}
	})
}
