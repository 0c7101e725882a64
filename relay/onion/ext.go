package onion

import (
	"fmt"
	"slices"

	"cuttle/relay/wire"
)

// The entries of an extension block, docs/protocol.md section 3.
const (
	extOffer  = 1 // suites offered
	extChoice = 2 // the suite chosen
	maxSuites = 4
)

// ext is an extension block's content; nil and 0 mean that the entry is absent.
type ext struct {
	offer  []Suite
	choice Suite
}

// block writes the 64 bytes.
func (e ext) block() []byte {
	b := make([]byte, 0, wire.ExtSize)
	if e.offer != nil {
		b = append(b, extOffer, byte(len(e.offer)))
		for _, s := range e.offer {
			b = append(b, byte(s))
		}
	}
	if e.choice != 0 {
		b = append(b, extChoice, 1, byte(e.choice))
	}
	return b[:wire.ExtSize]
}

// parseExt reads a block. It refuses types, suites and orders it does not know.
func parseExt(b []byte) (e ext, err error) {
	if len(b) != wire.ExtSize {
		return ext{}, fmt.Errorf("extension block: %w", errSize)
	}
	last := byte(0)
	for len(b) > 0 && b[0] != 0 {
		if b[0] <= last || len(b) < 2 || len(b) < 2+int(b[1]) {
			return ext{}, fmt.Errorf("extension block: %w", errFormat)
		}
		last = b[0]
		value := b[2 : 2+int(b[1])]
		switch {
		case last == extOffer:
			for _, s := range value {
				e.offer = append(e.offer, Suite(s))
			}
			err = checkSuites(e.offer)
		case last == extChoice && len(value) == 1 && Suite(value[0]).valid():
			e.choice = Suite(value[0])
		default:
			err = errFormat
		}
		if err != nil {
			return ext{}, fmt.Errorf("extension %d: %w", last, err)
		}
		b = b[2+len(value):]
	}
	if slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) {
		return ext{}, fmt.Errorf("extension block: %w", errFormat)
	}
	return e, nil
}

// sealOffer and openOffer carry the initiator's first message's block.
func (s *symmetric) sealOffer(dst []byte, suites []Suite) []byte {
	return s.encryptAndHash(dst, ext{offer: suites}.block())
}

func (s *symmetric) openOffer(c []byte) ([]Suite, error) {
	p, err := s.decryptAndHash(c)
	if err != nil {
		return nil, err
	}
	e, err := parseExt(p)
	if err == nil && (e.offer == nil || e.choice != 0) {
		err = errFormat
	}
	return e.offer, err
}

// sealChoice and openChoice carry the responder's block. openChoice refuses a
// suite that was not offered.
func (s *symmetric) sealChoice(dst []byte, chosen Suite) []byte {
	return s.encryptAndHash(dst, ext{choice: chosen}.block())
}

func (s *symmetric) openChoice(c []byte, offered []Suite) (Suite, error) {
	p, err := s.decryptAndHash(c)
	if err != nil {
		return 0, err
	}
	e, err := parseExt(p)
	if err == nil && (e.offer != nil || !slices.Contains(offered, e.choice)) {
		err = errFormat
	}
	return e.choice, err
}
