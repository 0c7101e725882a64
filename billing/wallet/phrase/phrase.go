// Package phrase makes wallet keys of words: BIP-39 phrases of 12 to 24 English
// words, BIP-32 keys derived from them along BIP-44 paths.
//
// It refuses a phrase with an unknown word, a wrong number of words or a wrong
// checksum, and says which word. It writes nothing and keeps nothing: the caller
// wipes what it gets, and every buffer that held a secret here is wiped before
// it is let go; words are strings, which Go cannot wipe. cmd/cuttle calls it; the daemon, which
// opens keystore files only, does not link it. There is no state to lock.
package phrase

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/ethereum/go-ethereum/accounts"
	"golang.org/x/text/unicode/norm"
)

// The paths that MASQ uses (BIP-44, coin 60), so that its phrases give the same
// wallets here.
const (
	ConsumingPath = "m/44'/60'/0'/0/0"
	EarningPath   = "m/44'/60'/0'/0/1"
)

// Sizes in words (BIP-39, "Generating the mnemonic").
const (
	MinWords = 12
	MaxWords = 24
)

// The English list of BIP-39, 2048 words in order.
//
//go:embed english.txt
var english string

var list = strings.Fields(english)

// Errors that callers tell apart.
var (
	ErrWords    = errors.New("a phrase has 12, 15, 18, 21 or 24 words")
	ErrWord     = errors.New("not in the list of words")
	ErrChecksum = errors.New("the words do not belong together: one is wrong, or the order is")
)

// Phrase is a valid phrase. It hides itself from every fmt verb.
type Phrase struct {
	words func() []string
}

func (p Phrase) String() string { return "phrase" }

// GoString keeps %#v from looking inside.
func (p Phrase) GoString() string { return "phrase.Phrase" }

// Words gives the words in order.
func (p Phrase) Words() []string { return slices.Clone(p.words()) }

// New makes a phrase of so many words, reading 16 to 32 bytes from random
// (crypto/rand.Reader).
func New(random io.Reader, words int) (Phrase, error) {
	if words < MinWords || words > MaxWords || words%3 != 0 {
		return Phrase{}, fmt.Errorf("%d words: %w", words, ErrWords)
	}
	entropy := make([]byte, words/3*4)
	defer clear(entropy)
	if _, err := io.ReadFull(random, entropy); err != nil {
		return Phrase{}, fmt.Errorf("make phrase: %w", err)
	}
	return fromEntropy(entropy), nil
}

// fromEntropy spells 16 to 32 bytes, a multiple of 4, and their checksum in
// groups of 11 bits.
func fromEntropy(entropy []byte) Phrase {
	sum := sha256.Sum256(entropy)
	bits := append(slices.Clone(entropy), sum[0])
	defer clear(bits)
	words := make([]string, len(entropy)*33/4/11)
	for i := range words {
		words[i] = list[eleven(bits, i)]
	}
	return Phrase{func() []string { return words }}
}

// eleven gives the i-th group of 11 bits.
func eleven(b []byte, i int) int {
	n := 0
	for bit := i * 11; bit < i*11+11; bit++ {
		n = n<<1 | int(b[bit/8]>>(7-bit%8)&1)
	}
	return n
}

// Parse reads a phrase; case and space between words do not matter. An error
// names the place of a wrong word, never the words that are right.
func Parse(text string) (Phrase, error) {
	words := strings.FieldsFunc(strings.ToLower(norm.NFKD.String(text)), unicode.IsSpace)
	if len(words) < MinWords || len(words) > MaxWords || len(words)%3 != 0 {
		return Phrase{}, fmt.Errorf("%d words: %w", len(words), ErrWords)
	}
	bits := make([]byte, (len(words)*11+7)/8)
	defer clear(bits)
	for i, w := range words {
		n, ok := slices.BinarySearch(list, w)
		if !ok {
			return Phrase{}, fmt.Errorf("word %d is %w (English, BIP-39): check its spelling", i+1, ErrWord)
		}
		words[i] = list[n]
		for b := range 11 {
			at := i*11 + b
			bits[at/8] |= byte(n>>(10-b)&1) << (7 - at%8)
		}
	}
	entropy := bits[:len(words)/3*4]
	sum, mask := sha256.Sum256(entropy), byte(0xff)<<(8-len(words)/3) // one bit for each 32 bits
	if (sum[0]^bits[len(entropy)])&mask != 0 {
		return Phrase{}, ErrChecksum
	}
	return Phrase{func() []string { return words }}, nil
}

// seed follows BIP-39, "From mnemonic to seed": PBKDF2 with HMAC-SHA512, 2048
// rounds, both texts in NFKD. 64 bytes, which the caller wipes.
func (p Phrase) seed(passphrase string) ([]byte, error) {
	salt := []byte("mnemonic" + norm.NFKD.String(passphrase))
	defer clear(salt)
	b, err := pbkdf2.Key(sha512.New, strings.Join(p.words(), " "), salt, 2048, 64)
	if err != nil {
		return nil, fmt.Errorf("phrase to seed: %w", err)
	}
	return b, nil
}

// Key derives the secp256k1 private key at path ("m/44'/60'/0'/0/0"), 32 bytes
// that the caller wipes. passphrase is BIP-39's optional one; another one gives
// another wallet, and none is wrong.
func (p Phrase) Key(passphrase, path string) ([]byte, error) {
	seed, err := p.seed(passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	return derive(seed, path)
}

// CheckPath refuses what is no absolute derivation path.
func CheckPath(path string) error {
	if p := strings.TrimSpace(path); !strings.HasPrefix(p, "m/") && p != "m" {
		return fmt.Errorf("path %q: want one that begins with m, for example %s", path, ConsumingPath)
	}
	if strings.TrimSpace(path) == "m" {
		return nil
	}
	if _, err := accounts.ParseDerivationPath(path); err != nil {
		return fmt.Errorf("path %q: want one such as %s", path, ConsumingPath)
	}
	return nil
}
