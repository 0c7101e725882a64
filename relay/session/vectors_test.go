package session

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"cuttle/relay/wire"
)

var update = flag.Bool("update", false, "write testdata/*.json anew from the reference implementation")

// datagramVector is one datagram of a flow whose OPEN named another peer than Peer
// (none: the same), cut into parts of these sizes, and the packets of class Datagram
// that carry them, one frame each. Its bytes count up from Fill.
type datagramVector struct {
	Stream  uint32   `json:"stream"`
	Number  uint16   `json:"number"`
	Peer    string   `json:"peer,omitempty"`
	Fill    byte     `json:"fill"`
	Cuts    []int    `json:"cuts"`
	Packets []string `json:"packets"`
}

func (v datagramVector) data() (b []byte) {
	for _, n := range v.Cuts {
		for range n {
			b = append(b, v.Fill+byte(len(b)))
		}
	}
	return b
}

// refPeer writes a destination (docs/protocol.md section 6) in hexadecimal.
func refPeer(peer string) string {
	if peer == "" {
		return ""
	}
	at := strings.LastIndex(peer, ":")
	port, err := strconv.Atoi(peer[at+1:])
	if err != nil {
		panic(err)
	}
	host := strings.Trim(peer[:at], "[]")
	if !strings.Contains(host, ":") {
		out := "04"
		for _, n := range strings.Split(host, ".") {
			b, err := strconv.Atoi(n)
			if err != nil {
				panic(err)
			}
			out += fmt.Sprintf("%02x", b)
		}
		return out + fmt.Sprintf("%04x", port)
	}
	left, right, _ := strings.Cut(host, "::")
	groups := func(s string) (out []string) {
		for _, g := range strings.Split(s, ":") {
			if g != "" {
				out = append(out, strings.Repeat("0", 4-len(g))+g)
			}
		}
		return out
	}
	a, b := groups(left), groups(right)
	return "06" + strings.Join(a, "") + strings.Repeat("0000", 8-len(a)-len(b)) + strings.Join(b, "") + fmt.Sprintf("%04x", port)
}

// refPackets writes the DATAGRAM frames of a vector as docs/protocol.md section 6 says,
// in hexadecimal.
func refPackets(v datagramVector) (out []string) {
	rest := hex.EncodeToString(v.data())
	for place, n := range v.Cuts {
		flags, where, peer := 0, "", ""
		if len(v.Cuts) > 1 {
			flags = 1
			last := 0
			if place == len(v.Cuts)-1 {
				last = 128
			}
			where = fmt.Sprintf("%04x%02x", v.Number, last+place)
		}
		if place == 0 && v.Peer != "" {
			flags += 2
			peer = refPeer(v.Peer)
		}
		out = append(out, fmt.Sprintf("07%08x%02x", v.Stream, flags)+where+peer+fmt.Sprintf("%04x", n)+rest[:2*n])
		rest = rest[2*n:]
	}
	return out
}

// TestDatagramVectors: what a second, slow implementation writes is read as the
// datagram that it was, and what we write is what it writes of the same cuts.
func TestDatagramVectors(t *testing.T) {
	vectors := []datagramVector{
		{Stream: 1, Cuts: []int{0}},
		{Stream: 1, Fill: 7, Cuts: []int{5}},
		{Stream: 0xfffffffe, Peer: "192.0.2.77:65535", Fill: 9, Cuts: []int{3}},
		{Stream: 2, Peer: "[2001:db8::1:0:2]:1", Cuts: []int{0}},
		{Stream: 3, Number: 0xffff, Fill: 200, Cuts: []int{1, 1}},
		{Stream: 3, Number: 0, Peer: "[2001:db8:1:2:3:4:5:6]:443", Fill: 1, Cuts: []int{30, 1, 2}},
		{Stream: 9, Number: 258, Peer: "203.0.113.9:53", Fill: 77, Cuts: make([]int, 64)},
		{Stream: 5, Fill: 3, Cuts: []int{1247}},
		{Stream: 5, Number: 1, Fill: 4, Cuts: []int{1244, 1244, 100}},
		{Stream: 5, Number: 2, Peer: "[2001:db8::9]:9", Fill: 5, Cuts: []int{1225, 1244, 1}},
	}
	for i := range vectors[6].Cuts {
		vectors[6].Cuts[i] = 1 + i%3
	}
	for i, v := range vectors {
		vectors[i].Packets = refPackets(v)
		peer := wire.Destination{}
		if v.Peer != "" {
			peer = wire.NewDestination(netip.MustParseAddrPort(v.Peer))
		}
		m := muxOn(blackhole{make(chan struct{})}, Config{})
		f := newFlow(m, wire.StreamID(v.Stream))
		f.dst, f.peers = wire.NewDestination(somewhere), true
		m.ends[f.id] = f
		want, rest := v.data(), v.data()
		for place, text := range vectors[i].Packets {
			packet, err := hex.DecodeString(text)
			if err != nil || len(packet) > wire.SessionPacketSize {
				t.Fatalf("vector %d: a packet of %d bytes, %v", i, len(packet), err)
			}
			part, to := wire.Fragment{}, peer
			if len(v.Cuts) > 1 {
				part = wire.Fragment{Part: true, Number: v.Number, Place: uint8(place), Last: place == len(v.Cuts)-1}
			}
			if place > 0 {
				to = wire.Destination{}
			}
			if got := wire.AppendDatagram(nil, f.id, part, to, rest[:v.Cuts[place]]); !bytes.Equal(got, packet) {
				t.Errorf("vector %d, part %d: wrote %x, want %s", i, place, got, text)
			}
			rest = rest[v.Cuts[place]:]
			if err := m.packet(wire.Datagram, packet); err != nil {
				t.Fatalf("vector %d, part %d: %v", i, place, err)
			}
		}
		b := make([]byte, maxDatagram)
		n, from, err := f.Receive(b)
		if expect := f.peerOf(&datagram{peer: peer}); err != nil || from != expect || !bytes.Equal(b[:n], want) {
			t.Errorf("vector %d: read %d bytes from %v, %v; want %d from %v", i, n, from, err, len(want), expect)
		}
		_ = f.Close()
	}
	// The last ones are cut as we cut.
	for i, v := range vectors[7:] {
		var out [][]byte
		d := newDatagram()
		d.flow, d.b = &Flow{id: wire.StreamID(v.Stream), number: v.Number}, append(d.b, v.data()...)
		if v.Peer != "" {
			d.peer = wire.NewDestination(netip.MustParseAddrPort(v.Peer))
		}
		m := muxOn(&recording{out: &out}, Config{})
		if len(v.Cuts) == 1 {
			out = append(out, wire.AppendDatagram(nil, d.flow.id, wire.Fragment{}, d.peer, d.b))
		} else {
			m.sendFragments(nil, d)
		}
		var got []string
		for _, p := range out {
			got = append(got, hex.EncodeToString(p))
		}
		if strings.Join(got, " ") != strings.Join(vectors[7+i].Packets, " ") {
			t.Errorf("vector %d: sent otherwise than the reference", 7+i)
		}
	}
	golden(t, "testdata/datagrams.json", vectors)
}

// golden compares v, which the reference made, with the committed file.
func golden(t *testing.T, path string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the reference no longer makes %s (go test -update writes it anew)", path)
	}
}
