package onion

import (
	"crypto/hpke"
	"crypto/rand"
	"fmt"

	"cuttle/relay/wire"
)

// StaticKey is a node's handshake key pair: MLKEM768-X25519 (X-Wing), which is
// broken only if ML-KEM-768 and X25519 both are. It may be used by many
// goroutines at a time.
type StaticKey struct {
	private hpke.PrivateKey
	public  []byte
}

// NewStaticKey derives the key pair from its 32-byte seed, which is the private
// key in its stored form.
func NewStaticKey(seed [32]byte) (*StaticKey, error) {
	k, err := hpke.MLKEM768X25519().NewPrivateKey(seed[:])
	if err != nil {
		return nil, fmt.Errorf("handshake key: %w", err)
	}
	return &StaticKey{k, k.PublicKey().Bytes()}, nil
}

// generateKey makes an ephemeral key pair.
func generateKey() (*StaticKey, error) {
	var seed [32]byte
	rand.Read(seed[:]) // never fails (crypto/rand)
	return NewStaticKey(seed)
}

// Public returns the public key, wire.KEMPublicSize bytes. The caller must not
// change it.
func (k *StaticKey) Public() []byte { return k.public }

// Format hides the key from every fmt verb.
func (k *StaticKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hiddenKeys)) }

const kemContext = "cuttle kem v1"

func parsePublic(b []byte) (hpke.PublicKey, error) {
	if len(b) != wire.KEMPublicSize {
		return nil, fmt.Errorf("handshake key: %w", errSize)
	}
	pk, err := hpke.MLKEM768X25519().NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("handshake key: %w", err)
	}
	return pk, nil
}

// encap is Encap(pk, label) of docs/protocol.md section 1: HPKE (RFC 9180) base
// mode with an export-only AEAD.
func encap(pk hpke.PublicKey, label string) (enc, ss []byte, err error) {
	enc, sender, err := hpke.NewSender(pk, hpke.HKDFSHA256(), hpke.ExportOnly(), []byte(label))
	if err != nil {
		return nil, nil, fmt.Errorf("encapsulate: %w", err)
	}
	ss, err = sender.Export(kemContext, keySize)
	return enc, ss, err
}

// decap is Decap(sk, label) of docs/protocol.md section 1.
func (k *StaticKey) decap(enc []byte, label string) ([]byte, error) {
	recipient, err := hpke.NewRecipient(enc, k.private, hpke.HKDFSHA256(), hpke.ExportOnly(), []byte(label))
	if err != nil {
		return nil, fmt.Errorf("decapsulate: %w", err)
	}
	return recipient.Export(kemContext, keySize)
}
