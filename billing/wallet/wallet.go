// Package wallet holds the key of a node's consuming wallet in a keystore v3
// file (Web3 Secret Storage Definition, version 3), locks it against a second
// process, and checks the address of its earning wallet, which needs no key.
//
// It refuses to overwrite a file, to open one that others may read, and an
// earning address that is zero, misspelt (EIP-55) or the consuming wallet's
// own. It knows no chain and no money: billing/evm asks an open Wallet for
// signatures. cmd/cuttle, cmd/cuttled and internal/node call it. A Wallet is immutable and
// safe for concurrent use.
package wallet

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/uuid"
)

// maxFile bounds what is read of a keystore or password file, bytes. Real ones
// have about 500.
const maxFile = 64 << 10

// Errors that callers tell apart.
var (
	ErrExists      = errors.New("a wallet is there already")
	ErrPassword    = errors.New("wrong password")
	ErrPermissions = errors.New("other users may read it")
	ErrSame        = errors.New("earning and consuming wallet are the same")
)

// Wallet is an open consuming wallet. It prints as its address, never its key.
type Wallet struct {
	address common.Address
	key     func() *ecdsa.PrivateKey // a closure: no fmt verb prints the key
}

// Create makes a new key and writes it to path, a keystore v3 file with mode
// 0600 encrypted under password. The scrypt cost is the standard's (256 MiB
// and about two seconds for each opening) or, if light, 4 MiB and 0.1 s, which
// a small machine needs and a weak password does not survive. It refuses to
// replace a file (ErrExists) and an empty password.
func Create(path, password string, light bool) (*Wallet, error) {
	key, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make wallet key: %w", err)
	}
	return importKey(path, password, light, key)
}

// Import writes an existing secp256k1 private key (64 hexadecimal digits, with
// or without 0x) to path as Create does.
func Import(path, password string, light bool, hexKey string) (*Wallet, error) {
	key, err := crypto.HexToECDSA(strings.TrimPrefix(strings.TrimSpace(hexKey), "0x"))
	if err != nil {
		return nil, errors.New("private key: want 64 hexadecimal digits of a valid secp256k1 key") // the cause would quote the key
	}
	return importKey(path, password, light, key)
}

// ImportBytes is Import for the 32 bytes of a key, as billing/wallet/phrase
// derives it.
func ImportBytes(path, password string, light bool, b []byte) (*Wallet, error) {
	key, err := crypto.ToECDSA(b)
	if err != nil {
		return nil, errors.New("private key: want 32 bytes of a valid secp256k1 key")
	}
	return importKey(path, password, light, key)
}

// ImportKeystore is Import for the key in another keystore file (version 3, of
// any program), which its own password opens. That file is not changed, and may
// be readable by others: it is on its way here.
func ImportKeystore(path, password string, light bool, file, filePassword string) (*Wallet, error) {
	text, err := readFile(file, false)
	if err != nil {
		return nil, fmt.Errorf("import wallet: %w", err)
	}
	key, err := decrypt(file, text, filePassword)
	if err != nil {
		return nil, err
	}
	return importKey(path, password, light, key)
}

func importKey(path, password string, light bool, key *ecdsa.PrivateKey) (*Wallet, error) {
	if err := write(path, password, light, key); err != nil {
		return nil, err
	}
	return fromKey(key), nil
}

func write(path, password string, light bool, key *ecdsa.PrivateKey) error {
	if password == "" {
		return errors.New("wallet password is empty: put one line into the password file")
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create wallet %s: %w: choose another path, or open it instead", path, ErrExists)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("create wallet: %w", err)
	}
	n, p := keystore.StandardScryptN, keystore.StandardScryptP
	if light {
		n, p = keystore.LightScryptN, keystore.LightScryptP
	}
	text, err := keystore.EncryptKey(&keystore.Key{Id: id, Address: crypto.PubkeyToAddress(key.PublicKey), PrivateKey: key}, password, n, p)
	if err != nil {
		return fmt.Errorf("encrypt wallet: %w", err)
	}
	return writeNew(path, text)
}

// writeNew puts text into a new file durably: it is whole or not there.
func writeNew(path string, text []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".wallet-*") // mode 0600
	if err != nil {
		return fmt.Errorf("create wallet: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write wallet: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike rename it never replaces
		if errors.Is(err, fs.ErrExist) {
			err = ErrExists
		}
		return fmt.Errorf("create wallet %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("create wallet: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open reads and decrypts the keystore v3 file at path. Errors say what to do;
// a wrong password is ErrPassword, a file that group or others may read
// ErrPermissions.
func Open(path, password string) (*Wallet, error) {
	text, err := readFile(path, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open wallet %s: %w: make one with `cuttle wallet new`, or correct billing.consuming", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open wallet: %w", err)
	}
	key, err := decrypt(path, text, password)
	if err != nil {
		return nil, err
	}
	return fromKey(key), nil
}

// decrypt refuses a file that states another address than its key's: whoever
// changed it could have money sent elsewhere.
func decrypt(path string, text []byte, password string) (*ecdsa.PrivateKey, error) {
	key, err := keystore.DecryptKey(text, password)
	switch {
	case errors.Is(err, keystore.ErrDecrypt):
		return nil, fmt.Errorf("open wallet %s: %w", path, ErrPassword)
	case err != nil:
		return nil, fmt.Errorf("open wallet %s: not a keystore v3 file: %w", path, err)
	}
	if stated, err := stated(text); err == nil && stated != key.Address {
		return nil, fmt.Errorf("open wallet %s: the file says that it is %s, its key is that of %s: somebody has changed it", path, stated.Hex(), key.Address.Hex())
	}
	return key.PrivateKey, nil
}

// Peek reads the address that a keystore file states, without a password. Only
// Open proves that it is the key's.
func Peek(path string) (common.Address, error) {
	text, err := readFile(path, true)
	if err != nil {
		return common.Address{}, fmt.Errorf("look into wallet: %w", err)
	}
	a, err := stated(text)
	if err != nil {
		return a, fmt.Errorf("look into wallet %s: %w", path, err)
	}
	return a, nil
}

func stated(text []byte) (common.Address, error) {
	var head struct {
		Version int    `json:"version"`
		Address string `json:"address"`
	}
	if err := json.Unmarshal(text, &head); err != nil || head.Version != 3 || !common.IsHexAddress(head.Address) {
		return common.Address{}, errors.New("not a keystore v3 file that states its address")
	}
	return common.HexToAddress(head.Address), nil
}

// ReadPassword reads the first line of a password file, which must be readable
// by its owner only.
func ReadPassword(path string) (string, error) {
	text, err := readFile(path, true)
	defer clear(text)
	if err != nil {
		return "", fmt.Errorf("read password file: %w", err)
	}
	line, err := firstLine(bytes.NewReader(text))
	if err != nil {
		return "", fmt.Errorf("password file %s: %w", path, err)
	}
	return line, nil
}

// readFile reads a small file; with private, one that nobody but its owner may
// read.
func readFile(path string, private bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case private && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s: %w: run `chmod 600 %s`", path, ErrPermissions, path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s: %d bytes is too large", path, info.Size())
	}
	buf := make([]byte, info.Size())
	n, err := f.ReadAt(buf, 0)
	if n == len(buf) {
		err = nil
	}
	return buf, err
}

func fromKey(key *ecdsa.PrivateKey) *Wallet {
	return &Wallet{address: crypto.PubkeyToAddress(key.PublicKey), key: func() *ecdsa.PrivateKey { return key }}
}

// Address is the wallet's address.
func (w *Wallet) Address() common.Address { return w.address }

// String is the address in EIP-55 spelling.
func (w *Wallet) String() string { return w.address.Hex() }

// GoString keeps %#v from looking inside.
func (w *Wallet) GoString() string { return "wallet.Wallet(" + w.address.Hex() + ")" }

// SignTx signs tx for the chain with that id (EIP-155, EIP-1559).
func (w *Wallet) SignTx(tx *types.Transaction, chainID *big.Int) (*types.Transaction, error) {
	signed, err := types.SignTx(tx, types.LatestSignerForChainID(chainID), w.key())
	if err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	return signed, nil
}

// SignDigest signs a 32-byte digest that the caller has computed: r, s and v
// (27 or 28), 65 bytes, s in the lower half.
func (w *Wallet) SignDigest(digest [32]byte) ([65]byte, error) {
	var out [65]byte
	sig, err := crypto.Sign(digest[:], w.key())
	if err != nil {
		return out, fmt.Errorf("sign: %w", err)
	}
	copy(out[:], sig)
	out[64] += 27
	return out, nil
}

// Earning checks the address of an earning wallet: 40 hexadecimal digits with
// 0x. Mixed case must be the EIP-55 checksum; all lower or upper case is
// accepted with unchecked true, which the caller should tell the user. The
// zero address is refused, and so is the consuming wallet's address (zero when
// there is none) unless sameWallet, because one address for both links the
// roles on-chain.
func Earning(text string, consuming common.Address, sameWallet bool) (address common.Address, unchecked bool, err error) {
	digits, ok := strings.CutPrefix(strings.TrimSpace(text), "0x")
	if !ok || !common.IsHexAddress(digits) || len(digits) != 2*common.AddressLength {
		return address, false, fmt.Errorf("earning address %q: want 0x and 40 hexadecimal digits", text)
	}
	address = common.HexToAddress(digits)
	unchecked = digits == strings.ToLower(digits) || digits == strings.ToUpper(digits)
	switch {
	case address == common.Address{}:
		return address, false, errors.New("earning address is zero: money sent there is lost")
	case !unchecked && "0x"+digits != address.Hex():
		return address, false, fmt.Errorf("earning address %q: the EIP-55 checksum does not match: check for a typing error (%s is the spelling of these digits)", text, address.Hex())
	case address == consuming && !sameWallet:
		return address, false, fmt.Errorf("earning address %s: %w: everybody could link what you pay with what you earn; use another address", address.Hex(), ErrSame)
	}
	return address, unchecked, nil
}

// AddressOf gives the address of the 32 bytes of a private key.
func AddressOf(b []byte) (common.Address, error) {
	key, err := crypto.ToECDSA(b)
	if err != nil {
		return common.Address{}, errors.New("private key: want 32 bytes of a valid secp256k1 key")
	}
	return crypto.PubkeyToAddress(key.PublicKey), nil
}
