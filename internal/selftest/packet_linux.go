package selftest

import (
	"encoding/binary"
	"net/netip"
)

const protocolUDP = 17

// packet is a UDP packet to a target of its own, as programs with a packet socket
// make it.
func (p *probes) packet(v6 bool, name string, source netip.Addr) []byte {
	to := p.target(v6, name)
	udp := []byte{0, 9, 0, 9, 0, byte(8 + len(p.token)), 0, 0} // ports, length, no sum
	udp = append(udp, p.token...)
	if to.Is6() {
		if !source.Is6() {
			source = netip.IPv6Unspecified()
		}
		h := make([]byte, 8, 40+len(udp))
		h[0], h[6], h[7] = 0x60, protocolUDP, hops
		binary.BigEndian.PutUint16(h[4:], uint16(len(udp)))
		return append(append(append(h, source.AsSlice()...), to.AsSlice()...), udp...)
	}
	if !source.Is4() {
		source = netip.IPv4Unspecified()
	}
	h := make([]byte, 12, 20+len(udp))
	h[0], h[8], h[9] = 0x45, hops, protocolUDP
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(udp)))
	h = append(append(h, source.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, udp...)
}

// checksum is RFC 1071's.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// dnsQuestion is a question for a name below .invalid (RFC 6761), which has the
// text as a label, at most 63 bytes.
func dnsQuestion(text []byte) []byte {
	b := []byte{0x63, 0x75, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, byte(len(text))}
	b = append(append(b, text...), "\x07invalid\x00"...)
	return append(b, 0, 1, 0, 1) // A, IN
}
