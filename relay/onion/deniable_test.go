package onion

import (
	"bytes"
	"crypto/ed25519"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// TestNothingSigns reads the imports of relay/onion, relay/link and relay/wire,
// which import none of our other packages: no package that makes signatures is
// among them.
func TestNothingSigns(t *testing.T) {
	known := []string{"crypto/aes", "crypto/cipher", "crypto/hkdf", "crypto/hpke", "crypto/rand", "crypto/sha256", "crypto/subtle",
		"golang.org/x/crypto/chacha20", "golang.org/x/crypto/chacha20poly1305", "golang.org/x/sys/cpu", "golang.org/x/sys/unix",
		"cuttle/relay/onion", "cuttle/relay/wire"}
	met := map[string]bool{}
	for _, dir := range []string{".", "../link", "../wire"} {
		for _, name := range must(filepath.Glob(dir + "/*.go")) {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, imp := range must(parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)).Imports {
				path := must(strconv.Unquote(imp.Path.Value))
				met[path] = true
				if strings.Contains(path, "crypto") || strings.Contains(path, ".") || strings.HasPrefix(path, "cuttle/") {
					if !slices.Contains(known, path) {
						t.Errorf("%s imports %s: see that nothing in it signs a handshake", name, path)
					}
				}
			}
		}
	}
	if !met["crypto/hpke"] || !met["cuttle/relay/onion"] {
		t.Error("the KEM or relay/onion is not among the imports: the test looks in the wrong place")
	}
}

// taker takes messages apart with the private keys of both sides.
type taker struct {
	t    *testing.T
	s    *refNoise
	rest []byte
}

func (r *taker) take(n int) (b []byte) {
	r.t.Helper()
	if n > len(r.rest) {
		r.t.Fatalf("%d bytes are left of a message, want %d", len(r.rest), n)
	}
	b, r.rest = r.rest[:n], r.rest[n:]
	return b
}

// share takes an encapsulation. If it opens what follows there is nothing else in
// it: ML-KEM's part is a function of the key and 32 bytes, as decapsulation checks
// (FIPS 203, section 6.3), and X25519's has 32 bytes, too few for a signature.
func (r *taker) share(k refKey, label string) {
	r.t.Helper()
	enc := r.take(1120)
	r.s.mix(enc)
	r.s.key(k.decap(enc, label))
}

func (r *taker) open(n int) []byte {
	r.t.Helper()
	p, ok := r.s.try(r.take(n + 16))
	if !ok {
		r.t.Fatalf("a part of %d bytes does not open", n)
	}
	return p
}

// next goes on with another message; nothing is left of the one before.
func (r *taker) next(msg []byte) {
	r.t.Helper()
	if len(r.rest) != 0 {
		r.t.Fatalf("a message has %d bytes more", len(r.rest))
	}
	r.rest = msg
}

// checkHop wants a hop handshake of encapsulations, tags, e and extensions only.
func checkHop(t *testing.T, id []byte, static, e refKey, msg1, msg2 []byte) {
	t.Helper()
	r := &taker{t: t, s: newRefNoise("Noise_pqNK_XWing_ChaChaPoly_SHA256", "cuttle hop v1", id, static.public())}
	r.next(msg1)
	r.share(static, "cuttle hop skem v1")
	parts := cat(r.open(1216), r.open(64))
	r.next(msg2)
	r.share(e, "cuttle hop ekem v1")
	parts = cat(parts, r.open(64))
	r.next(nil)
	if !bytes.Equal(parts, cat(e.public(), refExt(1, 2, 1, 2), refExt(2, 1, 1))) {
		t.Error("a hop's handshake holds something else")
	}
}

// checkLink wants the same of a link's, and the record.
func checkLink(t *testing.T, id []byte, static, e, initiator refKey, record, msg1, msg2, msg3 []byte) {
	t.Helper()
	r := &taker{t: t, s: newRefNoise("Noise_pqIK_XWing_ChaChaPoly_SHA256", "cuttle link v1", id, static.public())}
	r.next(msg1)
	r.share(static, "cuttle link skem r v1")
	parts := cat(r.open(1216), r.open(4096), r.open(64))
	r.next(msg2)
	r.share(e, "cuttle link ekem v1")
	r.s.key(initiator.decap(r.open(1120), "cuttle link skem i v1"))
	parts = cat(parts, r.open(64))
	r.next(msg3)
	parts = cat(parts, r.open(64))
	r.next(nil)
	identity := make([]byte, 4096)
	identity[0], identity[1] = byte(len(record)>>8), byte(len(record))
	copy(identity[2:], record)
	if !bytes.Equal(parts, cat(e.public(), identity, refExt(1, 2, 1, 2), refExt(2, 1, 1), refExt())) {
		t.Error("a link's handshake holds something else")
	}
}

// reveal gives an ephemeral key to the judge.
func reveal(e *StaticKey) refKey { return refKeyFromSeed(must(e.private.Bytes())) }

// TestNoSignatureInHopHandshake takes a hop handshake apart: it is encapsulations,
// tags, the ephemeral key and extension blocks. The hop alone makes one that is not
// told from it, even with all private keys, so neither proves anything to anybody.
func TestNoSignatureInHopHandshake(t *testing.T) {
	id, seed := pattern(32, 1), [32]byte{1}
	key, static := must(NewStaticKey(seed)), refKeyFromSeed(seed[:])
	h, msg1 := startHop(t, wire.NodeID(id), key)
	msg2, _, err := AcceptHop(wire.NodeID(id), key, NewReplayCache(1), both, msg1)
	if err != nil {
		t.Fatal(err)
	}
	checkHop(t, id, static, reveal(h.e), msg1, msg2)
	msg1, _, e := refHopStart(id, static.public(), 1, 2)
	msg2, _ = refHopAnswer(id, static, msg1, 1)
	checkHop(t, id, static, e, msg1, msg2)
}

// TestNoSignatureInLinkHandshake takes handshakes of one node with two others apart:
// beside what a hop's has they hold the initiator's record, the same bytes for both,
// whose own signature is over the record and nothing of the handshake. Whoever has
// seen that record makes a handshake with itself, without a key of the initiator's,
// that is not told from a real one, even with all private keys.
func TestNoSignatureInLinkHandshake(t *testing.T) {
	selfSeed := [32]byte{9}
	self, initiator := must(NewStaticKey(selfSeed)), refKeyFromSeed(selfSeed[:])
	signer := ed25519.NewKeyFromSeed(selfSeed[:])
	record := must(netmap.Sign(signer, netmap.Record{KEM: self.Public(), Sequence: 7, From: 1, Until: 2})).Bytes()
	end := len(record) - ed25519.SignatureSize
	if !ed25519.Verify(signer.Public().(ed25519.PublicKey), cat([]byte("cuttle record v1\x00"), record[:end]), record[end:]) {
		t.Fatal("the record's signature is not over the record alone")
	}
	for n := range byte(2) {
		id, seed := pattern(32, n), [32]byte{n}
		key, static := must(NewStaticKey(seed)), refKeyFromSeed(seed[:])
		l, msg1, err := StartLink(wire.NodeID(id), key.Public(), self, record, both)
		if err != nil {
			t.Fatal(err)
		}
		e := reveal(l.e)
		r, shown, err := AcceptLink(wire.NodeID(id), key, msg1)
		if err != nil {
			t.Fatal(err)
		}
		msg2 := must(r.Reply(self.Public(), both))
		msg3, _, err := l.Finish(msg2)
		if err != nil {
			t.Fatal(err)
		}
		checkLink(t, id, static, e, initiator, record, msg1, msg2, msg3)

		msg1, _, e = refLinkStart(id, static.public(), shown, 1, 2)
		msg2, _, s := refLinkAnswer(id, static, self.Public(), msg1, 1)
		checkLink(t, id, static, e, initiator, record, msg1, msg2, s.seal(refExt()))
	}
}
