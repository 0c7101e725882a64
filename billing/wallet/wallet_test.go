package wallet_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"go.uber.org/goleak"

	"cuttle/billing/wallet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The first account of the well-known test phrase "test ... junk".
const (
	knownKey     = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
	knownAddress = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
)

func TestCreateOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.json")
	w, err := wallet.Create(path, "correct horse", true)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the keystore file is %o, want 600", got)
	}
	again, err := wallet.Open(path, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := again.Address(), w.Address(); got != want {
		t.Errorf("address after Open is %s, want %s", got, want)
	}
	if _, err := wallet.Open(path, "battery staple"); !errors.Is(err, wallet.ErrPassword) {
		t.Errorf("Open with a wrong password: %v, want ErrPassword", err)
	}
	if _, err := wallet.Create(path, "x", true); !errors.Is(err, wallet.ErrExists) {
		t.Errorf("Create over a wallet: %v, want ErrExists", err)
	}
	if _, err := wallet.Create(filepath.Join(t.TempDir(), "w"), "", true); err == nil {
		t.Error("Create accepted an empty password")
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.Open(path, "correct horse"); !errors.Is(err, wallet.ErrPermissions) {
		t.Errorf("Open of a file that the group may read: %v, want ErrPermissions", err)
	}
	if _, err := wallet.Open(path+".no", "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of no file: %v, want fs.ErrNotExist", err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".wallet-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files left: %v %v", left, err)
	}
}

func TestOpenGarbage(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no json": "hello", "wrong version": `{"version":9}`, "truncated": `{"address":"f39f","crypto":{"cipher":"aes-128-ctr"`,
		"large": strings.Repeat(" ", 100<<10),
	} {
		path := filepath.Join(t.TempDir(), "w")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := wallet.Open(path, "x"); err == nil {
			t.Errorf("%s: Open accepted it", name)
		}
	}
}

func TestKnownKeySigns(t *testing.T) {
	w, err := wallet.Import(filepath.Join(t.TempDir(), "w"), "pw", true, "0x"+knownKey+"\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Address().Hex(); got != knownAddress {
		t.Fatalf("address is %s, want %s", got, knownAddress)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if out := strings.ToLower(fmt.Sprintf(verb, w)); strings.Contains(out, knownKey[:16]) {
			t.Errorf("%s prints the key", verb)
		}
	}
	digest := [32]byte(crypto.Keccak256([]byte("hello")))
	sig, err := w.SignDigest(digest)
	if err != nil {
		t.Fatal(err)
	}
	sig[64] -= 27
	pub, err := crypto.SigToPub(digest[:], sig[:])
	if err != nil || crypto.PubkeyToAddress(*pub) != w.Address() {
		t.Errorf("signature does not recover to the wallet: %v", err)
	}
	id := big.NewInt(1337)
	tx, err := w.SignTx(types.NewTx(&types.DynamicFeeTx{ChainID: id, Nonce: 3, Gas: 21000, To: &common.Address{1}, GasFeeCap: big.NewInt(2), GasTipCap: big.NewInt(1)}), id)
	if err != nil {
		t.Fatal(err)
	}
	if from, err := types.Sender(types.LatestSignerForChainID(id), tx); err != nil || from != w.Address() {
		t.Errorf("sender is %s (%v), want %s", from, err, w.Address())
	}
	if _, err := wallet.Import(filepath.Join(t.TempDir(), "w"), "pw", true, "12zz"+knownKey); err == nil || strings.Contains(err.Error(), knownKey[:8]) {
		t.Errorf("import of a bad key: %v", err)
	}
}

func TestReadPassword(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pw")
	for _, c := range []struct {
		text, want string
		mode       os.FileMode
		ok         bool
	}{
		{"secret\n", "secret", 0o600, true},
		{"secret\r\nsecond", "secret", 0o400, true},
		{"\n", "", 0o600, false},
		{"", "", 0o600, false},
		{"secret", "", 0o644, false},
	} {
		os.Remove(path)
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := wallet.ReadPassword(path)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("ReadPassword of %q mode %o = %q, %v; want %q, ok %v", c.text, c.mode, got, err, c.want, c.ok)
		}
	}
}

func TestEarning(t *testing.T) {
	known := common.HexToAddress(knownAddress)
	for _, c := range []struct {
		name, text      string
		consuming       common.Address
		same            bool
		unchecked, fail bool
	}{
		{name: "checksum", text: knownAddress},
		{name: "lower case", text: strings.ToLower(knownAddress), unchecked: true},
		{name: "typing error", text: "0xF39Fd6e51aad88F6F4ce6aB8827279cffFb92266", fail: true},
		{name: "zero", text: "0x0000000000000000000000000000000000000000", fail: true},
		{name: "short", text: "0xf39F", fail: true},
		{name: "without 0x", text: knownAddress[2:], fail: true},
		{name: "not hexadecimal", text: "0xg39Fd6e51aad88F6F4ce6aB8827279cffFb92266", fail: true},
		{name: "double prefix", text: "0x0x9Fd6e51aad88F6F4ce6aB8827279cffFb9226", fail: true},
		{name: "same wallet", text: knownAddress, consuming: known, fail: true},
		{name: "same wallet allowed", text: knownAddress, consuming: known, same: true},
	} {
		got, unchecked, err := wallet.Earning(c.text, c.consuming, c.same)
		if (err != nil) != c.fail || unchecked != c.unchecked {
			t.Errorf("%s: Earning = %s, unchecked %v, %v", c.name, got, unchecked, err)
		}
		if err == nil && got != known {
			t.Errorf("%s: address %s, want %s", c.name, got, known)
		}
	}
}

// TestPassword reads from a descriptor and a file; the descriptor is closed.
func TestPassword(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.WriteString("correct horse\r\nmore\n")
	w.Close()
	fd, err := syscall.Dup(int(r.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if got, err := wallet.Password(fmt.Sprintf("fd:%d", fd)); got != "correct horse" || err != nil {
		t.Errorf("Password of a descriptor: %q, %v", got, err)
	}
	path := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(path, []byte("battery staple"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := wallet.Password(path); got != "battery staple" || err != nil {
		t.Errorf("Password of a file: %q, %v", got, err)
	}
	for _, bad := range []string{"fd:", "fd:x", "fd:-1", "fd:60000", path + ".no", ""} {
		if got, err := wallet.Password(bad); err == nil {
			t.Errorf("Password(%q) = %q, want an error", bad, got)
		}
	}
}

func TestImportKeystore(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
	w, err := wallet.Create(from, "theirs", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(from, 0o644); err != nil { // on its way here
		t.Fatal(err)
	}
	if _, err := wallet.ImportKeystore(to, "ours", true, from, "wrong"); !errors.Is(err, wallet.ErrPassword) {
		t.Errorf("import with a wrong password: %v, want ErrPassword", err)
	}
	if _, err := wallet.ImportKeystore(to, "ours", true, from, "theirs"); err != nil {
		t.Fatal(err)
	}
	again, err := wallet.Open(to, "ours")
	if err != nil || again.Address() != w.Address() {
		t.Errorf("imported wallet is %v (%v), want %v", again, err, w)
	}
	if a, err := wallet.Peek(to); a != w.Address() || err != nil {
		t.Errorf("Peek: %s, %v, want %s", a, err, w)
	}
	if _, err := wallet.ImportKeystore(to, "ours", true, from, "theirs"); !errors.Is(err, wallet.ErrExists) {
		t.Errorf("import over a wallet: %v, want ErrExists", err)
	}
}

// TestChangedAddress: a file whose stated address is not its key's is refused.
func TestChangedAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w")
	w, err := wallet.Create(path, "pw", true)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(text), strings.ToLower(w.String()[2:]), strings.ToLower(knownAddress[2:]), 1)
	if other == string(text) {
		t.Fatal("the file does not state its address")
	}
	if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.Open(path, "pw"); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("Open of a file that states another address: %v", err)
	}
}
