package onion

import (
	"bytes"
	"slices"
	"testing"

	"cuttle/relay/wire"
)

// party is who a suite is agreed with: the two uses of the construction side by
// side, and what somebody between the two ends makes of it. Offsets and labels
// are those of docs/protocol.md section 3, not of the package.
type party struct {
	name         string
	offer        int // where the sealed extension block of msg1 starts; it goes to the end
	choice       int // the same of msg2
	id           []byte
	key, self    *StaticKey // the responder's and the initiator's
	static, init refKey     // the same, for who knows them
	start        func(t *testing.T, p *party, suites []Suite) *initiating
	accept       func(p *party, msg1 []byte, preferred []Suite) (*accepted, error)
	// opened is the state of who holds the responder's key before msg1's block, and
	// the initiator's ephemeral public key.
	opened func(p *party, msg1 []byte) (s *refNoise, e []byte)
	// answer is a responder's message that ends with that block.
	answer func(p *party, msg1, block []byte) (msg2 []byte)
	// answered is the state before msg2's block, of who holds all private keys.
	answered func(p *party, e refKey, msg1, msg2 []byte) *refNoise
}

// initiating is an initiator after msg1.
type initiating struct {
	msg1   []byte
	e      refKey // its ephemeral key
	finish func(msg2 []byte) (agreed, error)
}

// accepted is a responder after msg2.
type accepted struct {
	msg2   []byte
	suite  Suite                             // of the hop; of a link's responder after finish
	finish func(msg3 []byte) (agreed, error) // a hop ignores msg3: it has none
}

// agreed is what one end has at last; keys are in the same order at both.
type agreed struct {
	suite Suite
	keys  []byte
	msg3  []byte // the initiator's
}

func (p *party) fill(id byte) *party {
	seed, selfSeed := [32]byte{id}, [32]byte{id, 1}
	p.id = pattern(32, id)
	p.key, p.self = must(NewStaticKey(seed)), must(NewStaticKey(selfSeed))
	p.static, p.init = refKeyFromSeed(seed[:]), refKeyFromSeed(selfSeed[:])
	return p
}

func parties() []*party {
	hop := &party{
		name: "hop", offer: 2352, choice: 1120,
		start: func(t *testing.T, p *party, suites []Suite) *initiating {
			t.Helper()
			h, msg1, err := StartHop(wire.NodeID(p.id), p.key.Public(), suites)
			if err != nil {
				t.Fatal(err)
			}
			return &initiating{msg1, reveal(h.e), func(msg2 []byte) (agreed, error) {
				k, err := h.copy().Finish(msg2)
				if err != nil {
					return agreed{}, err
				}
				return agreed{k.suite, k.bytes(), nil}, nil
			}}
		},
		accept: func(p *party, msg1 []byte, preferred []Suite) (*accepted, error) {
			msg2, k, err := AcceptHop(wire.NodeID(p.id), p.key, NewReplayCache(1), preferred, msg1)
			if err != nil {
				return nil, err
			}
			return &accepted{msg2, k.suite, func([]byte) (agreed, error) {
				return agreed{k.suite, k.bytes(), nil}, nil
			}}, nil
		},
		opened: func(p *party, msg1 []byte) (*refNoise, []byte) {
			s := newRefNoise("Noise_pqNK_XWing_ChaChaPoly_SHA256", "cuttle hop v1", p.id, p.static.public())
			s = s.with(msg1[:1120], p.static.decap(msg1[:1120], "cuttle hop skem v1"))
			return s, s.open(msg1[1120:2352])
		},
	}
	hop.answer = func(p *party, msg1, block []byte) []byte {
		s, e := p.opened(p, msg1)
		s.open(msg1[p.offer:])
		enc, ss := refEncap(e, "cuttle hop ekem v1")
		return cat(enc, s.with(enc, ss).seal(block))
	}
	hop.answered = func(p *party, e refKey, msg1, msg2 []byte) *refNoise {
		s, _ := p.opened(p, msg1)
		s.open(msg1[p.offer:])
		return s.with(msg2[:1120], e.decap(msg2[:1120], "cuttle hop ekem v1"))
	}
	link := &party{
		name: "link", offer: 6464, choice: 2256,
		start: func(t *testing.T, p *party, suites []Suite) *initiating {
			t.Helper()
			l, msg1, err := StartLink(wire.NodeID(p.id), p.key.Public(), p.self, []byte("record"), suites)
			if err != nil {
				t.Fatal(err)
			}
			return &initiating{msg1, reveal(l.e), func(msg2 []byte) (agreed, error) {
				msg3, k, err := l.copy().Finish(msg2)
				if err != nil {
					return agreed{}, err
				}
				return agreed{k.suite, cat(k.send[:], k.receive[:]), msg3}, nil
			}}
		},
		accept: func(p *party, msg1 []byte, preferred []Suite) (*accepted, error) {
			r, _, err := AcceptLink(wire.NodeID(p.id), p.key, msg1)
			if err != nil {
				return nil, err
			}
			msg2, err := r.Reply(p.self.Public(), preferred)
			if err != nil {
				return nil, err
			}
			return &accepted{msg2, r.suite, func(msg3 []byte) (agreed, error) {
				k, err := r.copy().Finish(msg3)
				if err != nil {
					return agreed{}, err
				}
				return agreed{k.suite, cat(k.receive[:], k.send[:]), nil}, nil
			}}, nil
		},
		opened: func(p *party, msg1 []byte) (*refNoise, []byte) {
			s := newRefNoise("Noise_pqIK_XWing_ChaChaPoly_SHA256", "cuttle link v1", p.id, p.static.public())
			s = s.with(msg1[:1120], p.static.decap(msg1[:1120], "cuttle link skem r v1"))
			e := s.open(msg1[1120:2352])
			s.open(msg1[2352:6464])
			return s, e
		},
	}
	link.answer = func(p *party, msg1, block []byte) []byte {
		s, e := p.opened(p, msg1)
		s.open(msg1[p.offer:])
		encE, ssE := refEncap(e, "cuttle link ekem v1")
		s = s.with(encE, ssE)
		encI, ssI := refEncap(p.self.Public(), "cuttle link skem i v1")
		sealed := s.seal(encI)
		s.key(ssI)
		return cat(encE, sealed, s.seal(block))
	}
	link.answered = func(p *party, e refKey, msg1, msg2 []byte) *refNoise {
		s, _ := p.opened(p, msg1)
		s.open(msg1[p.offer:])
		s = s.with(msg2[:1120], e.decap(msg2[:1120], "cuttle link ekem v1"))
		s.key(p.init.decap(s.open(msg2[1120:2256]), "cuttle link skem i v1"))
		return s
	}
	return []*party{hop.fill(1), link.fill(2)}
}

func forEachParty(t *testing.T, f func(t *testing.T, p *party)) {
	for _, p := range parties() {
		t.Run(p.name, func(t *testing.T) { f(t, p) })
	}
}

// offerOf and choiceOf are extension blocks.
func offerOf(suites ...byte) []byte {
	return refExt(append([]byte{1, byte(len(suites))}, suites...)...)
}

func choiceOf(suite byte) []byte { return refExt(2, 1, suite) }

// patch puts b over what stands in msg from byte at on.
func patch(msg []byte, at int, b []byte) []byte {
	out := bytes.Clone(msg)
	copy(out[at:], b)
	return out
}

// swap changes a sealed block whose content is known to be old into one of now, as
// whoever has no key can: the seal is a stream cipher's. The tag is left as it was.
func swap(msg []byte, at int, old, now []byte) []byte {
	return patch(msg, at, xorBytes(msg[at:at+len(old)], xorBytes(old, now)))
}

// TestHonestChoice: two ends that nobody disturbs agree on the suite that the rule
// of docs/protocol.md section 3.1 gives, and on the keys.
func TestHonestChoice(t *testing.T) {
	forEachParty(t, func(t *testing.T, p *party) {
		for _, tc := range []struct {
			offered, preferred []Suite
			want               Suite // 0: none in common
		}{
			{[]Suite{1, 2}, []Suite{1, 2}, 1},
			{[]Suite{2, 1}, []Suite{2, 1}, 2},
			{[]Suite{1, 2}, []Suite{2, 1}, 2},
			{[]Suite{2, 1}, []Suite{1, 2}, 2},
			{[]Suite{1}, []Suite{1, 2}, 1},
			{[]Suite{1}, []Suite{2, 1}, 1},
			{[]Suite{2}, []Suite{1, 2}, 2},
			{[]Suite{1, 2}, []Suite{1}, 1},
			{[]Suite{2, 1}, []Suite{1}, 1},
			{[]Suite{1}, []Suite{2}, 0},
			{[]Suite{2}, []Suite{1}, 0},
		} {
			i := p.start(t, p, tc.offered)
			r, err := p.accept(p, i.msg1, tc.preferred)
			if (err == nil) != (tc.want != 0) {
				t.Errorf("offered %v, preferred %v: accept: %v", tc.offered, tc.preferred, err)
			}
			if err != nil {
				continue
			}
			a, err := i.finish(r.msg2)
			if err != nil {
				t.Errorf("offered %v, preferred %v: finish: %v", tc.offered, tc.preferred, err)
				continue
			}
			b, err := r.finish(a.msg3)
			if err != nil {
				t.Errorf("offered %v, preferred %v: finish of the responder: %v", tc.offered, tc.preferred, err)
				continue
			}
			if a.suite != tc.want || b.suite != tc.want || !bytes.Equal(a.keys, b.keys) {
				t.Errorf("offered %v, preferred %v: the initiator has %v, the responder %v, same keys: %v; want %v and the same",
					tc.offered, tc.preferred, a.suite, b.suite, bytes.Equal(a.keys, b.keys), tc.want)
			}
		}
	})
}

// TestChoiceWithoutOffer: a responder with the right keys may choose any suite of
// those offered and no other, and says nothing else.
func TestChoiceWithoutOffer(t *testing.T) {
	forEachParty(t, func(t *testing.T, p *party) {
		for _, tc := range []struct {
			name    string
			offered []Suite
			block   []byte
			want    Suite // 0: refused
		}{
			{"the first", []Suite{1, 2}, choiceOf(1), 1},
			{"the second", []Suite{1, 2}, choiceOf(2), 2},
			{"the first, ChaCha20 before", []Suite{2, 1}, choiceOf(2), 2},
			{"the second, ChaCha20 before", []Suite{2, 1}, choiceOf(1), 1},
			{"the only one, AES", []Suite{1}, choiceOf(1), 1},
			{"the only one, ChaCha20", []Suite{2}, choiceOf(2), 2},
			{"ChaCha20 for AES", []Suite{1}, choiceOf(2), 0},
			{"AES for ChaCha20", []Suite{2}, choiceOf(1), 0},
			{"suite 0", []Suite{1, 2}, choiceOf(0), 0},
			{"suite 3", []Suite{1, 2}, choiceOf(3), 0},
			{"suite 255", []Suite{2}, choiceOf(255), 0},
			{"no choice", []Suite{1, 2}, refExt(), 0},
			{"no choice of one", []Suite{1}, refExt(), 0},
			{"two choices", []Suite{1, 2}, refExt(2, 2, 1, 2), 0},
			{"two entries", []Suite{1, 2}, refExt(2, 1, 1, 2, 1, 2), 0},
			{"the offer again", []Suite{1, 2}, offerOf(1, 2), 0},
			{"an offer and a choice", []Suite{1, 2}, refExt(1, 1, 2, 2, 1, 2), 0},
			{"a choice and a byte", []Suite{1, 2}, refExt(2, 1, 1, 0, 1), 0},
		} {
			i := p.start(t, p, tc.offered)
			got, err := i.finish(p.answer(p, i.msg1, tc.block))
			if got.suite != tc.want || (err == nil) != (tc.want != 0) {
				t.Errorf("%s of %v: got %v, %v; want %v", tc.name, tc.offered, got.suite, err, tc.want)
			}
			if err != nil && got.msg3 != nil {
				t.Errorf("%s of %v: there is a third message for it", tc.name, tc.offered)
			}
		}
	})
}

// TestOfferChangedWithoutKeys: who has no key cannot take a suite from an offer or
// turn its order, though he knows what is offered, has other handshakes of the same
// two ends, and can make ones of his own.
func TestOfferChangedWithoutKeys(t *testing.T) {
	forEachParty(t, func(t *testing.T, p *party) {
		offer := offerOf(1, 2)
		i, shorter := p.start(t, p, both), p.start(t, p, []Suite{2})
		for _, tc := range []struct {
			name string
			msg1 []byte
			want bool // the responder answers; then the initiator must not take it
		}{
			{"nothing", i.msg1, true},
			{"AES removed", swap(i.msg1, p.offer, offer, offerOf(2)), false},
			{"ChaCha20 removed", swap(i.msg1, p.offer, offer, offerOf(1)), false},
			{"order turned", swap(i.msg1, p.offer, offer, offerOf(2, 1)), false},
			{"all removed", swap(i.msg1, p.offer, offer, refExt()), false},
			{"block of a shorter offer", patch(i.msg1, p.offer, shorter.msg1[p.offer:]), false},
			{"all but the encapsulation of a shorter offer", patch(i.msg1, 1120, shorter.msg1[1120:]), false},
			{"block without a seal", patch(i.msg1, p.offer, offerOf(2)), false},
			{"other message with a shorter offer", shorter.msg1, true},
		} {
			r, err := p.accept(p, tc.msg1, both)
			if (err == nil) != tc.want {
				t.Errorf("%s: accept: %v, want an answer: %v", tc.name, err, tc.want)
			}
			if err != nil {
				continue
			}
			honest := bytes.Equal(tc.msg1, i.msg1)
			if a, err := i.finish(r.msg2); (err == nil) != honest {
				t.Errorf("%s: finish: %v, %v; want it to work: %v", tc.name, a.suite, err, honest)
			}
		}
	})
}

// TestChoiceChangedWithoutKeys: nor can he change what the responder chose.
func TestChoiceChangedWithoutKeys(t *testing.T) {
	forEachParty(t, func(t *testing.T, p *party) {
		i := p.start(t, p, both)
		r, err := p.accept(p, i.msg1, both)
		if err != nil {
			t.Fatal(err)
		}
		if r.suite != AES256GCM {
			t.Fatalf("the responder chose %v, want AES", r.suite)
		}
		other, err := p.accept(p, i.msg1, []Suite{2}) // the same message, by a process that forgot it
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			name string
			msg2 []byte
			want Suite
		}{
			{"nothing", r.msg2, 1},
			{"ChaCha20 for AES", swap(r.msg2, p.choice, choiceOf(1), choiceOf(2)), 0},
			{"no choice", swap(r.msg2, p.choice, choiceOf(1), refExt()), 0},
			{"block of another answer", patch(r.msg2, p.choice, other.msg2[p.choice:]), 0},
			{"block without a seal", patch(r.msg2, p.choice, choiceOf(2)), 0},
		} {
			if got, err := i.finish(tc.msg2); got.suite != tc.want || (err == nil) != (tc.want != 0) {
				t.Errorf("%s: got %v, %v; want %v", tc.name, got.suite, err, tc.want)
			}
		}
	})
}

// TestOfferChangedWithKey: who stole the responder's static key can seal another
// offer into the initiator's message, and the responder answers it; the initiator
// does not take the answer, since it is bound to an offer that it did not make.
func TestOfferChangedWithKey(t *testing.T) {
	forEachParty(t, func(t *testing.T, p *party) {
		for _, tc := range []struct {
			name            string
			offered, sealed []byte
			want            bool
		}{
			{"the same", []byte{1, 2}, []byte{1, 2}, true},
			{"AES removed", []byte{1, 2}, []byte{2}, false},
			{"ChaCha20 removed", []byte{1, 2}, []byte{1}, false},
			{"order turned", []byte{1, 2}, []byte{2, 1}, false},
			{"order turned back", []byte{2, 1}, []byte{1, 2}, false},
			{"ChaCha20 added", []byte{1}, []byte{1, 2}, false}, // what is chosen was offered
		} {
			i := p.start(t, p, suitesOf(tc.offered))
			s, _ := p.opened(p, i.msg1)
			msg1 := patch(i.msg1, p.offer, s.seal(offerOf(tc.sealed...)))
			r, err := p.accept(p, msg1, both)
			if err != nil {
				t.Errorf("%s: the responder finds something wrong: %v", tc.name, err) // then this tests nothing
				continue
			}
			if !slices.Contains(tc.sealed, byte(r.suite)) {
				t.Errorf("%s: the responder chose %v of %v", tc.name, r.suite, tc.sealed)
			}
			if a, err := i.finish(r.msg2); (err == nil) != tc.want {
				t.Errorf("%s: finish: %v, %v; want it to work: %v", tc.name, a.suite, err, tc.want)
			}
		}
	})
}

// TestChoiceChangedWithKeys: with all private keys of both ends, ephemeral ones too,
// he can seal another choice; the initiator cannot know. But the two ends then have
// no key in common, and a link's responder does not finish.
func TestChoiceChangedWithKeys(t *testing.T) {
	forEachParty(t, func(t *testing.T, p *party) {
		for _, tc := range []struct {
			name            string
			preferred       []Suite
			chosen, changed byte
		}{
			{"the same", []Suite{1, 2}, 1, 1},
			{"ChaCha20 for AES", []Suite{1, 2}, 1, 2},
			{"AES for ChaCha20", []Suite{2}, 2, 1},
		} {
			i := p.start(t, p, both)
			r, err := p.accept(p, i.msg1, tc.preferred)
			if err != nil {
				t.Fatal(err)
			}
			if r.suite != Suite(tc.chosen) {
				t.Fatalf("%s: the responder chose %v", tc.name, r.suite)
			}
			s := p.answered(p, i.e, i.msg1, r.msg2)
			a, err := i.finish(patch(r.msg2, p.choice, s.seal(choiceOf(tc.changed))))
			if err != nil || a.suite != Suite(tc.changed) {
				t.Errorf("%s: the initiator has %v, %v; the forgery is not the one that was meant", tc.name, a.suite, err)
				continue
			}
			b, err := r.finish(a.msg3)
			same := tc.chosen == tc.changed
			if p.name == "link" && (err == nil) != same {
				t.Errorf("%s: the responder finishes: %v, want it to: %v", tc.name, err, same)
			}
			if err != nil {
				continue
			}
			for n := 0; n < len(a.keys); n += 32 {
				if bytes.Equal(a.keys[n:n+32], b.keys[n:n+32]) != same {
					t.Errorf("%s: key %d is the same at both ends: %v", tc.name, n/32, !same)
				}
			}
		}
	})
}
