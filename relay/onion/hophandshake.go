package onion

import (
	"fmt"
	"slices"

	"cuttle/relay/wire"
)

const (
	hopName     = "Noise_pqNK_XWing_ChaChaPoly_SHA256"
	hopPrologue = "cuttle hop v1"
	hopSkem     = "cuttle hop skem v1"
	hopEkem     = "cuttle hop ekem v1"
	hopKeyLabel = "cuttle hop keys v1"

	sealedKeySize = wire.KEMPublicSize + wire.TagSize
	sealedExtSize = wire.ExtSize + wire.TagSize
)

// HopKeys are the keys that a client and one hop share. They are used up by
// NewHop or Path.Add.
type HopKeys struct {
	suite                     Suite
	forward, backward, filler secret
}

// Suite tells which AEAD was agreed.
func (k *HopKeys) Suite() Suite { return k.suite }

// Format hides the keys from every fmt verb.
func (k *HopKeys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hiddenKeys)) }

// take moves the keys out, so that they cannot be used a second time.
func (k *HopKeys) take() (HopKeys, error) {
	if !k.suite.valid() {
		return HopKeys{}, fmt.Errorf("keys of a hop: %w", errUsed)
	}
	out := *k
	*k = HopKeys{}
	return out, nil
}

func (s *symmetric) hopKeys(suite Suite) (*HopKeys, error) {
	b, err := s.expand(hopKeyLabel, 3*keySize)
	if err != nil {
		return nil, err
	}
	return &HopKeys{suite, secret(b), secret(b[keySize:]), secret(b[2*keySize:])}, nil
}

func newHopState(id wire.NodeID, kemPublic []byte) *symmetric {
	s := newSymmetric(hopName, []byte(hopPrologue), id[:])
	s.mixHash(kemPublic)
	return s
}

// HopInitiator is the client's end of one hop handshake after its first message.
type HopInitiator struct {
	s      *symmetric
	e      *StaticKey
	offers []Suite
}

// StartHop begins a handshake with the node that has this address and this KEM
// public key (both from its signed record). suites are offered in order of
// preference; DefaultSuites is the usual choice. msg1 has wire.HopMsg1Size bytes.
func StartHop(id wire.NodeID, kemPublic []byte, suites []Suite) (_ *HopInitiator, msg1 []byte, err error) {
	if err := checkSuites(suites); err != nil {
		return nil, nil, fmt.Errorf("start hop: %w", err)
	}
	pk, err := parsePublic(kemPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("start hop: %w", err)
	}
	h := &HopInitiator{s: newHopState(id, kemPublic), offers: slices.Clone(suites)}
	enc, ss, err := encap(pk, hopSkem)
	if err != nil {
		return nil, nil, fmt.Errorf("start hop: %w", err)
	}
	if h.e, err = generateKey(); err != nil {
		return nil, nil, fmt.Errorf("start hop: %w", err)
	}
	h.s.mixHash(enc)
	if err := h.s.mixKey(ss); err != nil {
		return nil, nil, fmt.Errorf("start hop: %w", err)
	}
	msg1 = append(make([]byte, 0, wire.HopMsg1Size), enc...)
	msg1 = h.s.encryptAndHash(msg1, h.e.public)
	return h, h.s.sealOffer(msg1, suites), nil
}

// Finish verifies the hop's answer, which proves that it holds the static key.
// It can be called once.
func (h *HopInitiator) Finish(msg2 []byte) (*HopKeys, error) {
	if h.s == nil {
		return nil, fmt.Errorf("finish hop: %w", errUsed)
	}
	s, e := h.s, h.e
	h.s, h.e = nil, nil
	if len(msg2) != wire.HopMsg2Size {
		return nil, fmt.Errorf("finish hop: %w", errSize)
	}
	enc := msg2[:wire.KEMEncSize]
	ss, err := e.decap(enc, hopEkem)
	if err != nil {
		return nil, fmt.Errorf("finish hop: %w", err)
	}
	s.mixHash(enc)
	if err := s.mixKey(ss); err != nil {
		return nil, fmt.Errorf("finish hop: %w", err)
	}
	suite, err := s.openChoice(msg2[wire.KEMEncSize:], h.offers)
	if err != nil {
		return nil, fmt.Errorf("finish hop: %w", err)
	}
	return s.hopKeys(suite)
}

// AcceptHop answers a client's first message on behalf of the node id with key.
// A message that seen has met before is refused with ErrReplayed; preferred are
// the suites this node takes. msg2 has wire.HopMsg2Size bytes. It takes time (two
// decapsulations' worth): the caller bounds how many run at once.
func AcceptHop(id wire.NodeID, key *StaticKey, seen *ReplayCache, preferred []Suite, msg1 []byte) (msg2 []byte, _ *HopKeys, err error) {
	if err := checkSuites(preferred); err != nil {
		return nil, nil, fmt.Errorf("accept hop: %w", err)
	}
	if len(msg1) != wire.HopMsg1Size {
		return nil, nil, fmt.Errorf("accept hop: %w", errSize)
	}
	s := newHopState(id, key.public)
	encS := msg1[:wire.KEMEncSize]
	e, err := s.readEphemeral(key, hopSkem, msg1)
	if err != nil {
		return nil, nil, fmt.Errorf("accept hop: %w", err)
	}
	offered, err := s.openOffer(msg1[wire.KEMEncSize+sealedKeySize:])
	if err != nil {
		return nil, nil, fmt.Errorf("accept hop: %w", err)
	}
	suite, err := chooseSuite(offered, preferred)
	if err != nil {
		return nil, nil, fmt.Errorf("accept hop: %w", err)
	}
	if seen.Seen(encS) {
		return nil, nil, fmt.Errorf("accept hop: %w", ErrReplayed)
	}
	if msg2, err = s.writeEphemeral(e, hopEkem, wire.HopMsg2Size); err != nil {
		return nil, nil, fmt.Errorf("accept hop: %w", err)
	}
	msg2 = s.sealChoice(msg2, suite)
	keys, err := s.hopKeys(suite)
	return msg2, keys, err
}
