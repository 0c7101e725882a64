package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

const seedSize = 32

// Identity is what makes a node this node: the key that signs its record and
// is its address, and the key that its handshakes are made with.
type Identity struct {
	ID        wire.NodeID
	Sign      ed25519.PrivateKey
	Handshake *onion.StaticKey
}

// LoadIdentity reads identity.key and handshake.key (32-byte seeds, mode 0600)
// from the state directory and makes the directory and the keys that are
// missing.
func LoadIdentity(state string) (*Identity, error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	sign, err := seed(filepath.Join(state, "identity.key"))
	if err != nil {
		return nil, err
	}
	hs, err := seed(filepath.Join(state, "handshake.key"))
	if err != nil {
		return nil, err
	}
	key, err := onion.NewStaticKey(hs)
	if err != nil {
		return nil, fmt.Errorf("handshake key: %w", err)
	}
	id := &Identity{Sign: ed25519.NewKeyFromSeed(sign[:]), Handshake: key}
	copy(id.ID[:], id.Sign.Public().(ed25519.PublicKey))
	return id, nil
}

// seed reads a key's seed, or makes one: written to a file of its own, made
// durable, then put in place, so that a crash never leaves half a key.
func seed(path string) ([seedSize]byte, error) {
	var s [seedSize]byte
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if len(b) != seedSize {
			return s, fmt.Errorf("key file has %d bytes, want %d: restore it from a backup, or remove it to become a new node", len(b), seedSize)
		}
		info, err := os.Stat(path)
		if err != nil {
			return s, fmt.Errorf("key file: %w", err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return s, fmt.Errorf("key file can be read by others (mode %v): make it 0600", info.Mode().Perm())
		}
		copy(s[:], b)
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("key file: %w", err)
	}
	if _, err := rand.Read(s[:]); err != nil {
		return s, fmt.Errorf("make key: %w", err)
	}
	return s, writeFile(path, s[:])
}

func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already after the rename
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	return nil
}
