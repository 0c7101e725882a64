package chaintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/math"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"

	"cuttle/billing/evm"
)

// TestWrongChain: nothing is signed for another chain or token.
func TestWrongChain(t *testing.T) {
	c := startChain(t)
	for _, x := range []struct {
		name  string
		id    uint64
		token common.Address
		want  error
	}{{"chain", 137, c.token, evm.ErrWrongChain}, {"token", chainID, common.Address{9}, evm.ErrWrongToken}} {
		client, err := evm.NewClient(evm.ClientConfig{Endpoints: []string{c.url}, ChainID: x.id, Token: x.token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Check(context.Background()); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
		client.Close()
	}
	dir := t.TempDir()
	p := mustOpen(t, setup{self: 1, dir: dir, url: c.url, token: c.token})
	p.stop()
	if _, err := open(setup{self: 1, dir: dir, url: c.url, token: common.Address{9}}); err == nil || !strings.Contains(err.Error(), c.token.Hex()) {
		t.Errorf("ledger of another token: %v", err)
	}
}

// TestBindingIsEIP712 compares the digest with go-ethereum's own encoder.
func TestBindingIsEIP712(t *testing.T) {
	b := evm.Binding{ChainID: 137, Token: common.HexToAddress("0xEe9A352F6aAc4aF1A5B9f467F6a93E0ffBe9Dd35"), Node: [32]byte{1, 2, 3}, Wallet: common.Address{4}, Expiry: 1_800_000_000}
	want, _, err := apitypes.TypedDataAndHash(apitypes.TypedData{
		Types: apitypes.Types{
			"EIP712Domain": {{Name: "name", Type: "string"}, {Name: "version", Type: "string"}, {Name: "chainId", Type: "uint256"}, {Name: "verifyingContract", Type: "address"}},
			"Binding":      {{Name: "node", Type: "bytes32"}, {Name: "wallet", Type: "address"}, {Name: "expiry", Type: "uint64"}},
		},
		PrimaryType: "Binding",
		Domain:      apitypes.TypedDataDomain{Name: "Cuttle", Version: "1", ChainId: math.NewHexOrDecimal256(137), VerifyingContract: b.Token.Hex()},
		Message:     apitypes.TypedDataMessage{"node": b.Node[:], "wallet": b.Wallet.Hex(), "expiry": fmt.Sprint(b.Expiry)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Digest(); !bytes.Equal(got[:], want) {
		t.Errorf("digest is %x, go-ethereum says %x", got, want)
	}
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	b.Wallet = crypto.PubkeyToAddress(key.PublicKey)
	digest := b.Digest()
	raw, err := crypto.Sign(digest[:], key)
	if err != nil {
		t.Fatal(err)
	}
	sig := [65]byte(raw)
	sig[64] += 27
	if err := b.Verify(sig); err != nil {
		t.Errorf("good signature: %v", err)
	}
	high := sig // the other s for the same r is a second valid signature: refused
	s := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:64]))
	s.FillBytes(high[32:64])
	high[64] = 27 + 28 - sig[64]
	for name, bad := range map[string][65]byte{"zero": {}, "high s": high, "v 0": func() [65]byte { x := sig; x[64] -= 27; return x }()} {
		if b.Verify(bad) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b.Node[0]++
	if b.Verify(sig) == nil {
		t.Error("signature for another node accepted")
	}
}
