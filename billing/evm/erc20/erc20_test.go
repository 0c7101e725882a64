package erc20_test

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"

	"cuttle/billing/evm/erc20"
)

// TestBindingIsTheArtifacts compares the committed binding with the committed
// artifact of billing/contract; generate.sh there makes both.
func TestBindingIsTheArtifacts(t *testing.T) {
	text, err := os.ReadFile("../../contract/TestToken.json")
	if err != nil {
		t.Fatal(err)
	}
	var artifact struct {
		ABI      any
		Bytecode string
	}
	if err := json.Unmarshal(text, &artifact); err != nil {
		t.Fatal(err)
	}
	if artifact.Bytecode != erc20.TokenMetaData.Bin || len(artifact.Bytecode) < 1000 {
		t.Errorf("bytecode of the binding (%d characters) is not the artifact's (%d)", len(erc20.TokenMetaData.Bin), len(artifact.Bytecode))
	}
	var abi any
	if err := json.Unmarshal([]byte(erc20.TokenMetaData.ABI), &abi); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(abi, artifact.ABI) {
		t.Error("ABI of the binding is not the artifact's")
	}
}

// TestSelectors checks the calls that billing makes against EIP-20's signatures.
func TestSelectors(t *testing.T) {
	token := erc20.NewToken()
	for sig, got := range map[string][]byte{
		"decimals()":                token.PackDecimals(),
		"balanceOf(address)":        token.PackBalanceOf([20]byte{1}),
		"transfer(address,uint256)": token.PackTransfer([20]byte{1}, crypto.S256().Params().N),
	} {
		if want := crypto.Keccak256([]byte(sig))[:4]; string(got[:4]) != string(want) {
			t.Errorf("selector of %s is %x, want %x", sig, got[:4], want)
		}
	}
}
