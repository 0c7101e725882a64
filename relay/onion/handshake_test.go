package onion

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"cuttle/relay/wire"
)

var both = []Suite{AES256GCM, ChaCha20Poly1305}

func testKey(t testing.TB, n byte) *StaticKey {
	t.Helper()
	k, err := NewStaticKey([32]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func startHop(t testing.TB, id wire.NodeID, key *StaticKey) (*HopInitiator, []byte) {
	t.Helper()
	h, msg1, err := StartHop(id, key.Public(), both)
	if err != nil {
		t.Fatal(err)
	}
	return h, msg1
}

// The copies let a test try many wrong messages on one handshake.
func (s *symmetric) copy() *symmetric { c := *s; return &c }

func (h *HopInitiator) copy() *HopInitiator { return &HopInitiator{h.s.copy(), h.e, h.offers} }

func (l *LinkInitiator) copy() *LinkInitiator {
	return &LinkInitiator{l.s.copy(), l.e, l.self, l.offers}
}

func (l *LinkResponder) copy() *LinkResponder {
	return &LinkResponder{l.s.copy(), l.e, l.offered, l.suite}
}

// flips runs try on a copy of msg for every byte (of long messages every fifth),
// with one bit of it flipped, and complains if one is accepted; then on every kind
// of wrong length.
func flips(t *testing.T, what string, msg []byte, try func([]byte) error) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, uint64(len(msg))))
	stride := 1
	if len(msg) > wire.HopMsg1Size {
		stride = 5
	}
	for i := 0; i < len(msg); i += stride * raceStride {
		bad := bytes.Clone(msg)
		bad[i] ^= 1 << rng.IntN(8)
		if try(bad) == nil {
			t.Errorf("%s with a flipped bit in byte %d is accepted", what, i)
		}
	}
	for _, bad := range [][]byte{nil, msg[:1], msg[:len(msg)/2], msg[:len(msg)-1], append(bytes.Clone(msg), 0), make([]byte, len(msg))} {
		if try(bad) == nil {
			t.Errorf("%s as %d bytes is accepted", what, len(bad))
		}
	}
}

func TestHopTampering(t *testing.T) {
	id, key := wire.NodeID{1}, testKey(t, 1)
	h, msg1 := startHop(t, id, key)
	seen := NewReplayCache(1 << 16)
	flips(t, "msg1", msg1, func(b []byte) error {
		msg2, keys, err := AcceptHop(id, key, seen, both, b)
		if err != nil && (msg2 != nil || keys != nil) {
			t.Fatal("something is returned beside the error")
		}
		return err
	})
	msg2, _, err := AcceptHop(id, key, seen, both, msg1)
	if err != nil {
		t.Fatalf("a wrong message spoiled the right one: %v", err)
	}
	flips(t, "msg2", msg2, func(b []byte) error { _, err := h.copy().Finish(b); return err })
	if _, err := h.Finish(msg2); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Finish(msg2); !errors.Is(err, errUsed) {
		t.Errorf("second Finish: %v", err)
	}
}

func TestHopWrongParty(t *testing.T) {
	id, key, other := wire.NodeID{1}, testKey(t, 1), testKey(t, 2)
	h, msg1 := startHop(t, id, key)
	if _, _, err := AcceptHop(id, other, NewReplayCache(1), both, msg1); err == nil {
		t.Error("an impostor can read the first message")
	}
	if _, _, err := AcceptHop(wire.NodeID{2}, key, NewReplayCache(1), both, msg1); err == nil {
		t.Error("a node with another address takes the message")
	}
	// Somebody answers a handshake of its own making.
	_, foreign := startHop(t, id, other)
	msg2, _, err := AcceptHop(id, other, NewReplayCache(1), both, foreign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.copy().Finish(msg2); err == nil {
		t.Error("an answer to another first message is accepted")
	}
	if _, err := h.copy().Finish(msg1[:wire.HopMsg2Size]); err == nil {
		t.Error("our own message is accepted when reflected")
	}
}

func TestHopReplay(t *testing.T) {
	id, key, seen := wire.NodeID{1}, testKey(t, 1), NewReplayCache(16)
	_, msg1 := startHop(t, id, key)
	var wg sync.WaitGroup
	results := make([]error, 4)
	for i := range results { // each ends with its one call
		wg.Go(func() { _, _, results[i] = AcceptHop(id, key, seen, both, msg1) })
	}
	wg.Wait()
	accepted := 0
	for _, err := range results {
		if err == nil {
			accepted++
		} else if !errors.Is(err, ErrReplayed) {
			t.Errorf("refused with %v, want ErrReplayed", err)
		}
	}
	if accepted != 1 {
		t.Errorf("one message was accepted %d times", accepted)
	}
}

func TestLinkTampering(t *testing.T) {
	id, key, self := wire.NodeID{1}, testKey(t, 1), testKey(t, 2)
	record := pattern(wire.MaxRecordSize, 1)
	l, msg1, err := StartLink(id, key.Public(), self, record, both)
	if err != nil {
		t.Fatal(err)
	}
	flips(t, "msg1", msg1, func(b []byte) error { _, _, err := AcceptLink(id, key, b); return err })
	r, got, err := AcceptLink(id, key, msg1)
	if err != nil || !bytes.Equal(got, record) {
		t.Fatalf("record changed, %v", err)
	}
	if _, err := r.Finish(make([]byte, wire.LinkMsg3Size)); !errors.Is(err, errUsed) {
		t.Errorf("Finish before Reply: %v", err)
	}
	msg2, err := r.Reply(self.Public(), both)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reply(self.Public(), both); !errors.Is(err, errUsed) {
		t.Errorf("second Reply: %v", err)
	}
	flips(t, "msg2", msg2, func(b []byte) error { _, _, err := l.copy().Finish(b); return err })
	msg3, _, err := l.Finish(msg2)
	if err != nil {
		t.Fatal(err)
	}
	flips(t, "msg3", msg3, func(b []byte) error { _, err := r.copy().Finish(b); return err })
	if _, err := r.Finish(msg3); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Finish(msg3); !errors.Is(err, errUsed) {
		t.Errorf("second Finish of the responder: %v", err)
	}
	if _, _, err := l.Finish(msg2); !errors.Is(err, errUsed) {
		t.Errorf("second Finish of the initiator: %v", err)
	}
}

func TestLinkWrongParty(t *testing.T) {
	id, key, victim, own := wire.NodeID{1}, testKey(t, 1), testKey(t, 2), testKey(t, 3)
	// The acceptor does not hold the key.
	_, msg1, err := StartLink(id, key.Public(), victim, []byte("victim's record"), both)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := AcceptLink(id, own, msg1); err == nil {
		t.Error("an impostor can read the first message")
	}
	if _, _, err := AcceptLink(wire.NodeID{2}, key, msg1); err == nil {
		t.Error("a node with another address takes the message")
	}
	if _, _, err := AcceptLink(wire.NodeID{}, victim, msg1); err == nil {
		t.Error("the initiator accepts its own message when reflected")
	}
	// The initiator shows somebody else's record.
	l, msg1, err := StartLink(id, key.Public(), own, []byte("victim's record"), both)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := AcceptLink(id, key, msg1)
	if err != nil {
		t.Fatal(err)
	}
	msg2, err := r.Reply(victim.Public(), both)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.copy().Finish(msg2); err == nil {
		t.Error("an initiator with another key can go on")
	}
	// It goes on all the same, leaving out the key it does not have.
	s := l.s.copy()
	s.mixHash(msg2[:wire.KEMEncSize])
	if err := s.mixKey(must(l.e.decap(msg2[:wire.KEMEncSize], linkEkem))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.decryptAndHash(msg2[wire.KEMEncSize : 2*wire.KEMEncSize+wire.TagSize]); err != nil {
		t.Fatal(err)
	}
	s.mixHash(msg2[2*wire.KEMEncSize+wire.TagSize:])
	if _, err := r.Finish(s.encryptAndHash(nil, ext{}.block())); err == nil {
		t.Error("an initiator without the key in its record is accepted")
	}
}

func TestStartRefuses(t *testing.T) {
	key := testKey(t, 1)
	badKey := bytes.Repeat([]byte{0xff}, wire.KEMPublicSize) // coefficients out of range (FIPS 203, section 7.2)
	for name, err := range map[string]error{
		"no suites":       second(StartHop(wire.NodeID{}, key.Public(), nil)),
		"unknown suite":   second(StartHop(wire.NodeID{}, key.Public(), []Suite{3})),
		"suite twice":     second(StartHop(wire.NodeID{}, key.Public(), []Suite{1, 1})),
		"short key":       second(StartHop(wire.NodeID{}, key.Public()[1:], both)),
		"invalid key":     second(StartHop(wire.NodeID{}, badKey, both)),
		"link, suites":    second(StartLink(wire.NodeID{}, key.Public(), key, []byte{1}, nil)),
		"link, key":       second(StartLink(wire.NodeID{}, badKey, key, []byte{1}, both)),
		"link, no record": second(StartLink(wire.NodeID{}, key.Public(), key, nil, both)),
		"link, record":    second(StartLink(wire.NodeID{}, key.Public(), key, make([]byte, wire.MaxRecordSize+1), both)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	_, msg1 := startHop(t, wire.NodeID{}, key)
	if _, _, err := AcceptHop(wire.NodeID{}, key, NewReplayCache(1), nil, msg1); err == nil {
		t.Error("accepted without a suite of our own")
	}
	for name, reply := range map[string]func(*LinkResponder) error{
		"invalid key": func(r *LinkResponder) error { _, err := r.Reply(badKey, both); return err },
		"no suites":   func(r *LinkResponder) error { _, err := r.Reply(key.Public(), nil); return err },
	} {
		_, msg1, err := StartLink(wire.NodeID{}, key.Public(), key, []byte{1}, both)
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := AcceptLink(wire.NodeID{}, key, msg1)
		if err != nil {
			t.Fatal(err)
		}
		if reply(r) == nil {
			t.Errorf("reply with %s is made", name)
		}
		if _, err := r.Reply(key.Public(), both); !errors.Is(err, errUsed) {
			t.Errorf("reply after a refusal: %v", err)
		}
	}
}

func second[A, B any](_ A, _ B, err error) error { return err }

func TestChooseSuite(t *testing.T) {
	for _, c := range []struct {
		offered, preferred []Suite
		want               Suite
	}{
		{both, both, AES256GCM},
		{[]Suite{2, 1}, []Suite{2, 1}, ChaCha20Poly1305},
		{[]Suite{2, 1}, both, ChaCha20Poly1305},
		{both, []Suite{2, 1}, ChaCha20Poly1305},
		{[]Suite{2, 1}, []Suite{1}, AES256GCM},
		{[]Suite{1}, []Suite{2, 1}, AES256GCM},
		{both, []Suite{2}, ChaCha20Poly1305},
		{[]Suite{1}, []Suite{2}, 0},
	} {
		got, err := chooseSuite(c.offered, c.preferred)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("offered %v, preferred %v: %v, %v, want %v", c.offered, c.preferred, got, err, c.want)
		}
	}
	if d := DefaultSuites(); checkSuites(d) != nil || len(d) != 2 {
		t.Errorf("DefaultSuites() = %v", d)
	}
}

func TestExt(t *testing.T) {
	for _, e := range []ext{{}, {offer: both}, {choice: 2}, {offer: []Suite{2}, choice: 1}} {
		got, err := parseExt(e.block())
		if err != nil || fmt.Sprint(got) != fmt.Sprint(e) {
			t.Errorf("%v comes out as %v, %v", e, got, err)
		}
	}
	for name, entry := range map[string][]byte{
		"unknown type":       {3, 1, 1},
		"descending":         {2, 1, 1, 1, 1, 1},
		"twice":              {1, 1, 1, 1, 1, 2},
		"no suites":          {1, 0},
		"five suites":        {1, 5, 1, 2, 1, 2, 1},
		"unknown suite":      {1, 1, 3},
		"unknown choice":     {2, 1, 3},
		"two choices":        {2, 2, 1, 2},
		"over the end":       {1, 63, 1},
		"bytes after zeros":  {0, 0, 1},
		"zero type, content": {1, 1, 1, 0, 5},
	} {
		if e, err := parseExt(append(entry, make([]byte, wire.ExtSize-len(entry))...)); err == nil {
			t.Errorf("%s: accepted as %v", name, e)
		}
	}
	if _, err := parseExt(make([]byte, wire.ExtSize+1)); err == nil {
		t.Error("block of 65 bytes is accepted")
	}
}

// TestMisplacedExt checks blocks that are well formed but belong elsewhere.
func TestMisplacedExt(t *testing.T) {
	seal := func(e ext) (*symmetric, []byte) {
		s := newSymmetric("name")
		if err := s.mixKey([]byte("key")); err != nil {
			t.Fatal(err)
		}
		return s.copy(), s.encryptAndHash(nil, e.block())
	}
	for _, e := range []ext{{}, {choice: 1}, {offer: both, choice: 1}} {
		if s, c := seal(e); !fails(s.openOffer(c)) {
			t.Errorf("%v is taken for an offer", e)
		}
	}
	for _, e := range []ext{{}, {offer: both}, {offer: both, choice: 1}, {choice: 2}} {
		if s, c := seal(e); !fails(s.openChoice(c, []Suite{1})) {
			t.Errorf("%v is taken for a choice of what was offered", e)
		}
	}
}

func fails[T any](_ T, err error) bool { return err != nil }

func TestIdentityBlock(t *testing.T) {
	block := func(n int, rest ...byte) []byte {
		return append([]byte{byte(n >> 8), byte(n)}, append(rest, make([]byte, wire.IdentitySize-2-len(rest))...)...)
	}
	if got, err := parseIdentity(block(2, 5, 6)); err != nil || !bytes.Equal(got, []byte{5, 6}) || cap(got) != 2 {
		t.Errorf("identity block: %x, %v", got, err)
	}
	for name, b := range map[string][]byte{"empty": block(0), "too long": block(wire.MaxRecordSize + 1), "over the end": block(65535), "not zero": block(1, 1, 1)} {
		if _, err := parseIdentity(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReplayCache(t *testing.T) {
	r := NewReplayCache(4)
	for i := range 100 {
		if r.Seen([]byte{byte(i)}) {
			t.Errorf("%d was never there", i)
		}
		for back := range min(i, 3) { // the last limit entries are remembered at least
			if !r.Seen([]byte{byte(i - back)}) {
				t.Errorf("%d is forgotten after %d more", i-back, back)
			}
		}
		if n := len(r.young) + len(r.old); n > 8 {
			t.Fatalf("%d entries, want at most 8", n)
		}
	}
	if r.Seen([]byte{0}) {
		t.Error("the first entry is remembered for ever")
	}
}

// TestKeysHide checks that nothing prints keys, and that they work once.
func TestKeysHide(t *testing.T) {
	key := testKey(t, 0xab)
	hop := &HopKeys{1, secret{0xab, 0xab, 0xab}, secret{0xab, 0xab, 0xab}, secret{0xab, 0xab, 0xab}}
	link := &LinkKeys{2, secret{0xab, 0xab, 0xab}, secret{0xab, 0xab, 0xab}}
	var out strings.Builder
	for _, v := range []any{key, hop, link} {
		fmt.Fprintf(&out, "%v %+v %#v %s %x %d\n", v, v, v, v, v, v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("keys", "k", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("keys", "k", v)
	}
	for _, canary := range []string{"171 171", "ab ab", "abab", "0xab, 0xab"} {
		if strings.Contains(out.String(), canary) {
			t.Errorf("%q printed in %s", canary, out.String())
		}
	}
	if hop.Suite() != AES256GCM || link.Suite() != ChaCha20Poly1305 {
		t.Error("Suite is wrong")
	}
	if _, err := NewHop(hop); err != nil {
		t.Fatal(err)
	}
	if _, err := NewHop(hop); !errors.Is(err, errUsed) {
		t.Errorf("second NewHop: %v", err)
	}
	if err := new(Path).Add(hop); !errors.Is(err, errUsed) {
		t.Errorf("Add after NewHop: %v", err)
	}
	if _, _, err := link.Split(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := link.Split(); !errors.Is(err, errUsed) {
		t.Errorf("second Split: %v", err)
	}
	if *hop != (HopKeys{}) || *link != (LinkKeys{}) {
		t.Error("used keys are still there")
	}
}

func BenchmarkHopHandshake(b *testing.B) {
	id, key := wire.NodeID{1}, testKey(b, 1)
	seen := NewReplayCache(1024)
	h, msg1 := startHop(b, id, key)
	b.Run("start", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			startHop(b, id, key)
		}
	})
	var msg2 []byte
	b.Run("accept", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var err error
			clear(seen.young)
			if msg2, _, err = AcceptHop(id, key, seen, both, msg1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("finish", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.copy().Finish(msg2); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLinkHandshake(b *testing.B) {
	id, key, self := wire.NodeID{1}, testKey(b, 1), testKey(b, 2)
	record := pattern(1500, 1)
	b.ReportAllocs()
	for b.Loop() {
		l, msg1, err := StartLink(id, key.Public(), self, record, both)
		if err != nil {
			b.Fatal(err)
		}
		r, _, err := AcceptLink(id, key, msg1)
		if err != nil {
			b.Fatal(err)
		}
		msg2, err := r.Reply(self.Public(), both)
		if err != nil {
			b.Fatal(err)
		}
		msg3, _, err := l.Finish(msg2)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.Finish(msg3); err != nil {
			b.Fatal(err)
		}
	}
}
