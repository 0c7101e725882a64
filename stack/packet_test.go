package stack

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// packet4 makes an IPv4 packet, RFC 791.
func packet4(src, dst netip.Addr, proto byte, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	finish4(b)
	return append(b, payload...)
}

// finish4 sets the header checksum.
func finish4(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
}

// packet6 makes an IPv6 packet, RFC 8200.
func packet6(src, dst netip.Addr, proto byte, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func TestSummarize(t *testing.T) {
	fragment4 := packet4(program4, far4, protoUDP, make([]byte, 8))
	fragment4[6], fragment4[7] = 0x20, 0x01
	df := packet4(program4, far4, protoTCP, make([]byte, 20))
	df[6] = 0x40
	short := packet4(program4, far4, protoUDP, make([]byte, 8))
	extended := packet6(program6, far6, protoHopByHop, append([]byte{protoFragment, 0, 0, 0, 0, 0, 0, 0}, append([]byte{protoUDP, 0, 0, 1, 0, 0, 0, 9}, make([]byte, 8)...)...))
	later := packet6(program6, far6, protoFragment, append([]byte{protoUDP, 0, 1, 0, 0, 0, 0, 9}, make([]byte, 8)...))
	tests := []struct {
		name string
		b    []byte
		want summary
		ok   bool
	}{
		{"udp over ipv4", packet4(program4, far4, protoUDP, make([]byte, 8)), summary{src: program4, dst: far4, proto: protoUDP, payload: 20, first: true}, true},
		{"fragment of ipv4", fragment4, summary{src: program4, dst: far4, proto: protoUDP, payload: 20, fragment: true}, true},
		{"with DF", df, summary{src: program4, dst: far4, proto: protoTCP, payload: 20, first: true, fixed: true}, true},
		{"cut short", short[:len(short)-1], summary{}, false},
		{"udp over ipv6", packet6(program6, far6, protoUDP, make([]byte, 8)), summary{src: program6, dst: far6, proto: protoUDP, payload: 40, first: true, fixed: true}, true},
		{"first fragment after options", extended, summary{src: program6, dst: far6, proto: protoUDP, payload: 56, fragment: true, first: true, fixed: true}, true},
		{"later fragment of ipv6", later, summary{src: program6, dst: far6, proto: protoUDP, payload: 48, fragment: true, fixed: true}, true},
		{"options that run over", packet6(program6, far6, protoOptions, []byte{protoUDP, 1, 0, 0, 0, 0, 0, 0}), summary{}, false},
		{"no version", make([]byte, 40), summary{}, false},
		{"nothing", nil, summary{}, false},
	}
	for _, test := range tests {
		got, ok := summarize(test.b)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("%s: got %+v, %v; want %+v, %v", test.name, got, ok, test.want, test.ok)
		}
	}
}

func TestVerified(t *testing.T) {
	u := []byte{9, 9, 0, 7, 0, 9, 0, 0, 'x'}
	b := packet4(program4, far4, protoUDP, u)
	s, _ := summarize(b)
	if !verified(b, s) {
		t.Error("UDP without a checksum over IPv4 is refused")
	}
	sum := ^checksum.Checksum(u, pseudoHeader(program4, far4, protoUDP, len(u)))
	binary.BigEndian.PutUint16(b[26:], sum)
	if !verified(b, s) {
		t.Error("a right checksum is refused")
	}
	b[28] ^= 1
	if verified(b, s) {
		t.Error("a wrong checksum is accepted")
	}
	b = packet6(program6, far6, protoUDP, u)
	if s, _ = summarize(b); verified(b, s) {
		t.Error("UDP without a checksum over IPv6 is accepted")
	}
}

// FuzzSummarize checks that nothing that a program sends makes the link's
// parsers fail, and that what we answer is well formed.
func FuzzSummarize(f *testing.F) {
	f.Add(packet4(program4, far4, protoUDP, make([]byte, 8)))
	f.Add(packet6(program6, far6, protoHopByHop, []byte{protoUDP, 0, 0, 0, 0, 0, 0, 0}))
	f.Add(packet6(program6, far6, protoFragment, []byte{protoTCP, 0, 0, 1, 0, 0, 0, 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := summarize(b)
		if !ok {
			return
		}
		if s.payload > len(b) {
			t.Fatalf("transport header at %d of %d bytes", s.payload, len(b))
		}
		verified(b, s)
		for _, what := range []problem{portUnreachable, hostUnreachable, netUnreachable, prohibited, tooBig} {
			e, ok := summarize(icmpError(what, b, 1500))
			if !ok || e.src != s.dst || e.dst != s.src || len(icmpError(what, b, 1500)) > icmp6Max {
				t.Fatalf("answer %+v (%v) to %+v", e, ok, s)
			}
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	packet := packet4(program4, far4, protoTCP, make([]byte, 1460))
	b.ReportAllocs()
	for b.Loop() {
		if s, ok := summarize(packet); !ok || s.proto != protoTCP {
			b.Fatal("refused")
		}
	}
}
