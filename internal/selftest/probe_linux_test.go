package selftest

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"cuttle/internal/capture"
)

// TestFramesAreRecognised builds what attempts send by themselves and has the
// capture's scanner find it under the attempt's name.
func TestFramesAreRecognised(t *testing.T) {
	p := newProbes([8]byte{0xff, 0xff, 0xff, 0xff, 1})
	d := device{name: "eth9", index: 9, hardware: net.HardwareAddr{2, 0, 0, 0, 0, 1}, source4: netip.MustParseAddr("10.0.0.1")}
	ether := func(kind uint16, body []byte) []byte {
		f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, d.hardware...)
		return append(append(f, byte(kind>>8), byte(kind)), body...)
	}
	four, six := p.packet(false, "four", d.source4), p.packet(true, "six", netip.Addr{})
	question := dnsQuestion(p.text("question"))
	var m dns.Msg
	if err := m.Unpack(question); err != nil || len(m.Question) != 1 {
		t.Errorf("the question cannot be read: %v", err)
	}
	s, err := capture.NewScanner(capture.Rules{Peers: []netip.AddrPort{}, Texts: p.texts, Targets: p.targets, Local: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Frame(ether(unix.ETH_P_IP, four))
	s.Frame(ether(unix.ETH_P_IPV6, six))
	s.Frame(ether(unix.ETH_P_IP, append(append([]byte{}, four[:20]...), question...)))
	r := s.Report()
	if r.Found["four"] != 2 || r.Found["six"] != 1 || r.Found["question"] != 1 || r.Foreign != 3 {
		t.Errorf("found %v, %d foreign", r.Found, r.Foreign)
	}
	if checksum(four[:20]) != 0 || four[8] != hops || six[7] != hops {
		t.Errorf("headers are wrong: % x, % x", four[:20], six[:40])
	}
}

// TestNamesAreApart: every attempt has a name of its own, so that the row that is
// named is the one that got out.
func TestNamesAreApart(t *testing.T) {
	p := newProbes([8]byte{1})
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	d := device{name: "eth9", index: 9, hardware: make(net.HardwareAddr, 6), source4: a("10.0.0.1"), source6: a("fd00::1"), router4: a("10.0.0.2"), router6: a("fe80::1")}
	seen := map[string]bool{}
	for _, at := range append(p.everywhere(), p.on(d)...) {
		if seen[at.name] || at.tried == "" || at.send == nil {
			t.Errorf("attempt %q comes twice, or is not whole", at.name)
		}
		seen[at.name] = true
	}
	found := map[string]bool{}
	for _, name := range p.targets {
		found[name] = true
	}
	for _, text := range p.texts {
		found[text.Name] = true
	}
	for name := range seen {
		if !found[name] && name != "frame past the queue on eth9" {
			t.Errorf("nothing tells the frames of %q", name)
		}
	}
	if len(seen) < 30 {
		t.Errorf("only %d attempts", len(seen))
	}
}

func TestAskPage(t *testing.T) {
	for body, want := range map[string]string{
		"203.0.113.7\n":                         "203.0.113.7",
		`{"version":"1.2","ip":"2001:db8::7"}`:  "2001:db8::7",
		"<html>your address is 5.6.7.8.</html>": "5.6.7.8",
		"<b>your address: 5.6.7.8</b>":          "5.6.7.8",
		"nothing here":                          "",
		"":                                      "",
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		got, err := askPage(t.Context(), web.URL)
		web.Close()
		if want == "" && err == nil || want != "" && got.String() != want {
			t.Errorf("%q: got %v, %v; want %q", body, got, err, want)
		}
	}
}

func FuzzFirstAddress(f *testing.F) {
	f.Add("1.2.3.4")
	f.Add("::ffff:1.2.3.4")
	f.Fuzz(func(t *testing.T, text string) {
		if a, err := firstAddress(text); (err == nil) != a.IsValid() {
			t.Errorf("%q: %v, %v", text, a, err)
		}
	})
}
