package https

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	utls "github.com/refraction-networking/utls"
)

// clientHello records one ClientHello of our client, from the handshake header on.
func clientHello(t *testing.T, name string) []byte {
	t.Helper()
	here, there := net.Pipe()
	conn := utls.UClient(here, &utls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: utls.VersionTLS13}, utls.HelloCustom)
	if err := conn.ApplyPreset(hello()); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- conn.Handshake() }() // ends when the pipe is closed
	buf := make([]byte, 1<<14)
	n, err := there.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if err := there.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Fatal("handshake with nobody: got no error")
	}
	if n < 9 || buf[0] != 22 || int(binary.BigEndian.Uint16(buf[3:])) != n-5 {
		t.Fatalf("the first flight is not one handshake record: % x", buf[:min(n, 9)])
	}
	return buf[5:n]
}

// parsed is what JA4 looks at.
type parsed struct {
	ciphers, extensions, signatures []uint16
	body                            map[uint16][]byte
	groups, shares                  []uint16
}

func isGrease(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

func u16s(b []byte) []uint16 {
	var out []uint16
	for ; len(b) >= 2; b = b[2:] {
		if v := binary.BigEndian.Uint16(b); !isGrease(v) {
			out = append(out, v)
		}
	}
	return out
}

func parseHello(t *testing.T, h []byte) parsed {
	t.Helper()
	p := parsed{body: map[uint16][]byte{}}
	b := h[4+2+32:]     // header, version, random
	b = b[1+int(b[0]):] // session id
	n := int(binary.BigEndian.Uint16(b))
	p.ciphers = u16s(b[2 : 2+n])
	b = b[2+n:]
	b = b[1+int(b[0]):] // compression
	for b = b[2:]; len(b) >= 4; {
		kind, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if !isGrease(kind) {
			p.extensions = append(p.extensions, kind)
			p.body[kind] = b[4 : 4+n]
		}
		b = b[4+n:]
	}
	p.signatures = u16s(p.body[13][2:])
	p.groups = u16s(p.body[10][2:])
	for s := p.body[51][2:]; len(s) >= 4; s = s[4+int(binary.BigEndian.Uint16(s[2:])):] {
		if g := binary.BigEndian.Uint16(s); !isGrease(g) {
			p.shares = append(p.shares, g)
		}
	}
	return p
}

func hexList(v []uint16) string {
	var out []string
	for _, x := range v {
		out = append(out, fmt.Sprintf("%04x", x))
	}
	return strings.Join(out, ",")
}

func hash12(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s)))[:12] }

// ja4 computes the fingerprint as FoxIO's description of JA4 (technical details
// of the TLS client fingerprint, BSD licence) says.
func ja4(p parsed) string {
	sni := "i"
	if _, ok := p.body[0]; ok {
		sni = "d"
	}
	alpn := p.body[16][3:]
	first := alpn[:p.body[16][2]]
	ciphers, rest := slices.Clone(p.ciphers), slices.DeleteFunc(slices.Clone(p.extensions), func(e uint16) bool { return e == 0 || e == 16 })
	slices.Sort(ciphers)
	slices.SortFunc(rest, cmp.Compare[uint16])
	return fmt.Sprintf("t13%s%02d%02d%c%c_%s_%s", sni, len(p.ciphers), len(p.extensions), first[0], first[len(first)-1],
		hash12(hexList(ciphers)), hash12(hexList(rest)+"_"+hexList(p.signatures)))
}

// TestHelloIsChrome compares with the JA4 that others recorded of Chrome 150.
func TestHelloIsChrome(t *testing.T) {
	p := parseHello(t, clientHello(t, "www.example.org"))
	if got, want := ja4(p), "t13d1516h2_8daaf6152771_806a8c22fdea"; got != want {
		t.Errorf("JA4: got %s, want %s", got, want)
	}
	if got, want := string(p.body[16]), "\x00\x0c\x02h2\x08http/1.1"; got != want {
		t.Errorf("ALPN: got %q, want %q", got, want)
	}
	if !strings.Contains(string(p.body[0]), "www.example.org") {
		t.Errorf("server name: got %q", p.body[0])
	}
	const mlkem, x25519 = 0x11ec, 0x001d
	if want := []uint16{mlkem, x25519}; !slices.Equal(p.shares, want) {
		t.Errorf("key shares: got %x, want %x", p.shares, want)
	}
	if want := []uint16{mlkem, x25519, 0x17, 0x18}; !slices.Equal(p.groups, want) {
		t.Errorf("groups: got %x, want %x", p.groups, want)
	}
}

func TestHelloWithoutName(t *testing.T) {
	if got, want := ja4(parseHello(t, clientHello(t, ""))), "t13i1515h2_"; !strings.HasPrefix(got, want) {
		t.Errorf("JA4 without a name: got %s, want %s...", got, want)
	}
}

// TestHelloVaries: the order of extensions and every random value are drawn anew.
func TestHelloVaries(t *testing.T) {
	orders, shares := map[string]bool{}, map[string]bool{}
	for range 8 {
		p := parseHello(t, clientHello(t, "www.example.org"))
		orders[hexList(p.extensions)] = true
		shares[string(p.body[51])] = true
	}
	if len(orders) < 4 || len(shares) != 8 {
		t.Errorf("of 8 hellos %d orders and %d key shares differ, want more than 3 and 8", len(orders), len(shares))
	}
}
