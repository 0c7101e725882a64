package hub

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
)

// TestBindingIsTheArtifacts compares the committed binding, the offsets in this
// package and the source with the committed artifact; generate.sh there makes it.
func TestBindingIsTheArtifacts(t *testing.T) {
	text, err := os.ReadFile("../../contract/Hub.json")
	if err != nil {
		t.Fatal(err)
	}
	var artifact struct {
		Source, Bytecode, Runtime string
		ABI                       any
		Immutables                [][]int
	}
	// abigen writes type names without their space.
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(text), "struct Hub.", "structHub.")), &artifact); err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../../contract/Hub.sol")
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(source); artifact.Source != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Error("Hub.sol was changed after Hub.json was made: run billing/contract/generate.sh")
	}
	if artifact.Bytecode != HubMetaData.Bin || artifact.Runtime != "0x"+hex.EncodeToString(runtime()) || !strings.HasSuffix(artifact.Bytecode, artifact.Runtime[2:]) {
		t.Error("bytecode of the binding is not the artifact's")
	}
	if want := [][]int{tokenAt[:], noticeAt[:]}; !reflect.DeepEqual(artifact.Immutables, want) {
		t.Errorf("immutables lie at %v, this package says %v", artifact.Immutables, want)
	}
	var abi any
	if err := json.Unmarshal([]byte(HubMetaData.ABI), &abi); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(abi, artifact.ABI) {
		t.Error("ABI of the binding is not the artifact's")
	}
}

// TestCheck: a single changed bit anywhere is another contract.
func TestCheck(t *testing.T) {
	code := runtime()
	token := common.Address{7, 19: 9}
	for _, i := range tokenAt {
		copy(code[i+12:], token[:])
	}
	for _, i := range noticeAt {
		code[i+31] = 200
	}
	got, notice, err := Check(code)
	if err != nil || got != token || notice != 200 {
		t.Fatalf("Check = %v, %d, %v; want %v, 200", got, notice, err, token)
	}
	for i := range code {
		code[i] ^= 4
		if _, _, err := Check(code); !errors.Is(err, ErrNotHub) {
			t.Errorf("byte %d changed: %v, want ErrNotHub", i, err)
		}
		code[i] ^= 4
	}
	for _, bad := range [][]byte{nil, code[1:], append(code, 0)} {
		if _, _, err := Check(bad); !errors.Is(err, ErrNotHub) {
			t.Errorf("%d bytes: %v, want ErrNotHub", len(bad), err)
		}
	}
}
