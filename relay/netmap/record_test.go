package netmap

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testSigner(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
}

func testID(n byte) wire.NodeID { return wire.NodeID(testSigner(n).Public().(ed25519.PublicKey)) }

// fullRecord has every list as long as it may be.
func fullRecord() Record {
	r := Record{KEM: bytes.Repeat([]byte{7}, wire.KEMPublicSize), Sequence: 1<<63 + 5, From: 1000, Until: 2000, Roles: Relay | Exit,
		Families: IPv4 | IPv6, Country: "SE", RelayPrice: 3, ExitPrice: 250}
	for i := range MaxMasks {
		r.Masks = append(r.Masks, strings.Repeat(string(rune('a'+i)), 14)+"-1")
	}
	for i := range MaxPorts {
		r.Ports = append(r.Ports, PortRange{uint16(i * 100), uint16(i*100 + i)})
	}
	for i := range MaxNeighbors {
		r.Neighbors = append(r.Neighbors, wire.NodeID{byte(200 - i), 1})
	}
	return r
}

func sign(t testing.TB, n byte, r Record) *Record {
	t.Helper()
	out, err := Sign(testSigner(n), r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRecordRoundTrip(t *testing.T) {
	for name, r := range map[string]Record{
		"full":  fullRecord(),
		"empty": {KEM: make([]byte, wire.KEMPublicSize), Until: 1},
	} {
		before := slices.Clone(r.Neighbors)
		signed := sign(t, 1, r)
		if !slices.Equal(r.Neighbors, before) {
			t.Errorf("%s: Sign changes its argument", name)
		}
		got, err := Parse(signed.Bytes())
		if err != nil || !reflect.DeepEqual(got, signed) {
			t.Fatalf("%s: %v", name, err)
		}
		if len(got.Bytes()) > wire.MaxRecordSize {
			t.Errorf("%s: record of %d bytes", name, len(got.Bytes()))
		}
		slices.SortFunc(r.Neighbors, compareIDs)
		r.ID, r.raw = testID(1), got.raw
		if !reflect.DeepEqual(*got, r) {
			t.Errorf("%s: fields changed:\n%+v\n%+v", name, *got, r)
		}
	}
}

func TestRecordLayout(t *testing.T) {
	r := sign(t, 1, fullRecord())
	b := r.Bytes()
	masks, ports := 1273+1+8*17, 1273+1+8*17+1+32*4
	for _, c := range []struct {
		name   string
		at     int
		expect []byte
	}{
		{"version", 0, []byte{1}},
		{"identity", 1, r.ID[:]},
		{"handshake key", 33, r.KEM},
		{"sequence", 1249, binary.BigEndian.AppendUint64(nil, r.Sequence)},
		{"validity", 1257, []byte{0, 0, 0, 0, 0, 0, 3, 232}},
	} {
		if !bytes.Equal(b[c.at:c.at+len(c.expect)], c.expect) {
			t.Errorf("%s is not at byte %d", c.name, c.at)
		}
	}
	tail := []byte{0, 3, 3, 'S', 'E', 3, 250, 8, 16}
	if got := b[1273 : 1273+len(tail)]; !bytes.Equal(got, tail) {
		t.Errorf("roles to masks are % x, want % x", got, tail)
	}
	if b[masks+7] != MaxPorts || b[ports+7] != MaxNeighbors || len(b) != ports+7+1+64*32+64 {
		t.Errorf("lists are not where docs/protocol.md puts them (%d, %d, %d)", b[masks+7], b[ports+7], len(b))
	}
}

func TestRecordTampering(t *testing.T) {
	b := sign(t, 1, fullRecord()).Bytes()
	rng := rand.New(rand.NewPCG(1, 1))
	for i := 0; i < len(b); i += raceStride {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << rng.IntN(8)
		if _, err := Parse(bad); err == nil {
			t.Errorf("flipped bit in byte %d is accepted", i)
		}
	}
	for _, n := range []int{0, 1, 63, 64, 100, 1280, len(b) - 1} {
		if _, err := Parse(b[:n]); err == nil {
			t.Errorf("record cut to %d bytes is accepted", n)
		}
	}
	if _, err := Parse(append(bytes.Clone(b), 0)); err == nil {
		t.Error("record with a byte more is accepted")
	}
}

// raw signs whatever the fields are, as Sign would not.
func raw(r Record, more ...byte) []byte {
	r.ID = testID(1)
	b := append(r.appendUnsigned(nil), more...)
	return append(b, ed25519.Sign(testSigner(1), signed(b))...)
}

func TestRecordRefused(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"unknown role":         func(r *Record) { r.Roles = 4 },
		"unknown family":       func(r *Record) { r.Families = 4 },
		"country in lower":     func(r *Record) { r.Country = "se" },
		"country of one":       func(r *Record) { r.Country = "S\x00" },
		"validity empty":       func(r *Record) { r.Until = r.From },
		"validity backwards":   func(r *Record) { r.Until = r.From - 1 },
		"validity too far":     func(r *Record) { r.Until = -1 },
		"validity negative":    func(r *Record) { r.From = -1 },
		"mask without name":    func(r *Record) { r.Masks = []string{""} },
		"mask in upper case":   func(r *Record) { r.Masks = []string{"Plain"} },
		"mask with a space":    func(r *Record) { r.Masks = []string{"a b"} },
		"mask too long":        func(r *Record) { r.Masks = []string{strings.Repeat("a", 17)} },
		"mask twice":           func(r *Record) { r.Masks = []string{"a", "a"} },
		"nine masks":           func(r *Record) { r.Masks = strings.Split("abcdefghi", "") },
		"port range backwards": func(r *Record) { r.Ports = []PortRange{{2, 1}} },
		"33 port ranges":       func(r *Record) { r.Ports = append(r.Ports, PortRange{1, 1}) },
		"neighbor twice":       func(r *Record) { r.Neighbors = []wire.NodeID{{1}, {1}} },
		"neighbors descending": func(r *Record) { r.Neighbors = []wire.NodeID{{2}, {1}} },
		"own neighbor":         func(r *Record) { r.Neighbors = []wire.NodeID{testID(1)} },
		"65 neighbors":         func(r *Record) { r.Neighbors = append(r.Neighbors, wire.NodeID{255}) },
		"short handshake key":  func(r *Record) { r.KEM = r.KEM[1:] },
	} {
		r := fullRecord()
		slices.SortFunc(r.Neighbors, compareIDs)
		change(&r)
		if _, err := Parse(raw(r)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := Sign(testSigner(1), r); err == nil && name != "neighbor twice" && name != "neighbors descending" {
			t.Errorf("%s: signed", name)
		}
	}
	r := fullRecord()
	slices.SortFunc(r.Neighbors, compareIDs)
	if _, err := Parse(raw(r)); err != nil {
		t.Fatalf("the record that the others are made from: %v", err)
	}
	if _, err := Parse(raw(r, 0)); err == nil {
		t.Error("trailing byte, signed, is accepted")
	}
	r.Country = "SWE"
	if _, err := Sign(testSigner(1), r); err == nil {
		t.Error("country of three letters is signed")
	}
	b := raw(Record{KEM: make([]byte, wire.KEMPublicSize), Until: 1})
	b[0] = 2
	b = append(b[:len(b)-64], ed25519.Sign(testSigner(1), signed(b[:len(b)-64]))...)
	if _, err := Parse(b); err == nil {
		t.Error("version 2 is accepted")
	}
	// A signature for another use of the key.
	b = append(b[:0:0], raw(fullRecord())...)
	b = append(b[:len(b)-64], ed25519.Sign(testSigner(1), b[:len(b)-64])...)
	if _, err := Parse(b); err == nil {
		t.Error("signature without its domain is accepted")
	}
}

func TestRecordMeaning(t *testing.T) {
	r := sign(t, 1, fullRecord())
	for at, want := range map[int64]error{0: ErrNotYetValid, 999: ErrNotYetValid, 1000: nil, 1999: nil, 2000: ErrExpired, 1 << 40: ErrExpired} {
		if err := r.ValidAt(time.Unix(at, 0)); !errors.Is(err, want) {
			t.Errorf("valid at %d: %v, want %v", at, err, want)
		}
	}
	if !r.Lists(wire.NodeID{200, 1}) || r.Lists(wire.NodeID{200}) || r.Lists(r.ID) {
		t.Error("Lists is wrong")
	}
	for port, want := range map[uint16]bool{0: true, 1: false, 100: true, 101: true, 102: false, 3131: true, 3132: false, 65535: false} {
		if r.Accepts(port) != want {
			t.Errorf("Accepts(%d) = %v", port, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sign(f, 1, fullRecord()).Bytes())
	f.Add(sign(f, 2, Record{KEM: make([]byte, wire.KEMPublicSize), Until: 1}).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it came, and signed by its identity so that the fields count.
		if r, err := Parse(b); err == nil && !bytes.Equal(append(r.appendUnsigned(nil), b[len(b)-64:]...), b) {
			t.Fatal("record has a second encoding")
		}
		if len(b) < 97 {
			return
		}
		id := testID(1)
		unsigned := append(append([]byte{b[0]}, id[:]...), b[33:len(b)-64]...)
		if r, err := Parse(append(unsigned, ed25519.Sign(testSigner(1), signed(unsigned))...)); err == nil && !bytes.Equal(r.appendUnsigned(nil), unsigned) {
			t.Fatal("record has a second encoding")
		}
	})
}
