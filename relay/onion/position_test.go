package onion

import (
	"bytes"
	"fmt"
	"testing"

	"cuttle/relay/wire"
)

// sight is one thing that a hop sees of a circuit.
type sight string

const (
	sawMsg1    sight = "msg1 received"
	sawKey     sight = "ephemeral key in msg1"
	sawMsg2    sight = "msg2 sent"
	sawOut     sight = "cell received going out"
	sawOutSent sight = "cell sent going out"
	sawBack    sight = "cell received coming back"
	sawSent    sight = "cell sent coming back"
)

// sights gives the sizes that docs/protocol.md sections 3.1 and 4.1 name.
var sights = map[sight]int{sawMsg1: 2432, sawKey: 1216, sawMsg2: 1200, sawOut: 1376, sawOutSent: 1376, sawBack: 1376, sawSent: 1376}

// constant tells which bits (a mask) of a byte are the same in all samples by what
// the document names: an encapsulation (1120 bytes) and a public key (1216) end in an
// X25519 public key, which is less than 2^255 and little-endian (RFC 7748, section 5).
// Nothing else.
func (s sight) constant(i int) byte {
	if (s == sawMsg1 || s == sawMsg2) && i == 1119 || s == sawKey && i == 1215 {
		return 0x80
	}
	return 0
}

// seen is all that one hop sees: one sample of each sight per circuit and class.
type seen map[sight][][]byte

func newSeen(n int) []seen {
	hops := make([]seen, n)
	for i := range hops {
		hops[i] = seen{}
	}
	return hops
}

func (s seen) add(what sight, b []byte) { s[what] = append(s[what], bytes.Clone(b)) }

// seeing builds a path of n hops hop by hop, as a client does, sends a cell of each
// class to the end and back after each, and has every hop note what it sees.
func seeing(t *testing.T, n int, suites []Suite, hops []seen) {
	t.Helper()
	c := &circuit{path: &Path{}}
	for i := range n {
		id, key := wire.NodeID(pattern(32, byte(i))), testKey(t, byte(i))
		h, msg1, err := StartHop(id, key.Public(), suites)
		if err != nil {
			t.Fatal(err)
		}
		msg2, hopKeys, err := AcceptHop(id, key, NewReplayCache(1), suites, msg1)
		if err != nil {
			t.Fatal(err)
		}
		e := must(newHopState(id, key.public).readEphemeral(key, hopSkem, msg1))
		hops[i].add(sawMsg1, msg1)
		hops[i].add(sawKey, e.Bytes())
		hops[i].add(sawMsg2, msg2)
		keys, err := h.Finish(msg2)
		if err != nil {
			t.Fatal(err)
		}
		c.hops = append(c.hops, must(NewHop(hopKeys)))
		if err := c.path.Add(keys); err != nil {
			t.Fatal(err)
		}
		for _, class := range []wire.Class{wire.Reliable, wire.Datagram} {
			c.exchange(t, class, hops)
		}
	}
}

// exchange sends a payload of zeros (what would show best) each way. Hops that pass
// it on note the cells, and the last one those that it shares with them.
func (c *circuit) exchange(t *testing.T, class wire.Class, hops []seen) {
	t.Helper()
	last := len(c.hops) - 1
	cell := wire.NewCell(class)
	defer cell.Release()
	clear(cell.Payload())
	c.path.Seal(cell, last, 1)
	for i, h := range c.hops {
		hops[i].add(sawOut, cell.Body())
		header, err := h.Peel(cell)
		if err != nil {
			t.Fatalf("hop %d of %d: %v", i, last+1, err)
		}
		want := Header{Kind: PassOn}
		if i == last {
			want = Header{Here, 1}
		}
		if header != want {
			t.Errorf("hop %d of %d: header is %v, want %v", i, last+1, header, want)
		}
		if i < last {
			hops[i].add(sawOutSent, cell.Body())
		}
	}
	cell.Reset(class)
	clear(cell.Payload())
	c.hops[last].Originate(cell, 1)
	hops[last].add(sawSent, cell.Body())
	for i := last - 1; i >= 0; i-- {
		hops[i].add(sawBack, cell.Body())
		c.hops[i].Wrap(cell)
		hops[i].add(sawSent, cell.Body())
	}
	if _, _, err := c.path.Open(cell); err != nil {
		t.Fatalf("%d hops: %v", last+1, err)
	}
}

// TestPositionShape: what a hop receives and sends in a handshake, and per cell that
// it passes on, has the same size at each position of each length of path, and no
// bit of it is the same over many circuits but the one that X25519 has. So a hop is
// not told its position or the path's length by what things look like. How many
// cells it sees and when is another matter (docs/threat-model.md).
func TestPositionShape(t *testing.T) {
	const circuits = 48 // a bit that is random is constant once in 2^47
	for _, suite := range both {
		for n := 1; n <= wire.MaxHops; n += min(raceStride, wire.MaxHops-1) {
			hops := newSeen(n)
			for range circuits {
				seeing(t, n, []Suite{suite}, hops)
			}
			for i, hop := range hops {
				where := fmt.Sprintf("%v, hop %d of %d", suite, i, n)
				for what, size := range sights {
					samples := hop[what]
					passes := what == sawOutSent || what == sawBack
					if got := len(samples); got < circuits && !(passes && i == n-1) {
						t.Fatalf("%s: %s: %d samples", where, what, got)
					}
					if len(samples) > 0 {
						checkShape(t, where, what, size, samples)
					}
				}
			}
		}
	}
}

// checkShape complains of a size, and of bits that all samples have.
func checkShape(t *testing.T, where string, what sight, size int, samples [][]byte) {
	t.Helper()
	var zero, one [2432]byte // bits that were 0, that were 1
	for _, b := range samples {
		if len(b) != size {
			t.Fatalf("%s: %s has %d bytes, want %d", where, what, len(b), size)
		}
		for i, x := range b {
			zero[i] |= ^x
			one[i] |= x
		}
	}
	for i := range size {
		if got, want := ^(zero[i] & one[i]), what.constant(i); got != want {
			t.Errorf("%s: %s: bits %08b of byte %d are always the same, want %08b", where, what, got, i, want)
		}
	}
}

// TestPositionRepeats: no hop sees the same 8 bytes twice, in whatever it receives
// or sends, so that nothing names a circuit, and no two hops of a path see the same
// 8 bytes but those that one sends to the other.
func TestPositionRepeats(t *testing.T) {
	const window = 8
	for n := 1; n <= wire.MaxHops; n++ {
		hops := newSeen(n)
		for range 2 {
			seeing(t, n, both, hops)
		}
		met := map[string]string{} // bytes and the message they are of
		for i, hop := range hops {
			for what, samples := range hop {
				if what == sawBack || what == sawOut && i > 0 {
					continue // met as what the neighbor sends
				}
				for k, b := range samples {
					name := fmt.Sprintf("hop %d of %d: %s, sample %d", i, n, what, k)
					for at := range len(b) - window + 1 {
						s := string(b[at : at+window])
						if other, ok := met[s]; ok && other != name {
							t.Fatalf("%s at byte %d has bytes of %s", name, at, other)
						}
						met[s] = name
					}
				}
			}
		}
	}
}

// TestEndDoesNotShowItsPlace: what a hop finds behind the payload of a cell for itself,
// which every EXTEND is, looks random to it at every place: no bit is the same in all
// cells, and none repeats those of another cell of the path.
func TestEndDoesNotShowItsPlace(t *testing.T) {
	for _, suite := range both {
		for n := 1; n <= wire.MaxHops; n++ {
			c := newCircuit(t, n, suite)
			var same [wire.BodySize - wire.SlotSize - wire.PayloadSize]byte // bits
			for i := range same {
				same[i] = 0xff
			}
			var first []byte
			seen := map[string]bool{}
			for i := range 64 {
				cell := wire.NewCell(wire.Class(i % 2))
				target := n - 1
				if i%4 == 3 {
					target = i % n // an earlier hop
				}
				c.path.Seal(cell, target, 1)
				for _, h := range c.hops[:target+1] {
					if _, err := h.Peel(cell); err != nil {
						t.Fatal(err)
					}
				}
				behind := cell.Body()[wire.SlotSize+wire.PayloadSize:]
				for at := 0; at+8 <= len(behind); at += 4 {
					if piece := string(behind[at : at+8]); seen[piece] {
						t.Fatalf("%v, hop %d of %d: bytes %d to %d stood in another cell", suite, target+1, n, at, at+8)
					} else {
						seen[piece] = true
					}
				}
				if target != n-1 {
					continue
				}
				if first == nil {
					first = bytes.Clone(behind)
				}
				for i := range same {
					same[i] &^= behind[i] ^ first[i]
				}
			}
			if same != ([len(same)]byte{}) {
				t.Errorf("%v, hop %d: bits that are the same in all cells: %x", suite, n, same)
			}
		}
	}
}
