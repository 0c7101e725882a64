package evm

import (
	"encoding/binary"
	"errors"
	"math/big"

	"github.com/ethereum/go-ethereum/crypto"
)

// Voucher promises a payee a total out of a channel of the hub
// (billing/contract/Hub.sol). It is EIP-712 typed data signed by the channel's
// signer:
//
//	domain   EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)
//	         name "Cuttle Hub", version "1", verifyingContract the hub
//	message  Voucher(address payer,address payee,uint64 epoch,uint128 cumulative)
type Voucher struct {
	ChainID      uint64
	Hub          Address
	Payer, Payee Address
	Epoch        uint64   // of the channel; grows when it is opened again
	Cumulative   *big.Int // smallest units of the token since the channel was opened, below 2^128
}

var (
	hubName     = crypto.Keccak256([]byte("Cuttle Hub"))
	voucherType = crypto.Keccak256([]byte("Voucher(address payer,address payee,uint64 epoch,uint128 cumulative)"))
)

// ErrBadVoucher says that a voucher's signature is not its channel's, or its
// amount is none.
var ErrBadVoucher = errors.New("voucher is not signed by its channel's signer")

// valid tells whether the amount is one.
func (v Voucher) valid() bool {
	return v.Cumulative != nil && v.Cumulative.Sign() >= 0 && v.Cumulative.BitLen() <= 128
}

// Digest is what the signer signs. The voucher's amount must be a uint128.
func (v Voucher) Digest() [32]byte {
	var chain, epoch, sum [32]byte
	binary.BigEndian.PutUint64(chain[24:], v.ChainID)
	binary.BigEndian.PutUint64(epoch[24:], v.Epoch)
	v.Cumulative.FillBytes(sum[:])
	hub, payer, payee := leftPad(v.Hub), leftPad(v.Payer), leftPad(v.Payee)
	domain := crypto.Keccak256(domainType, hubName, domainVer, chain[:], hub[:])
	message := crypto.Keccak256(voucherType, payer[:], payee[:], epoch[:], sum[:])
	return [32]byte(crypto.Keccak256([]byte{0x19, 0x01}, domain, message))
}

// Sign signs the voucher with the channel's signer.
func (v Voucher) Sign(s interface {
	SignDigest(digest [32]byte) ([65]byte, error)
}) ([65]byte, error) {
	if !v.valid() {
		return [65]byte{}, ErrBadVoucher
	}
	return s.SignDigest(v.Digest())
}

// Verify checks a signature as the hub does: r, s in the lower half, v 27 or 28.
func (v Voucher) Verify(signer Address, sig [65]byte) error {
	if !v.valid() || signer == (Address{}) {
		return ErrBadVoucher
	}
	if got, ok := recoverSigner(v.Digest(), sig); !ok || got != signer {
		return ErrBadVoucher
	}
	return nil
}

// recoverSigner tells who has signed. Only one of a signature's forms counts.
func recoverSigner(digest [32]byte, sig [65]byte) (Address, bool) {
	v := sig[64] - 27
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:64])
	if !crypto.ValidateSignatureValues(v, r, s, true) {
		return Address{}, false
	}
	sig[64] = v
	pub, err := crypto.SigToPub(digest[:], sig[:])
	if err != nil {
		return Address{}, false
	}
	return crypto.PubkeyToAddress(*pub), true
}
