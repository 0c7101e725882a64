package stack

import (
	"bytes"
	"testing"

	"github.com/miekg/dns"
)

func TestServerFailure(t *testing.T) {
	q := new(dns.Msg).SetQuestion("host.example.", dns.TypeAAAA)
	q.SetEdns0(1232, true)
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var m dns.Msg
	if err := m.Unpack(serverFailure(b)); err != nil {
		t.Fatal(err)
	}
	if m.Id != q.Id || !m.Response || m.Rcode != dns.RcodeServerFailure || len(m.Question) != 1 || m.Question[0] != q.Question[0] {
		t.Errorf("answer to\n%v\nis\n%v\nwant SERVFAIL with the same question", q, &m)
	}
	b[2] |= 0x80
	if serverFailure(b) != nil {
		t.Error("an answer was answered")
	}
	if serverFailure(b[:11]) != nil {
		t.Error("half a header was answered")
	}
}

func FuzzQuestion(f *testing.F) {
	b, err := new(dns.Msg).SetQuestion("host.example.", dns.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b[:len(b)-3:len(b)-3], 0xff))
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63})
	f.Fuzz(func(t *testing.T, query []byte) {
		before := bytes.Clone(query)
		reply := serverFailure(query)
		if !bytes.Equal(query, before) {
			t.Fatal("the question was changed")
		}
		if reply == nil {
			return
		}
		var m dns.Msg
		if err := m.Unpack(reply); err != nil && len(reply) > dnsHeader {
			// The name is copied, so a name that the library refuses stays one;
			// lengths must hold in any case.
			if questionEnd(query) > len(query) {
				t.Fatal("question ends after the message")
			}
		}
		fitUDP(query, make([]byte, 4096))
	})
}
