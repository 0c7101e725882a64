package onion

import (
	"bytes"
	"testing"

	"cuttle/relay/wire"
)

// Nothing that does not come from the other end is ever accepted. The fuzzer is
// given the right message too; only that one may pass.

func FuzzAcceptHop(f *testing.F) {
	id, key := wire.NodeID{1}, testKey(f, 1)
	_, msg1 := startHop(f, id, key)
	f.Add(msg1)
	f.Add(make([]byte, wire.HopMsg1Size))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := AcceptHop(id, key, NewReplayCache(1), both, b); err == nil && !bytes.Equal(b, msg1) {
			t.Fatal("accepted")
		}
	})
}

func FuzzFinishHop(f *testing.F) {
	id, key := wire.NodeID{1}, testKey(f, 1)
	h, msg1 := startHop(f, id, key)
	msg2, _, err := AcceptHop(id, key, NewReplayCache(1), both, msg1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg2)
	f.Add(make([]byte, wire.HopMsg2Size))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := h.copy().Finish(b); err == nil && !bytes.Equal(b, msg2) {
			t.Fatal("accepted")
		}
	})
}

func FuzzAcceptLink(f *testing.F) {
	id, key := wire.NodeID{1}, testKey(f, 1)
	_, msg1, err := StartLink(id, key.Public(), testKey(f, 2), []byte("record"), both)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg1)
	f.Add(make([]byte, wire.LinkMsg1Size))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := AcceptLink(id, key, b); err == nil && !bytes.Equal(b, msg1) {
			t.Fatal("accepted")
		}
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
	f.Add(msg2)
	f.Add(msg3)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := l.copy().Finish(b); err == nil && !bytes.Equal(b, msg2) {
			t.Fatal("the initiator accepts it")
		}
		if _, err := r.copy().Finish(b); err == nil && !bytes.Equal(b, msg3) {
			t.Fatal("the responder accepts it")
		}
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

// FuzzCells gives the first hop and the client anything in place of a cell.
func FuzzCells(f *testing.F) {
	c := newCircuit(f, 3, AES256GCM)
	f.Add(byte(0), c.snapshot().out(f, wire.Reliable, []byte("out"))[0])
	f.Add(byte(1), c.snapshot().back(wire.Reliable, []byte("back"))[0])
	right := [][]byte{c.snapshot().out(f, wire.Reliable, []byte("out"))[0], c.snapshot().back(wire.Reliable, []byte("back"))[0]}
	f.Fuzz(func(t *testing.T, class byte, body []byte) {
		s := c.snapshot()
		cell := wire.NewCell(wire.Class(class % 2))
		clear(cell.Body())
		copy(cell.Body(), body)
		again := cellOf(cell.Class, cell.Body())
		whole := bytes.Clone(cell.Body())
		if _, err := s.hops[0].Peel(cell); err == nil && !bytes.Equal(whole, right[0]) {
			t.Fatal("the hop accepts it")
		}
		if _, _, err := s.path.Open(again); err == nil && !bytes.Equal(whole, right[1]) {
			t.Fatal("the client accepts it")
		}
	})
}
