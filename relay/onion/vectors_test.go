package onion

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/cryptotest"

	"cuttle/relay/wire"
)

var update = flag.Bool("update", false, "write testdata/*.json anew from the reference implementation")

// golden compares v, which the reference made, with the committed file.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name)
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

// handshakeVector is one handshake. Seed is that of testing/cryptotest's global
// randomness, from which both implementations draw in the same order.
type handshakeVector struct {
	Seed          uint64 `json:"seed"`
	ID            string `json:"id"`
	StaticSeed    string `json:"static_seed"`
	InitiatorSeed string `json:"initiator_seed,omitempty"`
	Record        string `json:"record,omitempty"`
	Offered       []byte `json:"offered"`
	Chosen        byte   `json:"chosen"`
	Msg1          string `json:"msg1"`
	Msg2          string `json:"msg2"`
	Msg3          string `json:"msg3,omitempty"`
	Keys          string `json:"keys"`
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i)
	}
	return b
}

func suitesOf(b []byte) (out []Suite) {
	for _, s := range b {
		out = append(out, Suite(s))
	}
	return out
}

func (k *HopKeys) bytes() []byte { return cat(k.forward[:], k.backward[:], k.filler[:]) }

var handshakeCases = []struct {
	seed    uint64
	offered []byte
	chosen  byte
}{{1, []byte{1, 2}, 1}, {2, []byte{2, 1}, 2}, {3, []byte{2}, 2}}

func TestHopVectors(t *testing.T) {
	var vectors []handshakeVector
	for _, c := range handshakeCases {
		id, seed := pattern(32, byte(c.seed)), pattern(32, 0x40+byte(c.seed))
		static := refKeyFromSeed(seed)
		cryptotest.SetGlobalRandom(t, c.seed)
		msg1, s, e := refHopStart(id, static.public(), c.offered...)
		msg2, keys := refHopAnswer(id, static, msg1, c.chosen)
		if got := refHopFinish(s, e, msg2); !bytes.Equal(got, keys) {
			t.Fatal("the reference's two ends disagree")
		}
		vectors = append(vectors, handshakeVector{Seed: c.seed, ID: hex.EncodeToString(id), StaticSeed: hex.EncodeToString(seed),
			Offered: c.offered, Chosen: c.chosen, Msg1: hex.EncodeToString(msg1), Msg2: hex.EncodeToString(msg2), Keys: hex.EncodeToString(keys)})

		cryptotest.SetGlobalRandom(t, c.seed)
		key := must(NewStaticKey([32]byte(seed)))
		h, got1, err := StartHop(wire.NodeID(id), key.Public(), suitesOf(c.offered))
		if err != nil || !bytes.Equal(got1, msg1) {
			t.Fatalf("case %d: first message differs from the reference (%v)", c.seed, err)
		}
		got2, hopKeys, err := AcceptHop(wire.NodeID(id), key, NewReplayCache(1), suitesOf(c.offered), msg1)
		if err != nil || !bytes.Equal(got2, msg2) || !bytes.Equal(hopKeys.bytes(), keys) {
			t.Fatalf("case %d: answer or keys differ from the reference (%v)", c.seed, err)
		}
		clientKeys, err := h.Finish(msg2)
		if err != nil || !bytes.Equal(clientKeys.bytes(), keys) || clientKeys.Suite() != Suite(c.chosen) {
			t.Fatalf("case %d: keys differ from the reference (%v)", c.seed, err)
		}
	}
	golden(t, "hop.json", vectors)
}

func TestLinkVectors(t *testing.T) {
	var vectors []handshakeVector
	for _, c := range handshakeCases {
		id, seed, selfSeed := pattern(32, byte(c.seed)), pattern(32, 0x60+byte(c.seed)), pattern(32, 0x80+byte(c.seed))
		record := pattern(1000*int(c.seed), 7)
		static, self := refKeyFromSeed(seed), refKeyFromSeed(selfSeed)
		cryptotest.SetGlobalRandom(t, c.seed)
		msg1, s, e := refLinkStart(id, static.public(), record, c.offered...)
		msg2, gotRecord, responder := refLinkAnswer(id, static, self.public(), msg1, c.chosen)
		msg3, keys := refLinkFinish(s, e, self, msg2)
		responder.open(msg3)
		if !bytes.Equal(gotRecord, record) || !bytes.Equal(responder.expand("cuttle link keys v1", 64), keys) {
			t.Fatal("the reference's two ends disagree")
		}
		vectors = append(vectors, handshakeVector{Seed: c.seed, ID: hex.EncodeToString(id), StaticSeed: hex.EncodeToString(seed),
			InitiatorSeed: hex.EncodeToString(selfSeed), Record: hex.EncodeToString(record), Offered: c.offered, Chosen: c.chosen,
			Msg1: hex.EncodeToString(msg1), Msg2: hex.EncodeToString(msg2), Msg3: hex.EncodeToString(msg3), Keys: hex.EncodeToString(keys)})

		cryptotest.SetGlobalRandom(t, c.seed)
		key, selfKey := must(NewStaticKey([32]byte(seed))), must(NewStaticKey([32]byte(selfSeed)))
		l, got1, err := StartLink(wire.NodeID(id), key.Public(), selfKey, record, suitesOf(c.offered))
		if err != nil || !bytes.Equal(got1, msg1) {
			t.Fatalf("case %d: first message differs from the reference (%v)", c.seed, err)
		}
		r, gotRecord, err := AcceptLink(wire.NodeID(id), key, msg1)
		if err != nil || !bytes.Equal(gotRecord, record) {
			t.Fatalf("case %d: record differs from the reference (%v)", c.seed, err)
		}
		got2, err := r.Reply(selfKey.Public(), suitesOf(c.offered))
		if err != nil || !bytes.Equal(got2, msg2) {
			t.Fatalf("case %d: answer differs from the reference (%v)", c.seed, err)
		}
		got3, k, err := l.Finish(msg2)
		if err != nil || !bytes.Equal(got3, msg3) || !bytes.Equal(cat(k.send[:], k.receive[:]), keys) || k.Suite() != Suite(c.chosen) {
			t.Fatalf("case %d: third message or keys differ from the reference (%v)", c.seed, err)
		}
		k, err = r.Finish(msg3)
		if err != nil || !bytes.Equal(cat(k.receive[:], k.send[:]), keys) {
			t.Fatalf("case %d: responder's keys differ from the reference (%v)", c.seed, err)
		}
	}
	golden(t, "link.json", vectors)
}

// TestReferenceInterop does not depend on the order in which randomness is drawn.
func TestReferenceInterop(t *testing.T) {
	id, seed, selfSeed := pattern(32, 1), pattern(32, 2), pattern(32, 3)
	key, self := must(NewStaticKey([32]byte(seed))), must(NewStaticKey([32]byte(selfSeed)))
	ref, refSelf := refKeyFromSeed(seed), refKeyFromSeed(selfSeed)

	h, msg1, err := StartHop(wire.NodeID(id), ref.public(), []Suite{2})
	if err != nil {
		t.Fatal(err)
	}
	msg2, want := refHopAnswer(id, ref, msg1, 2)
	if k, err := h.Finish(msg2); err != nil || !bytes.Equal(k.bytes(), want) {
		t.Errorf("our client, the reference's hop: %v", err)
	}
	msg1, s, e := refHopStart(id, key.Public(), 1)
	msg2, k, err := AcceptHop(wire.NodeID(id), key, NewReplayCache(1), []Suite{2, 1}, msg1)
	if err != nil || !bytes.Equal(k.bytes(), refHopFinish(s, e, msg2)) {
		t.Errorf("the reference's client, our hop: %v", err)
	}

	l, msg1, err := StartLink(wire.NodeID(id), ref.public(), self, []byte("record"), []Suite{1})
	if err != nil {
		t.Fatal(err)
	}
	msg2, _, responder := refLinkAnswer(id, ref, self.Public(), msg1, 1)
	msg3, lk, err := l.Finish(msg2)
	if err != nil {
		t.Fatal(err)
	}
	responder.open(msg3)
	if !bytes.Equal(responder.expand("cuttle link keys v1", 64), cat(lk.send[:], lk.receive[:])) {
		t.Error("our initiator, the reference's responder: keys differ")
	}
	msg1, s, e = refLinkStart(id, key.Public(), []byte("record"), 2, 1)
	r, _, err := AcceptLink(wire.NodeID(id), key, msg1)
	if err != nil {
		t.Fatal(err)
	}
	if msg2, err = r.Reply(self.Public(), []Suite{2}); err != nil {
		t.Fatal(err)
	}
	msg3, keys := refLinkFinish(s, e, refSelf, msg2)
	if lk, err = r.Finish(msg3); err != nil || !bytes.Equal(keys, cat(lk.receive[:], lk.send[:])) {
		t.Errorf("the reference's initiator, our responder: %v", err)
	}
}

// layerVector is one cell: the SHA-256 of its body as each hop sees it. Keys are
// SHA-256 of "hop <i> forward" and so on, and of "hop 0 pad"; Cell is the number of the
// client's cell on this path; payloads count up from Fill.
type layerVector struct {
	Suite     int      `json:"suite"`
	Hops      int      `json:"hops"`
	Direction string   `json:"direction"`
	Class     byte     `json:"class"`
	Counter   uint64   `json:"counter"`
	Cell      uint64   `json:"cell,omitempty"`
	Target    int      `json:"target"`
	Length    int      `json:"length"`
	Fill      byte     `json:"fill"`
	Bodies    []string `json:"bodies"`
}

func hashHex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func labelKey(i int, name string) secret {
	return sha256.Sum256(fmt.Appendf(nil, "hop %d %s", i, name))
}

// vectorCircuit makes hops with known keys, for the reference and for us.
func vectorCircuit(t *testing.T, suite, n int, counter uint64) ([]refHop, *circuit) {
	t.Helper()
	c := &circuit{path: &Path{}}
	var ref []refHop
	for i := range n {
		f, b, l := labelKey(i, "forward"), labelKey(i, "backward"), labelKey(i, "filler")
		ref = append(ref, refHop{suite, f[:], b[:], l[:]})
		hop, err := NewHop(&HopKeys{Suite(suite), f, b, l})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.path.Add(&HopKeys{Suite(suite), f, b, l}); err != nil {
			t.Fatal(err)
		}
		pad := labelKey(0, "pad")
		c.path.pad = newFiller(Suite(suite), pad)
		c.hops = append(c.hops, hop)
		p := &c.path.hops[i]
		for _, l := range []*layer{&hop.forward, &hop.backward, &p.forward, &p.backward} {
			l.skipTo(counter)
		}
	}
	return ref, c
}

// skipTo puts a fresh layer where it would be after that many cells.
func (l *layer) skipTo(counter uint64) {
	for l.counter+hopRekeyEvery <= counter {
		l.counter += hopRekeyEvery - 1
		l.advance()
	}
	if counter > l.counter {
		l.counter = counter - 1
		l.advance()
	}
}

func TestLayerVectors(t *testing.T) {
	var vectors []layerVector
	for _, suite := range []int{1, 2} {
		for _, n := range []int{1, 3, 6} {
			for _, start := range []uint64{0, 1<<24 - 1, 3<<24 - 1} {
				ref, c := vectorCircuit(t, suite, n, start)
				forward, backward := countersAt(n, start), countersAt(n, start)
				for i, length := range []int{wire.PayloadSize, 1, 700} {
					class, target := byte(i%2), n-1
					if i == 2 {
						target = n / 2
					}
					v := layerVector{Suite: suite, Hops: n, Class: class, Target: target, Length: length, Fill: byte(i)}
					payload := pattern(length, byte(i))

					v.Direction, v.Counter, v.Cell = "out", forward[0], uint64(i)
					v.Bodies = checkOut(t, ref, c, forward, class, target, payload)
					vectors = append(vectors, v)

					v.Direction, v.Counter, v.Cell, v.Target = "back", backward[0], 0, n-1
					v.Bodies = checkBack(t, ref, c, backward, class, payload)
					vectors = append(vectors, v)
				}
			}
		}
	}
	golden(t, "layers.json", vectors)
}

// countersAt gives the counter of each of n hops.
func countersAt(n int, start uint64) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = start
	}
	return out
}

// checkOut sends one cell out by both implementations and compares every body.
func checkOut(t *testing.T, ref []refHop, c *circuit, counters []uint64, class byte, target int, payload []byte) (hashes []string) {
	t.Helper()
	pad := labelKey(0, "pad")
	bodies := refSealPath(ref, counters, class, target, payload, refPad(ref[0].suite, pad[:], c.path.sealed, 100))
	cell := wire.NewCell(wire.Class(class))
	copy(c.path.Payload(cell), payload)
	c.path.Seal(cell, target, len(payload))
	for i, want := range bodies {
		if !bytes.Equal(cell.Body(), want) {
			t.Fatalf("suite %d, %d hops, counter %d: body at hop %d differs from the reference", ref[0].suite, len(ref), counters[i], i)
		}
		header, rest, err := ref[i].peel(counters[i], class, want)
		if err != nil || (i < target && !bytes.Equal(rest, bodies[i+1])) || (header[0] == 1) != (i == target) {
			t.Fatalf("the reference's own hop %d disagrees: %v", i, err)
		}
		h, err := c.hops[i].Peel(cell)
		if err != nil || (h.Kind == Here) != (i == target) {
			t.Fatalf("peel at hop %d: %v, %v", i, h, err)
		}
		if i == target && !bytes.Equal(c.hops[i].Payload(cell)[:h.Length], payload) {
			t.Fatal("payload differs")
		}
		counters[i]++
		hashes = append(hashes, hashHex(want))
	}
	return hashes
}

// checkBack sends one cell back by both and compares every body; the first hash
// is that of the last hop.
func checkBack(t *testing.T, ref []refHop, c *circuit, counters []uint64, class byte, payload []byte) (hashes []string) {
	t.Helper()
	last := len(ref) - 1
	cell := wire.NewCell(wire.Class(class))
	copy(c.hops[last].Payload(cell), payload)
	c.hops[last].Originate(cell, len(payload))
	body := ref[last].wrap(counters[last], class, refHeader(1, len(payload)), append(bytes.Clone(payload), make([]byte, 1376-len(payload))...))
	for i := last; ; i-- {
		if !bytes.Equal(cell.Body(), body) {
			t.Fatalf("suite %d, %d hops, counter %d: body from hop %d differs from the reference", ref[0].suite, len(ref), counters[i], i)
		}
		hashes = append(hashes, hashHex(body))
		if i == 0 {
			break
		}
		c.hops[i-1].Wrap(cell)
		body = ref[i-1].wrap(counters[i-1], class, refHeader(0, 0), body)
	}
	if got, err := refOpenPath(ref, counters, class, body); err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("the reference cannot open its own cell: %v", err)
	}
	if hop, got, err := c.path.Open(cell); err != nil || hop != last || !bytes.Equal(got, payload) {
		t.Fatalf("open: hop %d, %v", hop, err)
	}
	for i := range counters {
		counters[i]++
	}
	return hashes
}
