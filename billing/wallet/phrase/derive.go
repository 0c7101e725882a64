package phrase

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/ethereum/go-ethereum/accounts"
)

// errNoKey is a step that has no key (BIP-32: probability below 1 in 2^127).
var errNoKey = errors.New("no key here: use another path")

// hardened is the bit of steps that need the private key ("44'").
const hardened = 1 << 31

// extended is a private key with its chain code (BIP-32, "Extended keys").
type extended struct {
	key   secp256k1.ModNScalar
	chain [32]byte
}

func (x *extended) wipe() {
	x.key.Zero()
	clear(x.chain[:])
}

// derive follows BIP-32 from the seed along an absolute path: 32 bytes that the
// caller wipes.
func derive(seed []byte, path string) ([]byte, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	var steps accounts.DerivationPath
	if strings.TrimSpace(path) != "m" {
		var err error
		if steps, err = accounts.ParseDerivationPath(path); err != nil {
			return nil, fmt.Errorf("path %q: %w", path, err)
		}
	}
	var x extended
	defer x.wipe()
	if err := x.set([]byte("Bitcoin seed"), seed, nil); err != nil { // "Master key generation"
		return nil, err
	}
	for _, step := range steps {
		if err := x.child(step); err != nil {
			return nil, fmt.Errorf("path %q: %w", path, err)
		}
	}
	key := x.key.Bytes()
	defer clear(key[:])
	return append([]byte(nil), key[:]...), nil
}

// child is BIP-32's CKDpriv, in place.
func (x *extended) child(step uint32) error {
	data := make([]byte, 0, 37)
	if step >= hardened {
		key := x.key.Bytes()
		data = append(append(data, 0), key[:]...)
		clear(key[:])
	} else {
		private := secp256k1.NewPrivateKey(&x.key)
		data = append(data, private.PubKey().SerializeCompressed()...)
		private.Zero()
	}
	data = binary.BigEndian.AppendUint32(data, step)
	defer clear(data)
	parent := x.key
	defer parent.Zero()
	chain := x.chain
	return x.set(chain[:], data, &parent)
}

// set makes x the left half of an HMAC-SHA512, plus parent if there is one, and
// the right half its chain code.
func (x *extended) set(secret, data []byte, parent *secp256k1.ModNScalar) error {
	mac := hmac.New(sha512.New, secret)
	mac.Write(data) //nolint:errcheck // a hash takes everything
	sum := mac.Sum(nil)
	defer clear(sum)
	if x.key.SetByteSlice(sum[:32]) {
		return errNoKey // not below the order of the curve
	}
	if parent != nil {
		x.key.Add(parent)
	}
	if x.key.IsZero() {
		return errNoKey
	}
	copy(x.chain[:], sum[32:])
	return nil
}
