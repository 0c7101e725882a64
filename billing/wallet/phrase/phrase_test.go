package phrase

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const junk = "test test test test test test test test test test test junk"

func TestList(t *testing.T) {
	if len(list) != 2048 || !slices.IsSorted(list) {
		t.Fatalf("the list has %d words, sorted %v; want 2048, sorted", len(list), slices.IsSorted(list))
	}
	// The sum of the BIP's own file.
	if got := hex.EncodeToString(sha(english)); got != "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda" {
		t.Errorf("english.txt has SHA-256 %s, which is not the BIP's file", got)
	}
}

// TestBIP39 runs the vectors that BIP-39 names: entropy, phrase, seed with the
// passphrase TREZOR.
func TestBIP39(t *testing.T) {
	var vectors struct{ English [][3]string }
	read(t, "testdata/bip39.json", &vectors)
	if len(vectors.English) != 24 {
		t.Fatalf("%d vectors, want 24", len(vectors.English))
	}
	for _, v := range vectors.English {
		entropy, err := hex.DecodeString(v[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(fromEntropy(entropy).Words(), " "); got != v[1] {
			t.Errorf("entropy %s gives %q, want %q", v[0], got, v[1])
		}
		p, err := Parse(v[1])
		if err != nil {
			t.Errorf("Parse(%q): %v", v[1], err)
			continue
		}
		seed, err := p.seed("TREZOR")
		if err != nil || hex.EncodeToString(seed) != v[2] {
			t.Errorf("seed of %q is %x (%v), want %s", v[1], seed, err, v[2])
		}
	}
}

// TestBIP32 runs the private keys of BIP-32's test vectors 1 to 4.
func TestBIP32(t *testing.T) {
	var vectors []struct{ Seed, Path, Key string }
	read(t, "testdata/bip32.json", &vectors)
	if len(vectors) < 15 {
		t.Fatalf("%d vectors, want at least 15", len(vectors))
	}
	for _, v := range vectors {
		seed, err := hex.DecodeString(v.Seed)
		if err != nil {
			t.Fatal(err)
		}
		want := privateKey(t, v.Key)
		got, err := derive(seed, v.Path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("seed %s... at %s gives %x (%v), want %x", v.Seed[:8], v.Path, got, err, want)
		}
	}
}

// privateKey reads the key in an xprv (BIP-32, "Serialization format").
func privateKey(t *testing.T, xprv string) []byte {
	t.Helper()
	n := new(big.Int)
	for _, c := range xprv {
		digit := strings.IndexRune("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", c)
		if digit < 0 {
			t.Fatalf("%q is not base58", xprv)
		}
		n.Add(n.Mul(n, big.NewInt(58)), big.NewInt(int64(digit)))
	}
	b := n.FillBytes(make([]byte, 82))
	if sum := sha(string(sha(string(b[:78])))); !bytes.Equal(sum[:4], b[78:]) {
		t.Fatalf("%s has a wrong checksum", xprv)
	}
	return b[46:78]
}

// TestKnownWallets checks both of MASQ's default paths with the phrase that every
// development chain knows.
func TestKnownWallets(t *testing.T) {
	p, err := Parse("  TEST test\ttest test test test test test test test\ntest junk ")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		ConsumingPath: "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
		EarningPath:   "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
	} {
		b, err := p.Key("", path)
		if err != nil {
			t.Fatal(err)
		}
		key, err := crypto.ToECDSA(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := crypto.PubkeyToAddress(key.PublicKey).Hex(); got != want {
			t.Errorf("%s gives %s, want %s", path, got, want)
		}
	}
}

func TestNew(t *testing.T) {
	for words := range 30 {
		p, err := New(rand.Reader, words)
		if ok := words >= 12 && words <= 24 && words%3 == 0; (err == nil) != ok {
			t.Errorf("New of %d words: %v", words, err)
		}
		if err != nil {
			continue
		}
		if got := len(p.Words()); got != words {
			t.Errorf("New of %d words gives %d", words, got)
		}
		again, err := Parse(strings.Join(p.Words(), " "))
		if err != nil || !slices.Equal(again.Words(), p.Words()) {
			t.Errorf("a new phrase of %d words is not read back: %v", words, err)
		}
	}
	if _, err := New(strings.NewReader("short"), 12); err == nil {
		t.Error("New made a phrase of 5 random bytes")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{"", ErrWords},
		{"test junk", ErrWords},
		{strings.Repeat("test ", 27), ErrWords},
		{strings.Replace(junk, "junk", "jumk", 1), ErrWord},
		{strings.Replace(junk, "junk", "test", 1), ErrChecksum},
		{"junk " + strings.TrimSuffix(junk, " junk"), ErrChecksum},
	} {
		_, err := Parse(c.text)
		if !errors.Is(err, c.want) {
			t.Errorf("Parse(%q): %v, want %v", c.text, err, c.want)
		}
	}
	if _, err := Parse("test test test test test test test test test test xxxx junk"); err == nil || !strings.Contains(err.Error(), "word 11") {
		t.Errorf("a wrong word: %v, want its place", err)
	}
}

func TestPaths(t *testing.T) {
	for path, ok := range map[string]bool{
		ConsumingPath: true, "m": true, "m/44'/60'/7'/0/3": true, "": false, "0/1": false, "m/": false, "m/x": false, "m/44'/4294967296": false,
	} {
		if err := CheckPath(path); (err == nil) != ok {
			t.Errorf("CheckPath(%q): %v, want ok %v", path, err, ok)
		}
	}
}

func TestHides(t *testing.T) {
	p, err := Parse(junk)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if out := fmt.Sprintf(verb, p); strings.Contains(out, "junk") {
			t.Errorf("%s prints the phrase", verb)
		}
	}
}

// FuzzParse: whatever is read is spelt the same again and has a checksum.
func FuzzParse(f *testing.F) {
	f.Add(junk)
	f.Add("legal winner thank year wave sausage worth useful legal winner thank yellow")
	f.Add("zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo vote")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(strings.Join(p.Words(), " "))
		if err != nil || !slices.Equal(again.Words(), p.Words()) {
			t.Fatalf("read, but not read again: %v", err)
		}
	})
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func sha(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
