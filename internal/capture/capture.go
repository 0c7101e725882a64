// Package capture watches one interface and judges every frame on the fly: is it
// to or from somebody it may be exchanged with, and does it carry a known text in
// the clear? The lab's demonstration and leak suite use it, and `cuttle selftest`
// on the machine that people use.
//
// A Scanner is pure: frames in, a Report out. A Capture feeds it from a packet
// socket (Linux, root). Frames are judged and forgotten; nothing is written to
// disk. A frame the kernel could not deliver is counted, because a verdict
// with unseen frames is worth nothing. Scanners are not safe for concurrent use;
// Capture has its own goroutine and gives the report when it is stopped.
package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// Text is something that must not, or must, be seen in the clear.
type Text struct {
	Name  string // how reports call it
	Bytes []byte // at least 4 and at most maxText
}

const (
	maxText     = 256  // bytes of a text
	maxFlows    = 4096 // flows whose last bytes are kept to find a text across packets
	maxExamples = 8    // foreign frames described in a report
)

// Rules say what a Scanner looks for.
type Rules struct {
	Peers []netip.AddrPort // who frames may be exchanged with; nil: anybody
	Ports []uint16         // of this machine, at which frames may be exchanged with anybody
	Local bool             // DHCP and EAPOL count as the local link's, too
	Texts []Text
	// Targets are destinations that must not be seen, by name; port 0 is every port
	// and every protocol. Frames to one count as found, and so does the question for
	// its hardware address.
	Targets map[netip.AddrPort]string
	Out     bool // a Capture leaves out the frames that come in
}

// Report is what a Scanner has seen.
type Report struct {
	Frames   uint64            `json:"frames"`
	Bytes    uint64            `json:"bytes"`
	Allowed  uint64            `json:"allowed"`   // to or from a peer
	Neighbor uint64            `json:"neighbor"`  // ARP, IPv6 neighbor discovery, MLD, IGMP: never leave the wire
	Foreign  uint64            `json:"foreign"`   // everything else
	Examples []string          `json:"examples"`  // of foreign frames
	Found    map[string]uint64 `json:"found"`     // texts seen in the clear, by name
	Dropped  uint64            `json:"dropped"`   // frames the kernel could not deliver
	Cut      uint64            `json:"truncated"` // frames longer than the buffer
}

// Clean tells whether nothing but allowed frames without texts was seen, and
// every frame was.
func (r Report) Clean() bool {
	return r.Foreign == 0 && len(r.Found) == 0 && r.Dropped == 0 && r.Cut == 0
}

// flow is one direction of one exchange.
type flow struct {
	src, dst netip.AddrPort
	protocol byte
}

// Scanner judges frames.
type Scanner struct {
	rules  Rules
	peers  map[netip.AddrPort]bool
	tails  map[flow][]byte
	tail   int // bytes kept per flow
	report Report
}

// NewScanner checks the rules.
func NewScanner(rules Rules) (*Scanner, error) {
	s := &Scanner{rules: rules, tails: make(map[flow][]byte), report: Report{Found: make(map[string]uint64)}}
	if rules.Peers != nil {
		s.peers = make(map[netip.AddrPort]bool)
		for _, p := range rules.Peers {
			s.peers[netip.AddrPortFrom(p.Addr().Unmap(), p.Port())] = true
		}
	}
	for _, t := range rules.Texts {
		if len(t.Bytes) < 4 || len(t.Bytes) > maxText {
			return nil, fmt.Errorf("text %q: want 4 to %d bytes", t.Name, maxText)
		}
		s.tail = max(s.tail, len(t.Bytes)-1)
	}
	return s, nil
}

// Report returns what was seen so far.
func (s *Scanner) Report() Report { return s.report }

// Frame judges one Ethernet frame. It keeps no part of b.
func (s *Scanner) Frame(b []byte) {
	s.report.Frames++
	s.report.Bytes += uint64(len(b))
	p := parse(b)
	dst := p.dst
	if p.asks.IsValid() { // the question alone names the destination
		dst = netip.AddrPortFrom(p.asks, 0)
	}
	if name, ok := s.target(dst); ok {
		s.report.Found[name]++
	}
	switch {
	case p.neighbor || s.rules.Local && p.local():
		s.report.Neighbor++
	case s.peers == nil || p.ports && (s.peers[p.src] || s.peers[p.dst] || s.ours(p)):
		s.report.Allowed++
	default:
		s.report.Foreign++
		if len(s.report.Examples) < maxExamples {
			s.report.Examples = append(s.report.Examples, p.describe())
		}
	}
	s.search(p, b)
}

func (s *Scanner) target(dst netip.AddrPort) (name string, ok bool) {
	if name, ok = s.rules.Targets[dst]; !ok {
		name, ok = s.rules.Targets[netip.AddrPortFrom(dst.Addr(), 0)]
	}
	return name, ok
}

// ours tells whether a frame belongs to a port of this machine that is open to
// strangers. Which side is ours is not known here, so either may be it.
func (s *Scanner) ours(p parsed) bool {
	return p.protocol == protoTCP && (slices.Contains(s.rules.Ports, p.src.Port()) || slices.Contains(s.rules.Ports, p.dst.Port()))
}

// local tells whether a frame is DHCP (RFC 2131, RFC 8415) or EAPOL (802.1X).
func (p parsed) local() bool {
	if p.kind == etherEAPOL {
		return true
	}
	a, b := p.src.Port(), p.dst.Port()
	return p.ports && p.protocol == protoUDP &&
		(a == 68 && b == 67 || a == 67 && b == 68 || a == 546 && b == 547 || a == 547 && b == 546)
}

// search looks for the texts in the frame, and across the border to the
// previous frame of its flow.
func (s *Scanner) search(p parsed, frame []byte) {
	for _, t := range s.rules.Texts {
		if bytes.Contains(frame, t.Bytes) {
			s.report.Found[t.Name]++
		}
	}
	if !p.ports || len(p.payload) == 0 || s.tail == 0 {
		return
	}
	key := flow{p.src, p.dst, p.protocol}
	old, known := s.tails[key]
	if !known && len(s.tails) >= maxFlows {
		clear(s.tails)
	}
	border := append(old[:len(old):len(old)], p.payload[:min(len(p.payload), s.tail)]...)
	for _, t := range s.rules.Texts {
		if i := bytes.Index(border, t.Bytes); i >= 0 && i < len(old) && i+len(t.Bytes) > len(old) {
			s.report.Found[t.Name]++
		}
	}
	if len(p.payload) >= s.tail {
		border = p.payload
	}
	s.tails[key] = append(old[:0], border[max(0, len(border)-s.tail):]...)
}

// parsed is what the judgement needs of a frame.
type parsed struct {
	what     string     // for describe
	kind     uint16     // EtherType
	asks     netip.Addr // whose hardware address is asked for
	neighbor bool
	ports    bool // src and dst have ports
	src, dst netip.AddrPort
	protocol byte
	payload  []byte // of TCP or UDP
}

func (p parsed) describe() string {
	if p.src.IsValid() {
		return fmt.Sprintf("%s from %s to %s", p.what, p.src, p.dst)
	}
	return p.what
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	etherEAPOL = 0x888e

	protoHopByHop = 0
	protoICMP     = 1
	protoIGMP     = 2
	protoTCP      = 6
	protoUDP      = 17
	protoICMPv6   = 58
)

// parse reads Ethernet II with ARP, IPv4 or IPv6. What it cannot read is a
// frame that is neither a neighbor's nor has ports.
func parse(b []byte) parsed {
	if len(b) < 14 {
		return parsed{what: "short frame"}
	}
	body := b[14:]
	switch kind := binary.BigEndian.Uint16(b[12:]); kind {
	case etherARP:
		p := parsed{what: "ARP", neighbor: true}
		if len(body) >= 28 && body[7] == 1 { // a request, RFC 826
			p.asks = netip.AddrFrom4([4]byte(body[24:28]))
		}
		return p
	case etherIPv4:
		return parseIPv4(body)
	case etherIPv6:
		return parseIPv6(body)
	default:
		return parsed{what: fmt.Sprintf("ethernet type %04x", kind), kind: kind}
	}
}

// parseIPv4 reads RFC 791.
func parseIPv4(b []byte) parsed {
	if len(b) < 20 || int(b[0]&15)*4 < 20 || len(b) < int(b[0]&15)*4 {
		return parsed{what: "broken IPv4"}
	}
	p := parsed{protocol: b[9], what: fmt.Sprintf("IPv4 protocol %d", b[9])}
	p.src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), 0)
	p.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
	p.neighbor = p.protocol == protoIGMP && p.dst.Addr().IsMulticast()
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		p.what = "IPv4 fragment"
		return p
	}
	end := len(b)
	if total := int(binary.BigEndian.Uint16(b[2:])); total >= int(b[0]&15)*4 && total < end {
		end = total // padding of short Ethernet frames
	}
	p.transport(b[int(b[0]&15)*4 : end])
	return p
}

// parseIPv6 reads RFC 8200 with at most one hop-by-hop header, as MLD has.
func parseIPv6(b []byte) parsed {
	if len(b) < 40 {
		return parsed{what: "broken IPv6"}
	}
	p := parsed{protocol: b[6]}
	p.src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), 0)
	p.dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), 0)
	rest := b[40:]
	if p.protocol == protoHopByHop && len(rest) >= 8 {
		if n := (int(rest[1]) + 1) * 8; len(rest) >= n {
			p.protocol, rest = rest[0], rest[n:]
		}
	}
	p.what = fmt.Sprintf("IPv6 protocol %d", p.protocol)
	if p.protocol == protoICMPv6 && len(rest) > 0 {
		p.what = fmt.Sprintf("ICMPv6 type %d", rest[0])
		switch rest[0] {
		case 130, 131, 132, 143: // MLD, RFC 2710 and 3810
			p.neighbor = true
		case 133, 134, 135, 136, 137: // neighbor discovery, RFC 4861; hop limit 255: never forwarded
			p.neighbor = b[7] == 255
			if rest[0] == 135 && len(rest) >= 24 {
				p.asks = netip.AddrFrom16([16]byte(rest[8:24]))
			}
		}
		return p
	}
	p.transport(rest)
	return p
}

// transport reads the ports of TCP and UDP.
func (p *parsed) transport(b []byte) {
	var header int
	switch {
	case p.protocol == protoTCP && len(b) >= 20:
		header = int(b[12]>>4) * 4
		p.what = "TCP"
	case p.protocol == protoUDP && len(b) >= 8:
		header = 8
		p.what = "UDP"
	default:
		return
	}
	p.ports = true
	p.src = netip.AddrPortFrom(p.src.Addr(), binary.BigEndian.Uint16(b))
	p.dst = netip.AddrPortFrom(p.dst.Addr(), binary.BigEndian.Uint16(b[2:]))
	if header <= len(b) {
		p.payload = b[header:]
	}
}
