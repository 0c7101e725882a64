package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	client = netip.MustParseAddrPort("10.77.101.2:40000")
	guard  = netip.MustParseAddrPort("10.77.1.2:443")
	server = netip.MustParseAddrPort("10.99.0.2:80")
	six    = netip.MustParseAddrPort("[fd77:101::2]:40000")
	guard6 = netip.MustParseAddrPort("[fd77:1::2]:443")
)

// frame builds an Ethernet frame with a TCP or UDP packet.
func frame(protocol byte, src, dst netip.AddrPort, payload string) []byte {
	var t []byte
	t = binary.BigEndian.AppendUint16(t, src.Port())
	t = binary.BigEndian.AppendUint16(t, dst.Port())
	if protocol == protoTCP {
		t = append(t, make([]byte, 16)...)
		t[12] = 5 << 4
	} else {
		t = binary.BigEndian.AppendUint16(t, uint16(8+len(payload)))
		t = append(t, 0, 0)
	}
	return packetFrame(protocol, src.Addr(), dst.Addr(), 64, append(t, payload...))
}

func packetFrame(protocol byte, src, dst netip.Addr, hops byte, body []byte) []byte {
	b := make([]byte, 14)
	if src.Is4() {
		binary.BigEndian.PutUint16(b[12:], etherIPv4)
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, hops, protocol
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		return append(append(b, h...), body...)
	}
	binary.BigEndian.PutUint16(b[12:], etherIPv6)
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, protocol, hops
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(append(b, h...), body...)
}

func arpFor(operation byte, target string) []byte {
	b := make([]byte, 14+24, 14+28)
	binary.BigEndian.PutUint16(b[12:], etherARP)
	b[14+7] = operation
	return append(b, netip.MustParseAddr(target).AsSlice()...)
}

func newScanner(t testing.TB, peers []netip.AddrPort, texts ...string) *Scanner {
	t.Helper()
	rules := Rules{Peers: peers}
	for _, text := range texts {
		rules.Texts = append(rules.Texts, Text{text, []byte(text)})
	}
	s, err := NewScanner(rules)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJudgement(t *testing.T) {
	arp := make([]byte, 42)
	binary.BigEndian.PutUint16(arp[12:], etherARP)
	lldp := make([]byte, 60)
	binary.BigEndian.PutUint16(lldp[12:], 0x88cc)
	mld := packetFrame(protoHopByHop, six.Addr(), netip.MustParseAddr("ff02::16"), 1, append([]byte{protoICMPv6, 0, 5, 2, 0, 0, 1, 0}, 143, 0, 0, 0))
	fragment := frame(protoUDP, client, guard, "x")
	fragment[14+7] = 1
	for _, c := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"to the guard", frame(protoTCP, client, guard, "x"), "allowed"},
		{"from the guard", frame(protoUDP, guard, client, "x"), "allowed"},
		{"to the guard over IPv6", frame(protoTCP, six, guard6, "x"), "allowed"},
		{"to another port of the guard", frame(protoTCP, client, netip.AddrPortFrom(guard.Addr(), 22), "x"), "foreign"},
		{"to the server", frame(protoTCP, client, server, "x"), "foreign"},
		{"DNS to the server", frame(protoUDP, client, netip.AddrPortFrom(server.Addr(), 53), "x"), "foreign"},
		{"ARP", arp, "neighbor"},
		{"neighbor solicitation", packetFrame(protoICMPv6, six.Addr(), netip.MustParseAddr("ff02::1:ff00:1"), 255, []byte{135, 0, 0, 0}), "neighbor"},
		{"forwarded neighbor solicitation", packetFrame(protoICMPv6, six.Addr(), guard6.Addr(), 63, []byte{135, 0, 0, 0}), "foreign"},
		{"MLD", mld, "neighbor"},
		{"echo to the guard", packetFrame(protoICMP, client.Addr(), guard.Addr(), 64, []byte{8, 0, 0, 0}), "foreign"},
		{"IPv6 echo to the guard", packetFrame(protoICMPv6, six.Addr(), guard6.Addr(), 64, []byte{128, 0, 0, 0}), "foreign"},
		{"fragment", fragment, "foreign"},
		{"LLDP", lldp, "foreign"},
		{"short", []byte{1, 2, 3}, "foreign"},
		{"empty", nil, "foreign"},
		{"cut in the header", frame(protoTCP, client, guard, "x")[:40], "foreign"},
	} {
		s := newScanner(t, []netip.AddrPort{guard, guard6})
		s.Frame(c.frame)
		r := s.Report()
		got := map[string]uint64{"allowed": r.Allowed, "neighbor": r.Neighbor, "foreign": r.Foreign}
		if got[c.want] != 1 || r.Allowed+r.Neighbor+r.Foreign != 1 {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
		if r.Clean() != (c.want != "foreign") || (len(r.Examples) == 1) != (c.want == "foreign") {
			t.Errorf("%s: clean %v with examples %v", c.name, r.Clean(), r.Examples)
		}
	}
}

// TestTargetsAndLocal: what a machine's own test of itself looks for.
func TestTargetsAndLocal(t *testing.T) {
	eapol := make([]byte, 60)
	binary.BigEndian.PutUint16(eapol[12:], 0x888e)
	addr := netip.MustParseAddrPort
	for _, c := range []struct {
		name            string
		frame           []byte
		found           string
		allowed, locals uint64
	}{
		{"ARP for a target", arpFor(1, "198.51.100.1"), "one", 0, 1},
		{"ARP answer about a target", arpFor(2, "198.51.100.1"), "", 0, 1},
		{"ARP for another", arpFor(1, "198.51.100.2"), "", 0, 1},
		{"solicitation for a target", packetFrame(protoICMPv6, six.Addr(), netip.MustParseAddr("ff02::1:ff00:1"), 255,
			append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, addr("[2001:db8::1]:0").Addr().AsSlice()...)), "six", 0, 1},
		{"to a target", frame(protoUDP, client, addr("198.51.100.1:7"), "x"), "one", 0, 0},
		{"to a target by TCP", frame(protoTCP, client, addr("198.51.100.1:9"), "x"), "one", 0, 0},
		{"echo to a target", packetFrame(protoICMP, client.Addr(), addr("198.51.100.1:0").Addr(), 1, []byte{8, 0, 0, 0}), "one", 0, 0},
		{"echo to a target over IPv6", packetFrame(protoICMPv6, six.Addr(), addr("[2001:db8::1]:0").Addr(), 1, []byte{128, 0, 0, 0}), "six", 0, 0},
		{"from a target", frame(protoUDP, addr("198.51.100.1:7"), client, "x"), "", 0, 0},
		{"to a target's port", frame(protoTCP, client, addr("10.77.101.1:53"), "x"), "dns", 0, 0},
		{"to another port of it", frame(protoTCP, client, addr("10.77.101.1:54"), "x"), "", 0, 0},
		{"answer of a listener", frame(protoTCP, netip.AddrPortFrom(client.Addr(), 443), server, "x"), "", 1, 0},
		{"UDP from a listener's port", frame(protoUDP, netip.AddrPortFrom(client.Addr(), 443), server, "x"), "", 0, 0},
		{"DHCP", frame(protoUDP, addr("0.0.0.0:68"), addr("255.255.255.255:67"), "x"), "", 0, 1},
		{"DHCPv6", frame(protoUDP, six, addr("[ff02::1:2]:547"), "x"), "", 0, 0},
		{"DHCPv6 from the client's port", frame(protoUDP, netip.AddrPortFrom(six.Addr(), 546), addr("[ff02::1:2]:547"), "x"), "", 0, 1},
		{"802.1X", eapol, "", 0, 1},
	} {
		s, err := NewScanner(Rules{
			Peers: []netip.AddrPort{guard}, Ports: []uint16{443}, Local: true,
			Targets: map[netip.AddrPort]string{addr("198.51.100.1:0"): "one", addr("[2001:db8::1]:0"): "six", addr("10.77.101.1:53"): "dns"},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Frame(c.frame)
		r := s.Report()
		if r.Found[c.found] != uint64(min(1, len(c.found))) || len(r.Found) > 1 || r.Allowed != c.allowed || r.Neighbor != c.locals {
			t.Errorf("%s: got %+v, want found %q, %d allowed, %d local", c.name, r, c.found, c.allowed, c.locals)
		}
	}
}

func TestTexts(t *testing.T) {
	const text = "X-Canary: tweet-tweet"
	for _, c := range []struct {
		name   string
		pieces []string
		want   uint64
	}{
		{"whole", []string{"GET / HTTP/1.1\r\n" + text + "\r\n"}, 1},
		{"in no piece", []string{"GET / HTTP/1.1", "nothing"}, 0},
		{"across two packets", []string{"GET / X-Canary: tw", "eet-tweet\r\n"}, 1},
		{"across many packets", strings.Split(text, ""), 1},
		{"across after a long packet", []string{strings.Repeat("a", 9000) + text[:7], text[7:] + strings.Repeat("b", 9000)}, 1},
		{"twice", []string{text, "----", text}, 2},
		{"interrupted", []string{text[:7], "----", text[7:]}, 0},
	} {
		s := newScanner(t, nil, text)
		for _, p := range c.pieces {
			s.Frame(frame(protoTCP, client, server, p))
		}
		r := s.Report()
		if r.Found[text] != c.want || r.Clean() != (c.want == 0) {
			t.Errorf("%s: found %d times, clean %v; want %d", c.name, r.Found[text], r.Clean(), c.want)
		}
	}
	s := newScanner(t, nil, text)
	s.Frame(frame(protoTCP, client, server, text[:7]))
	s.Frame(frame(protoTCP, server, client, text[7:]))
	if r := s.Report(); r.Found[text] != 0 {
		t.Error("a text is put together from two directions")
	}
}

func TestFlowsAreBounded(t *testing.T) {
	s := newScanner(t, nil, "canary")
	for i := range 3 * maxFlows {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
		s.Frame(frame(protoUDP, src, server, "payload"))
		if len(s.tails) > maxFlows {
			t.Fatalf("%d flows are kept, want at most %d", len(s.tails), maxFlows)
		}
	}
}

func TestNewScannerRefusesTexts(t *testing.T) {
	for _, text := range []string{"", "abc", strings.Repeat("x", maxText+1)} {
		if _, err := NewScanner(Rules{Texts: []Text{{"t", []byte(text)}}}); err == nil {
			t.Errorf("a text of %d bytes is taken", len(text))
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(frame(protoTCP, client, guard, "canary"))
	f.Add(frame(protoUDP, six, guard6, "canary"))
	f.Add(packetFrame(protoHopByHop, six.Addr(), six.Addr(), 1, []byte{58, 0, 5, 2, 0, 0, 1, 0, 143}))
	f.Add(packetFrame(protoHopByHop, six.Addr(), six.Addr(), 1, []byte{58, 255, 5, 2, 0, 0, 1, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScanner(t, []netip.AddrPort{guard}, "canary")
		before := slices.Clone(b)
		s.Frame(b)
		s.Frame(b)
		if !slices.Equal(b, before) {
			t.Error("the frame was changed")
		}
		if r := s.Report(); r.Frames != 2 || r.Allowed+r.Neighbor+r.Foreign != 2 {
			t.Errorf("two frames are judged as %+v", r)
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	s := newScanner(b, []netip.AddrPort{guard}, "X-Canary: tweet", "\x03web\x03lab\x00", "web.lab", "/bytes/1000")
	data := frame(protoTCP, client, guard, strings.Repeat("0123456789abcdef", 4000))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		s.Frame(data)
	}
}
