package onion

// A second, slow implementation of docs/protocol.md sections 1, 3 and 4.2, kept
// apart from the first: X-Wing by hand (draft-connolly-cfrg-xwing-kem), HPKE by
// hand (RFC 9180), HKDF by hand (RFC 5869), Noise with slices, layers without
// moving windows. It shares no code and no constant with the package.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func refExtract(salt, ikm []byte) []byte {
	if salt == nil {
		salt = make([]byte, 32)
	}
	m := hmac.New(sha256.New, salt)
	m.Write(ikm)
	return m.Sum(nil)
}

func refExpand(prk, info []byte, n int) []byte {
	var out, t []byte
	for i := byte(1); len(out) < n; i++ {
		m := hmac.New(sha256.New, prk)
		m.Write(cat(t, info, []byte{i}))
		t = m.Sum(nil)
		out = append(out, t...)
	}
	return out[:n]
}

// refKey is an X-Wing key pair.
type refKey struct {
	m *mlkem.DecapsulationKey768
	x *ecdh.PrivateKey
}

func refKeyFromSeed(seed []byte) refKey {
	h := sha3.NewSHAKE256()
	_, _ = h.Write(seed)
	expanded := make([]byte, 96)
	_, _ = h.Read(expanded)
	return refKey{must(mlkem.NewDecapsulationKey768(expanded[:64])), must(ecdh.X25519().NewPrivateKey(expanded[64:]))}
}

func (k refKey) public() []byte {
	return cat(k.m.EncapsulationKey().Bytes(), k.x.PublicKey().Bytes())
}

func refCombine(ssM, ssX, ctX, pkX []byte) []byte {
	sum := sha3.Sum256(cat(ssM, ssX, ctX, pkX, []byte{0x5c, 0x2e, 0x2f, 0x2f, 0x5e, 0x5c}))
	return sum[:]
}

// refExport is HPKE's key schedule for base mode, KEM 0x647a, KDF 0x0001, AEAD
// 0xffff, and its export with the context of docs/protocol.md.
func refExport(shared, info []byte) []byte {
	suite := []byte{'H', 'P', 'K', 'E', 0x64, 0x7a, 0x00, 0x01, 0xff, 0xff}
	extract := func(salt []byte, label string, ikm []byte) []byte {
		return refExtract(salt, cat([]byte("HPKE-v1"), suite, []byte(label), ikm))
	}
	expand := func(prk []byte, label string, info []byte, n int) []byte {
		return refExpand(prk, cat([]byte{byte(n >> 8), byte(n)}, []byte("HPKE-v1"), suite, []byte(label), info), n)
	}
	context := cat([]byte{0}, extract(nil, "psk_id_hash", nil), extract(nil, "info_hash", info))
	exporter := expand(extract(shared, "secret", nil), "exp", context, 32)
	return expand(exporter, "sec", []byte("cuttle kem v1"), 32)
}

// refEncap draws the X25519 key first and ML-KEM's coins second, as crypto/hpke does.
func refEncap(public []byte, label string) (enc, ss []byte) {
	pkX := must(ecdh.X25519().NewPublicKey(public[1184:]))
	e := must(ecdh.X25519().NewPrivateKey(randomBytes(32)))
	ssM, ctM, err := mlkemtest.Encapsulate768(must(mlkem.NewEncapsulationKey768(public[:1184])), randomBytes(32))
	if err != nil {
		panic(err)
	}
	ctX := e.PublicKey().Bytes()
	return cat(ctM, ctX), refExport(refCombine(ssM, must(e.ECDH(pkX)), ctX, pkX.Bytes()), []byte(label))
}

func (k refKey) decap(enc []byte, label string) []byte {
	ctM, ctX := enc[:1088], enc[1088:]
	ssX := must(k.x.ECDH(must(ecdh.X25519().NewPublicKey(ctX))))
	return refExport(refCombine(must(k.m.Decapsulate(ctM)), ssX, ctX, k.x.PublicKey().Bytes()), []byte(label))
}

// refNoise is the symmetric state.
type refNoise struct {
	h, ck, k []byte
	n        uint64
}

func newRefNoise(name, prologue string, id, public []byte) *refNoise {
	sum := sha256.Sum256([]byte(name))
	s := &refNoise{h: sum[:], ck: sum[:]}
	s.mix(cat([]byte(prologue), id))
	s.mix(public)
	return s
}

func (s *refNoise) mix(d []byte) {
	sum := sha256.Sum256(cat(s.h, d))
	s.h = sum[:]
}

func (s *refNoise) key(ss []byte) {
	out := refExpand(refExtract(s.ck, ss), nil, 64)
	s.ck, s.k, s.n = out[:32], out[32:], 0
}

func (s *refNoise) nonce() []byte {
	nonce := binary.LittleEndian.AppendUint64(make([]byte, 4), s.n)
	s.n++
	return nonce
}

func (s *refNoise) seal(p []byte) []byte {
	c := must(chacha20poly1305.New(s.k)).Seal(nil, s.nonce(), p, s.h)
	s.mix(c)
	return c
}

func (s *refNoise) open(c []byte) []byte {
	p := must(must(chacha20poly1305.New(s.k)).Open(nil, s.nonce(), c, s.h))
	s.mix(c)
	return p
}

func (s *refNoise) expand(label string, n int) []byte {
	return refExpand(s.ck, cat([]byte(label), s.h), n)
}

func refExt(entry ...byte) []byte { return append(entry, make([]byte, 64-len(entry))...) }

// refHopStart is the client's first message; the state and the ephemeral key go on.
func refHopStart(id, public []byte, suites ...byte) (msg1 []byte, s *refNoise, e refKey) {
	s = newRefNoise("Noise_pqNK_XWing_ChaChaPoly_SHA256", "cuttle hop v1", id, public)
	enc, ss := refEncap(public, "cuttle hop skem v1")
	e = refKeyFromSeed(randomBytes(32))
	s.mix(enc)
	s.key(ss)
	return cat(enc, s.seal(e.public()), s.seal(refExt(append([]byte{1, byte(len(suites))}, suites...)...))), s, e
}

// refHopAnswer is the hop's side; choice is the suite it takes.
func refHopAnswer(id []byte, static refKey, msg1 []byte, choice byte) (msg2, keys []byte) {
	s := newRefNoise("Noise_pqNK_XWing_ChaChaPoly_SHA256", "cuttle hop v1", id, static.public())
	s.mix(msg1[:1120])
	s.key(static.decap(msg1[:1120], "cuttle hop skem v1"))
	e := s.open(msg1[1120:2352])
	s.open(msg1[2352:])
	enc, ss := refEncap(e, "cuttle hop ekem v1")
	s.mix(enc)
	s.key(ss)
	msg2 = cat(enc, s.seal(refExt(2, 1, choice)))
	return msg2, s.expand("cuttle hop keys v1", 96)
}

func refHopFinish(s *refNoise, e refKey, msg2 []byte) (keys []byte) {
	s.mix(msg2[:1120])
	s.key(e.decap(msg2[:1120], "cuttle hop ekem v1"))
	s.open(msg2[1120:])
	return s.expand("cuttle hop keys v1", 96)
}

func refLinkStart(id, public, record []byte, suites ...byte) (msg1 []byte, s *refNoise, e refKey) {
	s = newRefNoise("Noise_pqIK_XWing_ChaChaPoly_SHA256", "cuttle link v1", id, public)
	enc, ss := refEncap(public, "cuttle link skem r v1")
	e = refKeyFromSeed(randomBytes(32))
	s.mix(enc)
	s.key(ss)
	identity := append([]byte{byte(len(record) >> 8), byte(len(record))}, record...)
	identity = append(identity, make([]byte, 4096-len(identity))...)
	return cat(enc, s.seal(e.public()), s.seal(identity), s.seal(refExt(append([]byte{1, byte(len(suites))}, suites...)...))), s, e
}

// refLinkAnswer is the responder's second message; the state goes on.
func refLinkAnswer(id []byte, static refKey, initiator, msg1 []byte, choice byte) (msg2, record []byte, s *refNoise) {
	s = newRefNoise("Noise_pqIK_XWing_ChaChaPoly_SHA256", "cuttle link v1", id, static.public())
	s.mix(msg1[:1120])
	s.key(static.decap(msg1[:1120], "cuttle link skem r v1"))
	e := s.open(msg1[1120:2352])
	identity := s.open(msg1[2352:6464])
	s.open(msg1[6464:])
	encE, ssE := refEncap(e, "cuttle link ekem v1")
	s.mix(encE)
	s.key(ssE)
	encI, ssI := refEncap(initiator, "cuttle link skem i v1")
	sealed := s.seal(encI)
	s.key(ssI)
	msg2 = cat(encE, sealed, s.seal(refExt(2, 1, choice)))
	return msg2, identity[2 : 2+int(identity[0])<<8+int(identity[1])], s
}

func refLinkFinish(s *refNoise, e, self refKey, msg2 []byte) (msg3, keys []byte) {
	s.mix(msg2[:1120])
	s.key(e.decap(msg2[:1120], "cuttle link ekem v1"))
	s.key(self.decap(s.open(msg2[1120:2256]), "cuttle link skem i v1"))
	s.open(msg2[2256:])
	msg3 = s.seal(make([]byte, 64))
	return msg3, s.expand("cuttle link keys v1", 64)
}

// refHop is one hop's keys, as both ends know them.
type refHop struct {
	suite                     int
	forward, backward, filler []byte
}

func refAEAD(suite int, key []byte) cipher.AEAD {
	if suite == 1 {
		return must(cipher.NewGCM(must(aes.NewCipher(key))))
	}
	return must(chacha20poly1305.New(key))
}

func refNonce(class byte, counter uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{class, 0, 0, 0}, counter)
}

// refKeyAt is the key for that counter: replaced after each 2^24 cells.
func refKeyAt(key []byte, counter uint64) []byte {
	for range counter >> 24 {
		key = refExpand(key, []byte("cuttle hop rekey v1"), 32)
	}
	return key
}

func (h refHop) seal(key []byte, class byte, counter uint64, p []byte) []byte {
	return refAEAD(h.suite, refKeyAt(key, counter)).Seal(nil, refNonce(class, counter), p, nil)
}

// stream is the keystream over the 1360 bytes of c: what zeros are sealed to.
func (h refHop) stream(key []byte, class byte, counter uint64) []byte {
	return h.seal(key, class, counter, make([]byte, 1360))[:1360]
}

func (h refHop) fillerBytes(class byte, counter uint64) []byte {
	out := make([]byte, 20)
	if h.suite == 1 {
		iv := append(refNonce(class, counter), 0, 0, 0, 0)
		cipher.NewCTR(must(aes.NewCipher(h.filler)), iv).XORKeyStream(out, out)
		return out
	}
	must(chacha20.NewUnauthenticatedCipher(h.filler, refNonce(class, counter))).XORKeyStream(out, out)
	return out
}

func xorBytes(a, b []byte) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

func refHeader(kind byte, n int) []byte { return []byte{kind, 0, byte(n >> 8), byte(n)} }

// refPad is the first n bytes of the stream that fills the client's cell of that number.
func refPad(suite int, key []byte, cell uint64, n int) []byte {
	out := make([]byte, n)
	if suite == 1 {
		cipher.NewCTR(must(aes.NewCipher(key)), append(refNonce(0, cell), 0, 0, 0, 0)).XORKeyStream(out, out)
	} else {
		must(chacha20.NewUnauthenticatedCipher(key, refNonce(0, cell))).XORKeyStream(out, out)
	}
	return out
}

// refSealPath returns the bodies that hops 0 to target see. counters are the
// forward counters of each hop, pad what stands behind the payload. The end of a body is
// found by sending a cell of zeros through hops that check nothing.
func refSealPath(hops []refHop, counters []uint64, class byte, target int, payload, pad []byte) [][]byte {
	dummy := make([]byte, 1376)
	for i := range target {
		p := xorBytes(dummy[16:], hops[i].stream(hops[i].forward, class, counters[i]))
		dummy = cat(p[4:], hops[i].fillerBytes(class, counters[i]))
	}
	known := 20 * target // bytes of dummy's end that no sender can choose
	p := cat(refHeader(1, len(payload)), payload, make([]byte, 1256-len(payload)), pad)
	stream := hops[target].stream(hops[target].forward, class, counters[target])
	copy(p[1360-known:], xorBytes(dummy[1376-known:], stream[1360-known:]))
	bodies := make([][]byte, target+1)
	for i := target; i >= 0; i-- {
		sealed := hops[i].seal(hops[i].forward, class, counters[i], p)
		bodies[i] = cat(sealed[1360:], sealed[:1360])
		p = cat(refHeader(0, 0), bodies[i][:1356])
	}
	return bodies
}

// refPeel is a relay's forward step.
func (h refHop) peel(counter uint64, class byte, body []byte) (header, rest []byte, err error) {
	p, err := refAEAD(h.suite, refKeyAt(h.forward, counter)).Open(nil, refNonce(class, counter), cat(body[16:], body[:16]), nil)
	if err != nil {
		return nil, nil, err
	}
	return p[:4], cat(p[4:], h.fillerBytes(class, counter)), nil
}

// refWrap is a relay's backward step; origin for a cell of its own, whose body is
// then payload and zeros.
func (h refHop) wrap(counter uint64, class byte, header, body []byte) []byte {
	sealed := h.seal(h.backward, class, counter, cat(header, body[:1356]))
	return cat(sealed[1360:], sealed[:1360])
}

// refOpenPath is the client's end of a cell that the last hop originated. The
// bytes dropped on the way are taken from a cell of zeros sent by the same hops.
func refOpenPath(hops []refHop, counters []uint64, class byte, body []byte) ([]byte, error) {
	last := len(hops) - 1
	dropped := make([][]byte, last+1)
	dummy := make([]byte, 1376)
	for i := last; i >= 0; i-- {
		dummy = hops[i].wrap(counters[i], class, refHeader(0, 0), dummy)
		dropped[i] = dummy[1356:]
	}
	for i := range hops {
		p, err := refAEAD(hops[i].suite, refKeyAt(hops[i].backward, counters[i])).Open(nil, refNonce(class, counters[i]), cat(body[16:], body[:16]), nil)
		if err != nil {
			return nil, err
		}
		if i == last {
			n := int(p[2])<<8 | int(p[3])
			if p[0] != 1 || !bytes.Equal(p[4+n:], make([]byte, 1356-n)) {
				return nil, errors.New("bad last layer")
			}
			return p[4 : 4+n], nil
		}
		body = cat(p[4:], dropped[i+1])
	}
	return nil, errors.New("no hops")
}
