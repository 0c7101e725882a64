package onion

import (
	"crypto/hpke"
	"encoding/binary"
	"fmt"
	"slices"

	"cuttle/relay/wire"
)

const (
	linkName     = "Noise_pqIK_XWing_ChaChaPoly_SHA256"
	linkPrologue = "cuttle link v1"
	linkSkemR    = "cuttle link skem r v1"
	linkEkem     = "cuttle link ekem v1"
	linkSkemI    = "cuttle link skem i v1"
	linkKeyLabel = "cuttle link keys v1"

	sealedIdentitySize = wire.IdentitySize + wire.TagSize
)

// LinkKeys are the keys of an authenticated link, as one end sees them. They are
// used up by Split.
type LinkKeys struct {
	suite         Suite
	send, receive secret
}

// Suite tells which AEAD was agreed.
func (k *LinkKeys) Suite() Suite { return k.suite }

// Format hides the keys from every fmt verb.
func (k *LinkKeys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hiddenKeys)) }

func (s *symmetric) linkKeys(suite Suite, initiator bool) (*LinkKeys, error) {
	b, err := s.expand(linkKeyLabel, 2*keySize)
	if err != nil {
		return nil, err
	}
	k := &LinkKeys{suite, secret(b), secret(b[keySize:])}
	if !initiator {
		k.send, k.receive = k.receive, k.send
	}
	return k, nil
}

func newLinkState(responder wire.NodeID, kemPublic []byte) *symmetric {
	s := newSymmetric(linkName, []byte(linkPrologue), responder[:])
	s.mixHash(kemPublic)
	return s
}

// readEphemeral reads the start that both handshakes' first messages share: the
// encapsulation to our static key and the sender's ephemeral public key.
func (s *symmetric) readEphemeral(key *StaticKey, label string, msg1 []byte) (hpke.PublicKey, error) {
	enc := msg1[:wire.KEMEncSize]
	ss, err := key.decap(enc, label)
	if err != nil {
		return nil, err
	}
	s.mixHash(enc)
	if err := s.mixKey(ss); err != nil {
		return nil, err
	}
	pub, err := s.decryptAndHash(msg1[wire.KEMEncSize : wire.KEMEncSize+sealedKeySize])
	if err != nil {
		return nil, err
	}
	return parsePublic(pub)
}

// writeEphemeral starts a second message of the given size: the encapsulation to
// the initiator's ephemeral key.
func (s *symmetric) writeEphemeral(e hpke.PublicKey, label string, size int) ([]byte, error) {
	enc, ss, err := encap(e, label)
	if err != nil {
		return nil, err
	}
	s.mixHash(enc)
	if err := s.mixKey(ss); err != nil {
		return nil, err
	}
	return append(make([]byte, 0, size), enc...), nil
}

// LinkInitiator is the initiator's end of a link handshake after its first message.
type LinkInitiator struct {
	s       *symmetric
	e, self *StaticKey
	offers  []Suite
}

// StartLink begins a handshake with the neighbor that has this address and this
// KEM public key. self is our own static key and record our own signed record,
// which names it (1 to wire.MaxRecordSize bytes); only the holder of the
// neighbor's key can read it. msg1 has wire.LinkMsg1Size bytes.
func StartLink(responder wire.NodeID, kemPublic []byte, self *StaticKey, record []byte, suites []Suite) (_ *LinkInitiator, msg1 []byte, err error) {
	if err := checkSuites(suites); err != nil {
		return nil, nil, fmt.Errorf("start link: %w", err)
	}
	if len(record) == 0 || len(record) > wire.MaxRecordSize {
		return nil, nil, fmt.Errorf("start link: own record: %w", errSize)
	}
	pk, err := parsePublic(kemPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("start link: %w", err)
	}
	l := &LinkInitiator{s: newLinkState(responder, kemPublic), self: self, offers: slices.Clone(suites)}
	enc, ss, err := encap(pk, linkSkemR)
	if err != nil {
		return nil, nil, fmt.Errorf("start link: %w", err)
	}
	if l.e, err = generateKey(); err != nil {
		return nil, nil, fmt.Errorf("start link: %w", err)
	}
	l.s.mixHash(enc)
	if err := l.s.mixKey(ss); err != nil {
		return nil, nil, fmt.Errorf("start link: %w", err)
	}
	identity := make([]byte, wire.IdentitySize)
	binary.BigEndian.PutUint16(identity, uint16(len(record)))
	copy(identity[2:], record)
	msg1 = append(make([]byte, 0, wire.LinkMsg1Size), enc...)
	msg1 = l.s.encryptAndHash(msg1, l.e.public)
	msg1 = l.s.encryptAndHash(msg1, identity)
	return l, l.s.sealOffer(msg1, suites), nil
}

// Finish verifies the neighbor's answer, which proves that it holds its static
// key, and returns the message that proves ours (wire.LinkMsg3Size bytes). It can
// be called once.
func (l *LinkInitiator) Finish(msg2 []byte) (msg3 []byte, _ *LinkKeys, err error) {
	if l.s == nil {
		return nil, nil, fmt.Errorf("finish link: %w", errUsed)
	}
	s, e := l.s, l.e
	l.s, l.e = nil, nil
	if len(msg2) != wire.LinkMsg2Size {
		return nil, nil, fmt.Errorf("finish link: %w", errSize)
	}
	encE, sealedEncI := msg2[:wire.KEMEncSize], msg2[wire.KEMEncSize:2*wire.KEMEncSize+wire.TagSize]
	ss, err := e.decap(encE, linkEkem)
	if err != nil {
		return nil, nil, fmt.Errorf("finish link: %w", err)
	}
	s.mixHash(encE)
	if err := s.mixKey(ss); err != nil {
		return nil, nil, fmt.Errorf("finish link: %w", err)
	}
	encI, err := s.decryptAndHash(sealedEncI)
	if err != nil {
		return nil, nil, fmt.Errorf("finish link: %w", err)
	}
	if ss, err = l.self.decap(encI, linkSkemI); err != nil {
		return nil, nil, fmt.Errorf("finish link: %w", err)
	}
	if err := s.mixKey(ss); err != nil {
		return nil, nil, fmt.Errorf("finish link: %w", err)
	}
	suite, err := s.openChoice(msg2[2*wire.KEMEncSize+wire.TagSize:], l.offers)
	if err != nil {
		return nil, nil, fmt.Errorf("finish link: %w", err)
	}
	msg3 = s.encryptAndHash(make([]byte, 0, wire.LinkMsg3Size), ext{}.block())
	keys, err := s.linkKeys(suite, true)
	return msg3, keys, err
}

// LinkResponder is the acceptor's end of a link handshake. Its calls come in the
// order AcceptLink, Reply, Finish, each once.
type LinkResponder struct {
	s       *symmetric
	e       hpke.PublicKey
	offered []Suite
	suite   Suite // 0 until Reply
}

// AcceptLink reads the first message sent to the node id with key and returns
// the record that the initiator claims as its own. Nothing proves yet that it is:
// the caller verifies the record, calls Reply with the KEM key it names, and
// trusts neither before Finish. A caller that wants to leave repeated first
// messages unanswered asks a ReplayCache about msg1[:wire.KEMEncSize] now.
func AcceptLink(id wire.NodeID, key *StaticKey, msg1 []byte) (_ *LinkResponder, record []byte, err error) {
	if len(msg1) != wire.LinkMsg1Size {
		return nil, nil, fmt.Errorf("accept link: %w", errSize)
	}
	s := newLinkState(id, key.public)
	e, err := s.readEphemeral(key, linkSkemR, msg1)
	if err != nil {
		return nil, nil, fmt.Errorf("accept link: %w", err)
	}
	rest := msg1[wire.KEMEncSize+sealedKeySize:]
	identity, err := s.decryptAndHash(rest[:sealedIdentitySize])
	if err != nil {
		return nil, nil, fmt.Errorf("accept link: %w", err)
	}
	if record, err = parseIdentity(identity); err != nil {
		return nil, nil, fmt.Errorf("accept link: %w", err)
	}
	offered, err := s.openOffer(rest[sealedIdentitySize:])
	if err != nil {
		return nil, nil, fmt.Errorf("accept link: %w", err)
	}
	return &LinkResponder{s: s, e: e, offered: offered}, record, nil
}

// parseIdentity reads u16 length || record || zeros.
func parseIdentity(b []byte) ([]byte, error) {
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > wire.MaxRecordSize {
		return nil, fmt.Errorf("identity block: %w", errSize)
	}
	if slices.ContainsFunc(b[2+n:], func(x byte) bool { return x != 0 }) {
		return nil, fmt.Errorf("identity block: %w", errFormat)
	}
	return b[2 : 2+n : 2+n], nil
}

// Reply answers the initiator whose verified record names initiatorKEM;
// preferred are the suites this node takes. msg2 has wire.LinkMsg2Size bytes.
func (l *LinkResponder) Reply(initiatorKEM []byte, preferred []Suite) (msg2 []byte, err error) {
	if l.s == nil || l.suite != 0 {
		return nil, fmt.Errorf("reply on link: %w", errUsed)
	}
	s := l.s
	l.s = nil // comes back if all goes well
	if err := checkSuites(preferred); err != nil {
		return nil, fmt.Errorf("reply on link: %w", err)
	}
	pk, err := parsePublic(initiatorKEM)
	if err != nil {
		return nil, fmt.Errorf("reply on link: %w", err)
	}
	suite, err := chooseSuite(l.offered, preferred)
	if err != nil {
		return nil, fmt.Errorf("reply on link: %w", err)
	}
	if msg2, err = s.writeEphemeral(l.e, linkEkem, wire.LinkMsg2Size); err != nil {
		return nil, fmt.Errorf("reply on link: %w", err)
	}
	encI, ss, err := encap(pk, linkSkemI)
	if err != nil {
		return nil, fmt.Errorf("reply on link: %w", err)
	}
	msg2 = s.encryptAndHash(msg2, encI)
	if err := s.mixKey(ss); err != nil {
		return nil, fmt.Errorf("reply on link: %w", err)
	}
	msg2 = s.sealChoice(msg2, suite)
	l.s, l.suite = s, suite
	return msg2, nil
}

// Finish verifies the third message, which proves that the initiator holds the
// key in its record. Only now is the neighbor who it says it is.
func (l *LinkResponder) Finish(msg3 []byte) (*LinkKeys, error) {
	if l.s == nil || l.suite == 0 {
		return nil, fmt.Errorf("finish link: %w", errUsed)
	}
	s := l.s
	l.s = nil
	if len(msg3) != wire.LinkMsg3Size {
		return nil, fmt.Errorf("finish link: %w", errSize)
	}
	p, err := s.decryptAndHash(msg3)
	if err != nil {
		return nil, fmt.Errorf("finish link: %w", err)
	}
	if e, err := parseExt(p); err != nil || e.offer != nil || e.choice != 0 {
		return nil, fmt.Errorf("finish link: %w", errFormat)
	}
	return s.linkKeys(l.suite, false)
}
