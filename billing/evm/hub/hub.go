// Package hub is the Go side of the channel hub, billing/contract/Hub.sol: the
// generated binding, and the check that a contract on a chain is this hub and no
// other. It speaks to no chain and holds no state; billing/evm and the tests are
// its callers.
package hub

//go:generate ../../contract/generate.sh

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"

	"github.com/ethereum/go-ethereum/common"
)

// Where the constructor's values stand in the runtime code, which is the tail of
// the creation code: billing/contract/Hub.json, "immutables".
const runtimeSize = 6633 // bytes

var (
	tokenAt  = [...]int{638, 1185, 2980, 4672, 4889, 5209}
	noticeAt = [...]int{504, 842}
)

// ErrNotHub says that the code at an address is not the hub's.
var ErrNotHub = errors.New("the contract is not the channel hub that this program knows")

// Check tells whether code, as eth_getCode gives it, is the hub's to the byte,
// and for which token and with which notice (seconds from requestClose to
// close) it was made.
func Check(code []byte) (token common.Address, notice uint64, err error) {
	if len(code) != runtimeSize {
		return token, 0, ErrNotHub
	}
	want := append([]byte(nil), runtime()...)
	t, n := code[tokenAt[0]:][:32], code[noticeAt[0]:][:32]
	for _, i := range tokenAt {
		copy(want[i:], t)
	}
	for _, i := range noticeAt {
		copy(want[i:], n)
	}
	seconds := new(big.Int).SetBytes(n)
	if !bytes.Equal(want, code) || !bytes.Equal(t[:12], make([]byte, 12)) || !seconds.IsUint64() {
		return token, 0, ErrNotHub
	}
	return common.Address(t[12:]), seconds.Uint64(), nil
}

// runtime is the code as it lies on a chain, zero where the constructor writes.
func runtime() []byte {
	b, err := hex.DecodeString(strings.TrimPrefix(HubMetaData.Bin, "0x"))
	if err != nil || len(b) < runtimeSize {
		panic("hub: the binding holds no code")
	}
	return b[len(b)-runtimeSize:]
}
