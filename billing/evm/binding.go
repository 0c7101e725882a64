package evm

import (
	"encoding/binary"
	"errors"

	"github.com/ethereum/go-ethereum/crypto"
)

// Binding says that payments from a wallet are a node's, on one chain and in
// one token, until it expires. It is EIP-712 typed data signed by the wallet:
//
//	domain   EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)
//	         name "Cuttle", version "1", verifyingContract the token
//	message  Binding(bytes32 node,address wallet,uint64 expiry)
type Binding struct {
	ChainID uint64
	Token   Address
	Node    [32]byte // the node's address, its Ed25519 public key
	Wallet  Address
	Expiry  uint64 // Unix seconds
}

var (
	domainType  = crypto.Keccak256([]byte("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"))
	domainName  = crypto.Keccak256([]byte("Cuttle"))
	domainVer   = crypto.Keccak256([]byte("1"))
	bindingType = crypto.Keccak256([]byte("Binding(bytes32 node,address wallet,uint64 expiry)"))
)

// ErrBadBinding says that a signature does not bind the wallet.
var ErrBadBinding = errors.New("binding is not signed by its wallet")

// Digest is what the wallet signs (EIP-712, encode of the typed data).
func (b Binding) Digest() [32]byte {
	word := func(n uint64) []byte {
		w := make([]byte, 32)
		binary.BigEndian.PutUint64(w[24:], n)
		return w
	}
	token, wallet := leftPad(b.Token), leftPad(b.Wallet)
	domain := crypto.Keccak256(domainType, domainName, domainVer, word(b.ChainID), token[:])
	message := crypto.Keccak256(bindingType, b.Node[:], wallet[:], word(b.Expiry))
	return [32]byte(crypto.Keccak256([]byte{0x19, 0x01}, domain, message))
}

// Verify checks a signature of 65 bytes: r, s in the lower half, v 27 or 28.
func (b Binding) Verify(sig [65]byte) error {
	if got, ok := recoverSigner(b.Digest(), sig); !ok || b.Wallet == (Address{}) || got != b.Wallet {
		return ErrBadBinding
	}
	return nil
}
