package stack

import (
	"bytes"
	"context"
	"net/netip"
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
	if o := m.IsEdns0(); o == nil || !o.Do() || o.Version() != 0 {
		t.Errorf("EDNS of the answer is %v, want it as in the question", o)
	}
	b[2] |= 0x80
	if serverFailure(b) != nil {
		t.Error("an answer was answered")
	}
	if serverFailure(b[:11]) != nil {
		t.Error("half a header was answered")
	}
}

// TestDNSTypes: records of every type go to programs as they are, over both transports,
// and what is too large for UDP is cut to nothing, with the sign to ask over TCP.
func TestDNSTypes(t *testing.T) {
	kinds := []uint16{0xff00}
	for kind := range dns.TypeToString {
		if dns.TypeToRR[kind] != nil && kind != dns.TypeOPT && kind < 249 {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) < 60 {
		t.Fatalf("%d types, want those of the registry", len(kinds))
	}
	var size int
	d := &direct{resolve: func(_ context.Context, _ Flow, query []byte) ([]byte, error) {
		var m dns.Msg
		if err := m.Unpack(query); err != nil {
			return nil, err
		}
		// Data of no type's form: the stack passes on bytes.
		h := dns.RR_Header{Name: m.Question[0].Name, Rrtype: m.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
		b, err := new(dns.Msg).SetReply(&m).Pack()
		if err != nil {
			return nil, err
		}
		b[7] = 1 // one answer
		b = append(b, 0xc0, dnsHeader, byte(h.Rrtype>>8), byte(h.Rrtype), 0, 1, 0, 0, 0, 60, byte(size>>8), byte(size))
		return append(b, bytes.Repeat([]byte{0xa5}, size)...), nil
	}}
	p := newPrograms(t, d, Config{})
	tcp, err := p.dialTCP(t, netip.AddrPortFrom(far4, 53))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	over := map[string]*dns.Conn{
		"udp": {Conn: p.dialUDP(t, netip.AddrPortFrom(far4, 53))},
		"tcp": {Conn: tcp},
	}
	for _, size = range []int{40, 2000, 60000} {
		for _, kind := range kinds {
			for network, c := range over {
				q, err := new(dns.Msg).SetQuestion("host.example.", kind).Pack()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write(q); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 1<<16)
				n, err := c.Read(b)
				if err != nil {
					t.Fatalf("type %d over %s: %v", kind, network, err)
				}
				cut := b[2]&0x02 != 0
				if want := network == "udp" && size > dnsPlain; cut != want || !cut && !bytes.HasSuffix(b[:n], bytes.Repeat([]byte{0xa5}, size)) {
					t.Errorf("type %d of %d bytes over %s: %d bytes came, cut off %v; want %v, or all", kind, size, network, n, cut, want)
				}
			}
		}
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
