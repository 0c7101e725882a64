package onion

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20"

	"cuttle/relay/wire"
)

const (
	hopRekeyLabel = "cuttle hop rekey v1"
	hopRekeyEvery = 1 << 24 // cells of one direction

	classes    = 2
	sealedSize = wire.BodySize - wire.TagSize       // c: what a layer's keystream covers
	maxTail    = (wire.MaxHops - 1) * wire.SlotSize // bytes that hops before the last drop or add
	aesBlock   = 16
)

// Kind is a header's first byte, docs/protocol.md section 4.1.
type Kind uint8

// The kinds of a header.
const (
	PassOn Kind = 0 // the cell goes on to the next hop
	Here   Kind = 1 // the cell is for this hop, or from it
)

// Header is what one hop learns from its layer: whether the cell is for it, and
// if so how many bytes of payload it carries (else 0).
type Header struct {
	Kind   Kind
	Length int
}

var errCell = errors.New("cell does not verify")

func putHeader(b []byte, h Header) {
	b[0], b[1] = byte(h.Kind), 0
	binary.BigEndian.PutUint16(b[2:], uint16(h.Length))
}

func parseHeader(b []byte) (Header, bool) {
	h := Header{Kind(b[0]), int(binary.BigEndian.Uint16(b[2:]))}
	switch {
	case b[1] != 0:
		return h, false
	case h.Kind == PassOn:
		return h, h.Length == 0
	case h.Kind == Here:
		return h, h.Length >= 1 && h.Length <= wire.PayloadSize
	}
	return h, false
}

// layer is one direction of one hop: an AEAD whose nonce is a cell's class and a
// counter of the cells of both classes, so that none can be moved among the others
// unnoticed. Everything that takes a nonce goes through it, so a nonce is used for one
// cell and no other.
type layer struct {
	suite   Suite
	aead    cipher.AEAD
	block   cipher.Block // suite AES256GCM at the client: for the keystream alone
	counter uint64
	key     secret
	nonce   [nonceSize]byte // class || 3 zeros || counter
	in, out [aesBlock]byte  // scratch of keystream
}

// newLayer makes a layer; with withTail one whose keystream is asked for.
func newLayer(suite Suite, key secret, withTail bool) layer {
	l := layer{suite: suite, aead: newAEAD(suite, &key), key: key}
	if withTail && suite == AES256GCM {
		l.block = newAES(&key)
	}
	return l
}

// of is the layer for the next cell, which has that class.
func (l *layer) of(class wire.Class) *layer {
	if class >= classes {
		panic(fmt.Sprintf("onion: cell of class %d", class))
	}
	l.nonce[0] = byte(class)
	return l
}

// advance moves on to the next cell and replaces the key when it is due. The
// counter goes on, so that a nonce is never used twice, whatever the key.
func (l *layer) advance() {
	l.counter++
	binary.BigEndian.PutUint64(l.nonce[4:], l.counter)
	if l.counter%hopRekeyEvery != 0 {
		return
	}
	rekey(&l.key, hopRekeyLabel)
	l.aead = newAEAD(l.suite, &l.key)
	if l.block != nil {
		l.block = newAES(&l.key)
	}
}

// seal puts the layer on: the window's slot (tag, header h) comes in front of
// what stands in the rest of the body.
func (l *layer) seal(c *wire.Cell, h Header) {
	b := c.Extended(wire.TagSize)
	putHeader(b[wire.TagSize:], h)
	l.aead.Seal(b[wire.TagSize:wire.TagSize], l.nonce[:], b[wire.TagSize:wire.BodySize], nil)
	copy(b, b[wire.BodySize:]) // the tag goes in front
}

// open verifies the layer and takes it off in place; the window stays.
func (l *layer) open(c *wire.Cell) (Header, bool) {
	b := c.Extended(wire.TagSize)
	copy(b[wire.BodySize:], b[:wire.TagSize]) // the tag goes behind
	if _, err := l.aead.Open(b[wire.TagSize:wire.TagSize], l.nonce[:], b[wire.TagSize:], nil); err != nil {
		return Header{}, false
	}
	return parseHeader(b[wire.TagSize:])
}

// xorTail XORs into b the last len(b) bytes of the keystream that the AEAD lays
// over the sealedSize bytes of c at the present nonce. AES-GCM is CTR whose first
// data block has the counter block nonce || be32(2) (NIST SP 800-38D, section
// 7.1); ChaCha20-Poly1305 is ChaCha20 from block 1 on (RFC 8439, section 2.8).
func (l *layer) xorTail(b []byte) {
	if len(b) == 0 {
		return
	}
	from := sealedSize - len(b)
	if l.suite == AES256GCM {
		xorAES(l.block, &l.nonce, &l.in, &l.out, b, 2, from)
		return
	}
	xorChaCha(&l.key, &l.nonce, b, 1, from)
}

// filler is the keyed stream that a hop appends going out, or that a client puts where
// nobody reads. Its key is used for nothing else and is never replaced; each cell's nonce
// picks another part.
type filler struct {
	suite   Suite
	block   cipher.Block
	key     secret
	in, out [aesBlock]byte
}

func newFiller(suite Suite, key secret) filler {
	f := filler{suite: suite, key: key}
	if suite == AES256GCM {
		f.block = newAES(&f.key)
	}
	return f
}

// put fills b for the cell with that nonce.
func (f *filler) put(b []byte, nonce *[nonceSize]byte) {
	clear(b)
	if f.suite == AES256GCM {
		xorAES(f.block, nonce, &f.in, &f.out, b, 0, 0)
		return
	}
	xorChaCha(&f.key, nonce, b, 0, 0)
}

// xorAES XORs into b AES-CTR keystream: the bytes from offset from on, where byte
// 0 belongs to the counter block nonce || be32(first). in and out are scratch.
func xorAES(block cipher.Block, nonce *[nonceSize]byte, in, out *[aesBlock]byte, b []byte, first, from int) {
	copy(in[:], nonce[:])
	skip := from % aesBlock
	for n := from / aesBlock; len(b) > 0; n++ {
		binary.BigEndian.PutUint32(in[nonceSize:], uint32(first+n))
		block.Encrypt(out[:], in[:])
		done := subtle.XORBytes(b, b, out[skip:])
		b, skip = b[done:], 0
	}
}

const chachaBlock = 64

// xorChaCha is the same for ChaCha20, whose blocks are counted from first.
func xorChaCha(key *secret, nonce *[nonceSize]byte, b []byte, first, from int) {
	s, err := chacha20.NewUnauthenticatedCipher(key[:], nonce[:])
	if err != nil {
		panic("onion: " + err.Error())
	}
	s.SetCounter(uint32(first + from/chachaBlock))
	if skip := from % chachaBlock; skip > 0 {
		var waste [chachaBlock]byte
		s.XORKeyStream(waste[:skip], waste[:skip])
	}
	s.XORKeyStream(b, b)
}
