package onion

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"

	"cuttle/relay/wire"
)

const (
	linkRekeyLabel = "cuttle link rekey v1"
	linkRekeyEvery = 1 << 20 // seals
)

// stream is one direction of a link: an AEAD with a counter as its nonce.
type stream struct {
	suite   Suite
	key     secret
	aead    cipher.AEAD
	counter uint64
	nonce   [nonceSize]byte
}

func newStream(suite Suite, key secret) stream {
	return stream{suite: suite, key: key, aead: newAEAD(suite, &key)}
}

func (s *stream) next() []byte {
	binary.BigEndian.PutUint64(s.nonce[4:], s.counter)
	return s.nonce[:]
}

// advance moves on to the next nonce and replaces the key when it is due.
func (s *stream) advance() {
	s.counter++
	if s.counter%linkRekeyEvery == 0 {
		rekey(&s.key, linkRekeyLabel)
		s.aead = newAEAD(s.suite, &s.key)
	}
}

// Split turns the keys into the two directions of a link. It can be called once:
// a second pair would repeat nonces.
func (k *LinkKeys) Split() (*Sealer, *Opener, error) {
	if !k.suite.valid() {
		return nil, nil, fmt.Errorf("keys of a link: %w", errUsed)
	}
	s, o := &Sealer{newStream(k.suite, k.send)}, &Opener{stream: newStream(k.suite, k.receive)}
	*k = LinkKeys{}
	return s, o, nil
}

// Sealer makes the records we send on a link, docs/protocol.md section 5. It
// allocates nothing. One goroutine at a time.
type Sealer struct{ stream }

// Seal seals one record in place: buf has wire.RecordHead free bytes, n bytes of
// plaintext (1 to wire.MaxRecord) and room for wire.RecordTail more. It returns
// the start of buf that is to be sent.
func (s *Sealer) Seal(buf []byte, n int) []byte {
	if n < 1 || n > wire.MaxRecord {
		panic(fmt.Sprintf("onion: link record of %d bytes", n))
	}
	buf = buf[: wire.RecordHead+n+wire.RecordTail : wire.RecordHead+n+wire.RecordTail]
	buf[0], buf[1], buf[2] = byte(n>>16), byte(n>>8), byte(n)
	s.aead.Seal(buf[:0], s.next(), buf[:3], nil)
	s.advance()
	s.aead.Seal(buf[wire.RecordHead:wire.RecordHead], s.next(), buf[wire.RecordHead:wire.RecordHead+n], nil)
	s.advance()
	return buf
}

// Opener opens the records we receive on a link: Length for the head, then Open
// for the body, and so on. After an error it refuses everything. It allocates
// nothing. One goroutine at a time.
type Opener struct {
	stream
	expect int // plaintext bytes of the body that comes next; 0: a head comes next
	failed bool
}

// Length opens the head of a record (wire.RecordHead bytes, overwritten) and
// returns the plaintext's length n, 1 to wire.MaxRecord. The body that follows
// has n + wire.RecordTail bytes.
func (o *Opener) Length(head []byte) (int, error) {
	if o.failed || o.expect != 0 || len(head) != wire.RecordHead {
		return 0, o.fail(errUsed)
	}
	p, err := o.aead.Open(head[:0], o.next(), head, nil)
	if err != nil {
		return 0, o.fail(errVerify)
	}
	o.advance()
	n := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
	if n < 1 || n > wire.MaxRecord {
		return 0, o.fail(errSize)
	}
	o.expect = n
	return n, nil
}

// Open opens the body that Length announced, in place, and returns its plaintext.
func (o *Opener) Open(body []byte) ([]byte, error) {
	if o.failed || o.expect == 0 || len(body) != o.expect+wire.RecordTail {
		return nil, o.fail(errUsed)
	}
	p, err := o.aead.Open(body[:0], o.next(), body, nil)
	if err != nil {
		return nil, o.fail(errVerify)
	}
	o.advance()
	o.expect = 0
	return p, nil
}

func (o *Opener) fail(err error) error {
	o.failed = true
	return fmt.Errorf("link record: %w", err)
}
