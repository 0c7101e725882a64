package onion

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"cuttle/relay/wire"
)

// recorded is sealed traffic of one direction and how to try a key on it.
type recorded map[string]func(keys []byte) bool

// opened names the directions that open with keys.
func (r recorded) opened(keys []byte) (names []string) {
	for name, try := range r {
		if try(keys) {
			names = append(names, name)
		}
	}
	return names
}

// recordHop seals a cell each way with the keys of both ends of a hop.
func recordHop(t *testing.T, client, hop *HopKeys) recorded {
	t.Helper()
	suite := hop.suite
	keysOf := func(b []byte) *HopKeys { return &HopKeys{suite, secret(b), secret(b[32:]), secret(b[64:])} }
	path, end := new(Path), must(NewHop(hop))
	if err := path.Add(client); err != nil {
		t.Fatal(err)
	}
	var bodies [2][]byte
	for i := range bodies {
		c := wire.NewCell(wire.Reliable)
		copy(c.Payload(), "a secret")
		if i == 0 {
			path.Seal(c, 0, 8)
		} else {
			end.Originate(c, 8)
		}
		bodies[i] = bytes.Clone(c.Body())
		c.Release()
	}
	cell := func(i int) *wire.Cell {
		c := wire.NewCell(wire.Reliable)
		copy(c.Body(), bodies[i])
		return c
	}
	return recorded{
		"forward": func(b []byte) bool {
			c := cell(0)
			defer c.Release()
			_, err := must(NewHop(keysOf(b))).Peel(c)
			return err == nil && string(c.Payload()[:8]) == "a secret"
		},
		"backward": func(b []byte) bool {
			c, p := cell(1), new(Path)
			defer c.Release()
			if err := p.Add(keysOf(b)); err != nil {
				t.Fatal(err)
			}
			_, payload, err := p.Open(c)
			return err == nil && string(payload) == "a secret"
		},
	}
}

// recordLink seals a record each way with the keys of both ends of a link.
func recordLink(t *testing.T, initiator, responder *LinkKeys) recorded {
	t.Helper()
	suite, out := initiator.suite, recorded{}
	for name, k := range map[string]*LinkKeys{"out": initiator, "back": responder} {
		sealer, _, err := k.Split()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, wire.RecordHead+8+wire.RecordTail)
		copy(buf[wire.RecordHead:], "a secret")
		sealed := sealer.Seal(buf, 8)
		out[name] = func(b []byte) bool {
			key := secret(b)
			if name == "back" {
				key = secret(b[32:])
			}
			_, o, err := (&LinkKeys{suite: suite, receive: key}).Split()
			if err != nil {
				t.Fatal(err)
			}
			msg := bytes.Clone(sealed)
			if _, err := o.Length(msg[:wire.RecordHead]); err != nil {
				return false
			}
			p, err := o.Open(msg[wire.RecordHead:])
			return err == nil && string(p) == "a secret"
		}
	}
	return out
}

// with goes on from s as somebody who takes ss for the secret of enc; nil: who
// leaves it out.
func (s *refNoise) with(enc, ss []byte) *refNoise {
	c := *s
	c.mix(enc)
	if ss != nil {
		c.key(ss)
	}
	return &c
}

// try is open for who may have the wrong key.
func (s *refNoise) try(c []byte) (p []byte, ok bool) {
	p, err := must(chacha20poly1305.New(s.k)).Open(nil, s.nonce(), c, s.h)
	s.mix(c)
	return p, err == nil
}

// guesses are what static keys make of enc, under all labels of both handshakes,
// other secrets of the transcript, and none.
func guesses(enc []byte, others [][]byte, statics ...refKey) [][]byte {
	out := append([][]byte{nil, make([]byte, 32), enc}, others...)
	for _, k := range statics {
		for _, label := range []string{hopSkem, hopEkem, linkSkemR, linkEkem, linkSkemI} {
			out = append(out, k.decap(enc, label))
		}
	}
	return out
}

// TestHopForwardSecrecy records a hop handshake and a cell each way and gives all
// long-term keys away: the first message opens, the cells do not, neither for who
// lets the hop answer the recorded message again nor with anything that the keys
// and the transcript make. With the ephemeral key they do.
func TestHopForwardSecrecy(t *testing.T) {
	id, seed, clientSeed := pattern(32, 1), [32]byte{1}, [32]byte{2}
	key, static, client := must(NewStaticKey(seed)), refKeyFromSeed(seed[:]), refKeyFromSeed(clientSeed[:])
	h, msg1 := startHop(t, wire.NodeID(id), key)
	e := reveal(h.e)
	msg2, hopKeys, err := AcceptHop(wire.NodeID(id), key, NewReplayCache(1), both, msg1)
	if err != nil {
		t.Fatal(err)
	}
	cells := recordHop(t, must(h.Finish(msg2)), hopKeys)

	_, again, err := AcceptHop(wire.NodeID(id), key, NewReplayCache(1), both, msg1)
	if err != nil {
		t.Fatal(err)
	}
	if got := cells.opened(again.bytes()); got != nil {
		t.Errorf("keys of the answer to a replay open %v", got)
	}
	s := newRefNoise(hopName, hopPrologue, id, static.public())
	s.mix(msg1[:1120])
	first := static.decap(msg1[:1120], hopSkem)
	s.key(first)
	if !bytes.Equal(s.open(msg1[1120:2352]), e.public()) { // what the leak does open
		t.Fatal("the first message holds another key")
	}
	s.open(msg1[2352:])
	enc := msg2[:1120]
	finish := func(ss []byte) (opened []string, read bool) {
		s := s.with(enc, ss)
		_, read = s.try(msg2[1120:])
		return cells.opened(s.expand(hopKeyLabel, 96)), read
	}
	for i, ss := range guesses(enc, [][]byte{first}, static, client) {
		if got, read := finish(ss); got != nil || read {
			t.Errorf("guess %d opens %v of the cells, the answer: %v", i, got, read)
		}
	}
	if got, read := finish(e.decap(enc, hopEkem)); len(got) != 2 || !read {
		t.Errorf("the ephemeral key opens %v, the answer: %v; want all", got, read)
	}
}

// TestLinkForwardSecrecy does so with a link: with all long-term keys of both ends
// the first message opens, and so who the initiator is, but nothing after it.
func TestLinkForwardSecrecy(t *testing.T) {
	id, seed, selfSeed := pattern(32, 1), [32]byte{1}, [32]byte{2}
	key, self := must(NewStaticKey(seed)), must(NewStaticKey(selfSeed))
	static, initiator := refKeyFromSeed(seed[:]), refKeyFromSeed(selfSeed[:])
	l, msg1, err := StartLink(wire.NodeID(id), key.Public(), self, []byte("record"), both)
	if err != nil {
		t.Fatal(err)
	}
	e := reveal(l.e)
	accept := func() *LinkResponder {
		r, _, err := AcceptLink(wire.NodeID(id), key, msg1)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := accept()
	msg2 := must(r.Reply(self.Public(), both))
	msg3, keys, err := l.Finish(msg2)
	if err != nil {
		t.Fatal(err)
	}
	records := recordLink(t, keys, must(r.Finish(msg3)))

	r = accept()
	must(r.Reply(self.Public(), both))
	s := r.s.copy()
	if _, err := r.Finish(msg3); err == nil {
		t.Error("the recorded third message fits the answer to a replay")
	}
	again := must(s.linkKeys(r.suite, true))
	if got := records.opened(cat(again.send[:], again.receive[:])); got != nil {
		t.Errorf("keys of the answer to a replay open %v", got)
	}
	n := newRefNoise(linkName, linkPrologue, id, static.public())
	n.mix(msg1[:1120])
	first := static.decap(msg1[:1120], linkSkemR)
	n.key(first)
	if !bytes.Equal(n.open(msg1[1120:2352]), e.public()) || !bytes.HasPrefix(n.open(msg1[2352:6464])[2:], []byte("record")) {
		t.Fatal("the first message holds another key or record") // what the leak does open
	}
	n.open(msg1[6464:])
	encE, rest := msg2[:1120], msg2[1120:]
	finish := func(ss []byte) (opened []string, read int) {
		s := n.with(encE, ss)
		encI, ok := s.try(rest[:1136])
		if !ok {
			encI = rest[:1120] // better than nothing
		}
		for _, ss := range guesses(encI, [][]byte{first, ss}, static, initiator) {
			s := new(*s) // a copy
			if ss != nil {
				s.key(ss)
			}
			for _, c := range [][]byte{rest[1136:], msg3} {
				if _, ok := s.try(c); ok {
					read++
				}
			}
			opened = append(opened, records.opened(s.expand(linkKeyLabel, 64))...)
		}
		return opened, read
	}
	for i, ss := range guesses(encE, [][]byte{first}, static, initiator) {
		if got, read := finish(ss); got != nil || read != 0 {
			t.Errorf("guess %d opens %v of the records, %d messages", i, got, read)
		}
	}
	if got, read := finish(e.decap(encE, linkEkem)); len(got) != 2 || read != 2 {
		t.Errorf("the ephemeral key opens %v and %d messages, want all", got, read)
	}
}
