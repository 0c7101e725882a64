package web

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Zone is what the DNS server knows: names, lower case with a final dot, and
// their addresses. A name it does not know does not exist. Two names are made
// up: servfail.lab. fails, and big.lab. has TXT records that do not fit into a
// UDP answer.
type Zone map[string][]netip.Addr

const ttl = 60 // seconds

// ServeDNS answers one query (RFC 1035).
func (z Zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := z.answer(q)
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // the caller has gone; nobody to tell
}

func (z Zone) answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	if len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		return m.SetRcode(q, dns.RcodeNotImplemented)
	}
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(4096, o.Do())
	}
	question := q.Question[0]
	name := strings.ToLower(question.Name)
	header := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: question.Name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
	}
	switch name {
	case "servfail.lab.":
		m.Rcode = dns.RcodeServerFailure
		return m
	case "big.lab.":
		if question.Qtype == dns.TypeTXT {
			for range 16 {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: header(dns.TypeTXT), Txt: []string{strings.Repeat("x", 250)}})
			}
		}
		return m
	}
	addrs, ok := z[name]
	if !ok {
		m.Rcode = dns.RcodeNameError
	}
	for _, a := range addrs {
		switch {
		case a.Is4() && question.Qtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: header(dns.TypeA), A: a.AsSlice()})
		case a.Is6() && question.Qtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	if len(m.Answer) == 0 { // RFC 2308: a negative answer carries the zone's SOA
		soa := &dns.SOA{Hdr: header(dns.TypeSOA), Ns: "ns.lab.", Mbox: "root.lab.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl}
		soa.Hdr.Name = "lab."
		m.Ns = append(m.Ns, soa)
	}
	return m
}
