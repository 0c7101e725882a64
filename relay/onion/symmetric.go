package onion

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"
)

// symmetric is the symmetric state of the Noise Protocol Framework (revision
// 34, section 5.2) as docs/protocol.md section 1 writes it: every message is
// bound to all bytes before it.
type symmetric struct {
	h, ck [sha256.Size]byte
	aead  cipher.AEAD
	n     uint64
}

func newSymmetric(name string, prologue ...[]byte) *symmetric {
	s := &symmetric{h: sha256.Sum256([]byte(name))}
	s.ck = s.h
	s.mixHash(prologue...)
	return s
}

// mixHash mixes in the concatenation of d.
func (s *symmetric) mixHash(d ...[]byte) {
	w := sha256.New()
	w.Write(s.h[:])
	for _, b := range d {
		w.Write(b)
	}
	w.Sum(s.h[:0])
}

func (s *symmetric) mixKey(x []byte) error {
	out, err := hkdf.Key(sha256.New, x, s.ck[:], "", 2*keySize)
	if err != nil {
		return err
	}
	copy(s.ck[:], out)
	s.n = 0
	s.aead, err = chacha20poly1305.New(out[keySize:])
	return err
}

// nonce gives the next one: 4 zero bytes || u64le(n).
func (s *symmetric) nonce() []byte {
	var nonce [nonceSize]byte
	binary.LittleEndian.PutUint64(nonce[4:], s.n)
	s.n++
	return nonce[:]
}

// encryptAndHash appends the sealed p to dst.
func (s *symmetric) encryptAndHash(dst, p []byte) []byte {
	at := len(dst)
	dst = s.aead.Seal(dst, s.nonce(), p, s.h[:])
	s.mixHash(dst[at:])
	return dst
}

// decryptAndHash opens c, which is left as it was.
func (s *symmetric) decryptAndHash(c []byte) ([]byte, error) {
	p, err := s.aead.Open(nil, s.nonce(), c, s.h[:])
	if err != nil {
		return nil, errVerify
	}
	s.mixHash(c)
	return p, nil
}

// expand is Expand(label, n) of docs/protocol.md section 1.
func (s *symmetric) expand(label string, n int) ([]byte, error) {
	return hkdf.Expand(sha256.New, s.ck[:], label+string(s.h[:]), n)
}
