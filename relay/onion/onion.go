// Package onion is the cryptography of the core: the hybrid post-quantum
// handshakes of hops and links, the onion layers of cells and the sealing of
// link records (docs/protocol.md, sections 1, 3, 4.2 and 5).
//
// It is pure: bytes in, bytes out. It opens no sockets, starts no goroutines,
// reads no clock and logs nothing; randomness comes from the standard library's
// crypto packages. It refuses whatever the protocol does not name, and after the
// first failure a value stays unusable, so that a peer gets one try. Keys can be
// put to use once: a second NewHop, Path.Add or Split with the same keys is
// refused, since it would repeat nonces.
//
// relay/link uses the link handshake and the records, relay/circuit the hop
// handshake and the layers. ReplayCache has a lock of its own. Nothing else here
// is locked: a Hop and a Path may be used by one goroutine per direction, a
// Sealer, an Opener and a handshake by one goroutine at a time.
package onion

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

// Suite is the AEAD that protects traffic, docs/protocol.md section 1.
type Suite uint8

// The suites. Both have keys of 32 bytes, nonces of 12 and tags of 16.
const (
	AES256GCM        Suite = 1 // NIST SP 800-38D
	ChaCha20Poly1305 Suite = 2 // RFC 8439
)

// String gives the suite's usual name.
func (s Suite) String() string {
	switch s {
	case AES256GCM:
		return "AES-256-GCM"
	case ChaCha20Poly1305:
		return "ChaCha20-Poly1305"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

func (s Suite) valid() bool { return s == AES256GCM || s == ChaCha20Poly1305 }

// DefaultSuites returns the suites in the order this machine prefers: AES first
// where the processor computes it, in constant time, by instructions of its own.
func DefaultSuites() []Suite {
	aesGCM := cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 ||
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAES && cpu.S390X.HasAESCTR && cpu.S390X.HasGHASH
	if aesGCM {
		return []Suite{AES256GCM, ChaCha20Poly1305}
	}
	return []Suite{ChaCha20Poly1305, AES256GCM}
}

const (
	keySize   = 32
	nonceSize = 12
)

type secret = [keySize]byte

var (
	errVerify = errors.New("does not verify")
	errUsed   = errors.New("already used, or failed before")
	errSize   = errors.New("wrong size")
	errFormat = errors.New("malformed")
	errSuites = errors.New("no suite in common")
)

// checkSuites refuses lists that a peer would refuse.
func checkSuites(suites []Suite) error {
	if len(suites) == 0 || len(suites) > maxSuites {
		return errSuites
	}
	for i, s := range suites {
		if !s.valid() || slices.Contains(suites[:i], s) {
			return fmt.Errorf("offer of %v: %w", s, errFormat)
		}
	}
	return nil
}

// chooseSuite picks what both sides know. If they do not agree on the best one,
// one of them has no AES instructions, so ChaCha20-Poly1305 goes first.
func chooseSuite(offered, preferred []Suite) (Suite, error) {
	if offered[0] == preferred[0] {
		return offered[0], nil
	}
	if slices.Contains(offered, ChaCha20Poly1305) && slices.Contains(preferred, ChaCha20Poly1305) {
		return ChaCha20Poly1305, nil
	}
	for _, s := range preferred {
		if slices.Contains(offered, s) {
			return s, nil
		}
	}
	return 0, errSuites
}

// newAEAD panics only if a suite that was checked before is not known.
func newAEAD(s Suite, key *secret) cipher.AEAD {
	switch s {
	case AES256GCM:
		a, err := cipher.NewGCM(newAES(key))
		if err != nil {
			panic("onion: " + err.Error())
		}
		return a
	case ChaCha20Poly1305:
		a, err := chacha20poly1305.New(key[:])
		if err != nil {
			panic("onion: " + err.Error())
		}
		return a
	}
	panic("onion: " + s.String())
}

func newAES(key *secret) cipher.Block {
	b, err := aes.NewCipher(key[:])
	if err != nil {
		panic("onion: " + err.Error())
	}
	return b
}

// rekey replaces key by HKDF-Expand(key, label, 32) (RFC 5869, section 2.3).
func rekey(key *secret, label string) {
	next, err := hkdf.Expand(sha256.New, key[:], label, keySize)
	if err != nil {
		panic("onion: " + err.Error())
	}
	copy(key[:], next)
}

const hiddenKeys = "(keys hidden)"
