package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Protocol numbers of IP (IANA), the few that are told apart here.
const (
	protoHopByHop = 0
	protoICMP4    = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoICMP6    = 58
	protoNone     = 59
	protoOptions  = 60
)

// broadcast is IPv4's limited broadcast (RFC 919).
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// summary is what the link needs to know of a packet before gVisor sees it.
type summary struct {
	src, dst netip.Addr
	proto    uint8 // of the transport header
	payload  int   // where the transport header starts
	fragment bool  // one of several; only the first has a transport header
	first    bool  // not a fragment, or the first one
	fixed    bool  // must not be fragmented: IPv4 with DF, IPv6 always
}

// summarize reads the network header of b (RFC 791, RFC 8200). False means that
// b is malformed.
func summarize(b []byte) (summary, bool) {
	if len(b) < 20 {
		return summary{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return summarize4(b)
	case 6:
		return summarize6(b)
	}
	return summary{}, false
}

func summarize4(b []byte) (summary, bool) {
	size := int(b[0]&0xf) * 4
	if size < 20 || len(b) < size || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return summary{}, false
	}
	cut := binary.BigEndian.Uint16(b[6:])
	return summary{
		src:      netip.AddrFrom4([4]byte(b[12:16])),
		dst:      netip.AddrFrom4([4]byte(b[16:20])),
		proto:    b[9],
		payload:  size,
		fragment: cut&0x3fff != 0,
		first:    cut&0x1fff == 0,
		fixed:    cut&0x4000 != 0,
	}, true
}

func summarize6(b []byte) (summary, bool) {
	if len(b) < 40 || int(binary.BigEndian.Uint16(b[4:]))+40 != len(b) {
		return summary{}, false
	}
	s := summary{
		src:     netip.AddrFrom16([16]byte(b[8:24])),
		dst:     netip.AddrFrom16([16]byte(b[24:40])),
		proto:   b[6],
		payload: 40,
		first:   true,
		fixed:   true,
	}
	for range 8 { // more extension headers than that are not seen in practice
		rest := b[s.payload:]
		switch s.proto {
		case protoHopByHop, protoRouting, protoOptions:
			if len(rest) < 8 || len(rest) < 8*(int(rest[1])+1) {
				return summary{}, false
			}
			s.proto, s.payload = rest[0], s.payload+8*(int(rest[1])+1)
		case protoFragment:
			if len(rest) < 8 {
				return summary{}, false
			}
			s.fragment = true
			s.first = binary.BigEndian.Uint16(rest[2:])&^7 == 0
			s.proto, s.payload = rest[0], s.payload+8
			if !s.first {
				return s, true
			}
		default:
			return s, true
		}
	}
	return summary{}, false
}

// verified tells whether the checksum of the TCP or UDP packet b, of which s is
// the summary, holds.
func verified(b []byte, s summary) bool {
	transport := b[s.payload:]
	if s.proto == protoUDP && len(transport) >= 8 && transport[6] == 0 && transport[7] == 0 {
		return s.dst.Is4() // none was sent; IPv6 demands one (RFC 8200 section 8.1)
	}
	return checksum.Checksum(transport, pseudoHeader(s.src, s.dst, s.proto, len(transport))) == 0xffff
}

// pseudoHeader is the sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200
// section 8.1).
func pseudoHeader(src, dst netip.Addr, proto uint8, size int) uint16 {
	sum := checksum.Checksum(src.AsSlice(), 0)
	sum = checksum.Checksum(dst.AsSlice(), sum)
	var tail [8]byte
	binary.BigEndian.PutUint32(tail[:], uint32(size))
	tail[7] = proto
	return checksum.Checksum(tail[:], sum)
}

// problem is what an ICMP error says.
type problem uint8

const (
	portUnreachable problem = iota
	hostUnreachable
	netUnreachable
	prohibited
	tooBig
	timeExceeded
)

// Types and codes of ICMP (RFC 792, RFC 1812 section 5.2.7.1) and ICMPv6 (RFC
// 4443 section 3) for each problem.
var (
	icmp4Codes = [...][2]byte{portUnreachable: {3, 3}, hostUnreachable: {3, 1}, netUnreachable: {3, 0}, prohibited: {3, 13}, tooBig: {3, 4}, timeExceeded: {11, 0}}
	icmp6Codes = [...][2]byte{portUnreachable: {1, 4}, hostUnreachable: {1, 3}, netUnreachable: {1, 0}, prohibited: {1, 1}, tooBig: {2, 0}, timeExceeded: {3, 0}}
)

// Longest ICMP errors: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
const (
	icmp4Max = 576
	icmp6Max = 1280
)

// icmpError makes the packet that tells the sender of original what went wrong;
// mtu counts for tooBig only. It comes from the destination's address, which is
// the only one besides the sender's that is certainly routed through us.
// Original is at least a network header that summarize has accepted.
func icmpError(what problem, original []byte, mtu int) []byte {
	if original[0]>>4 == 4 {
		return icmp4Error(what, original, mtu)
	}
	return icmp6Error(what, original, mtu)
}

func icmp4Error(what problem, original []byte, mtu int) []byte {
	quote := original[:min(len(original), icmp4Max-28)]
	b := make([]byte, 28+len(quote))
	b[0] = 0x45
	b[1] = 0xc0 // internetwork control, RFC 1812 section 4.3.2.5
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[8] = 64
	b[9] = protoICMP4
	copy(b[12:16], original[16:20])
	copy(b[16:20], original[12:16])
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
	icmp := b[20:]
	icmp[0], icmp[1] = icmp4Codes[what][0], icmp4Codes[what][1]
	if what == tooBig {
		binary.BigEndian.PutUint16(icmp[6:], uint16(mtu)) // RFC 1191 section 4
	}
	copy(icmp[8:], quote)
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Checksum(icmp, 0))
	return b
}

func icmp6Error(what problem, original []byte, mtu int) []byte {
	quote := original[:min(len(original), icmp6Max-48)]
	b := make([]byte, 48+len(quote))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(quote)))
	b[6] = protoICMP6
	b[7] = 64
	copy(b[8:24], original[24:40])
	copy(b[24:40], original[8:24])
	icmp := b[40:]
	icmp[0], icmp[1] = icmp6Codes[what][0], icmp6Codes[what][1]
	if what == tooBig {
		binary.BigEndian.PutUint32(icmp[4:], uint32(mtu)) // RFC 4443 section 3.2
	}
	copy(icmp[8:], quote)
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Checksum(icmp, pseudoHeader(src, dst, protoICMP6, len(icmp))))
	return b
}

// quoteUDP makes the header of a datagram of f, to be quoted in an ICMP error.
// Receivers look for addresses and ports only.
func quoteUDP(f Flow) []byte {
	src, dst := f.Src(), f.Dst()
	var b []byte
	if src.Addr().Is4() {
		b = make([]byte, 28)
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], 28)
		b[8], b[9] = 64, protoUDP
		s, d := src.Addr().As4(), dst.Addr().As4()
		copy(b[12:], s[:])
		copy(b[16:], d[:])
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
	} else {
		b = make([]byte, 48)
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], 8)
		b[6], b[7] = protoUDP, 64
		s, d := src.Addr().As16(), dst.Addr().As16()
		copy(b[8:], s[:])
		copy(b[24:], d[:])
	}
	u := b[len(b)-8:]
	binary.BigEndian.PutUint16(u[0:], src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], 8)
	return b
}
