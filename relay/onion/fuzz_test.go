package onion

import (
	"bytes"
	"testing"

	"cuttle/relay/wire"
)

// Nothing that does not come from the other end is ever accepted. The fuzzer
// gives the difference to the right message and to its length, since every
// process of the fuzzer has keys of its own.
func differ(right, mask []byte, longer int8) []byte {
	b := append(bytes.Clone(right), make([]byte, max(longer, 0))...)
	b = b[:len(right)+int(longer)]
	for i := range min(len(b), len(mask)) {
		b[i] ^= mask[i]
	}
	return b
}

func addDifferences(f *testing.F, size int) {
	f.Add([]byte{}, int8(0))
	f.Add([]byte{}, int8(1))
	f.Add([]byte{}, int8(-1))
	for i := 0; i < size; i += size/7 + 1 {
		f.Add(append(make([]byte, i), 1), int8(0))
	}
}

// expect complains unless exactly the right message is accepted.
func expect(t *testing.T, got, right []byte, err error) {
	t.Helper()
	if (err == nil) != bytes.Equal(got, right) {
		t.Fatalf("right message: %v, error: %v", bytes.Equal(got, right), err)
	}
}

func FuzzAcceptHop(f *testing.F) {
	id, key := wire.NodeID{1}, testKey(f, 1)
	_, msg1 := startHop(f, id, key)
	addDifferences(f, len(msg1))
	f.Fuzz(func(t *testing.T, mask []byte, longer int8) {
		b := differ(msg1, mask, longer)
		_, _, err := AcceptHop(id, key, NewReplayCache(1), both, b)
		expect(t, b, msg1, err)
	})
}

func FuzzFinishHop(f *testing.F) {
	id, key := wire.NodeID{1}, testKey(f, 1)
	h, msg1 := startHop(f, id, key)
	msg2, _, err := AcceptHop(id, key, NewReplayCache(1), both, msg1)
	if err != nil {
		f.Fatal(err)
	}
	addDifferences(f, len(msg2))
	f.Fuzz(func(t *testing.T, mask []byte, longer int8) {
		b := differ(msg2, mask, longer)
		_, err := h.copy().Finish(b)
		expect(t, b, msg2, err)
	})
}

func FuzzAcceptLink(f *testing.F) {
	id, key := wire.NodeID{1}, testKey(f, 1)
	_, msg1, err := StartLink(id, key.Public(), testKey(f, 2), []byte("record"), both)
	if err != nil {
		f.Fatal(err)
	}
	addDifferences(f, len(msg1))
	f.Fuzz(func(t *testing.T, mask []byte, longer int8) {
		b := differ(msg1, mask, longer)
		_, _, err := AcceptLink(id, key, b)
		expect(t, b, msg1, err)
	})
}

func FuzzFinishLink(f *testing.F) {
	id, key, self := wire.NodeID{1}, testKey(f, 1), testKey(f, 2)
	l, msg1, err := StartLink(id, key.Public(), self, []byte("record"), both)
	if err != nil {
		f.Fatal(err)
	}
	r, _, err := AcceptLink(id, key, msg1)
	if err != nil {
		f.Fatal(err)
	}
	msg2, err := r.Reply(self.Public(), both)
	if err != nil {
		f.Fatal(err)
	}
	msg3, _, err := l.copy().Finish(msg2)
	if err != nil {
		f.Fatal(err)
	}
	addDifferences(f, len(msg2))
	f.Fuzz(func(t *testing.T, mask []byte, longer int8) {
		b := differ(msg2, mask, longer)
		_, _, err := l.copy().Finish(b)
		expect(t, b, msg2, err)
		b = differ(msg3, mask, max(longer, -int8(len(msg3))))
		_, err = r.copy().Finish(b)
		expect(t, b, msg3, err)
	})
}

func FuzzParseExt(f *testing.F) {
	f.Add(ext{offer: both, choice: 1}.block())
	f.Add([]byte{1, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, wire.ExtSize)...)[:wire.ExtSize]
		if e, err := parseExt(b); err == nil && !bytes.Equal(e.block(), b) {
			t.Fatalf("%v has a second encoding %x", e, b)
		}
	})
}

// FuzzCells changes a cell on its way to the first hop and to the client.
func FuzzCells(f *testing.F) {
	c := newCircuit(f, 3, AES256GCM)
	out, back := c.snapshot().out(f, wire.Reliable, []byte("out"))[0], c.snapshot().back(wire.Reliable, []byte("back"))[0]
	addDifferences(f, wire.BodySize)
	f.Fuzz(func(t *testing.T, mask []byte, _ int8) {
		s := c.snapshot()
		b := differ(out, mask, 0)
		_, err := s.hops[0].Peel(cellOf(wire.Reliable, b))
		expect(t, b, out, err)
		b = differ(back, mask, 0)
		_, _, err = s.path.Open(cellOf(wire.Reliable, b))
		expect(t, b, back, err)
	})
}
