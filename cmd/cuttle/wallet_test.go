package main

import (
	"bytes"

	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cuttle/billing/wallet"
	"cuttle/internal/control"
)

const (
	junk          = "test test test test test test test test test test test junk"
	junkConsuming = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
	junkEarning   = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
	junkKey       = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
)

// person answers what is asked on standard error.
type person struct {
	bytes.Buffer
	in     *io.PipeWriter
	answer func(shown, prompt string) string
	seen   int
}

var prompt = regexp.MustCompile(`(?m)^[^\n]*: $`)

func (p *person) Write(b []byte) (int, error) {
	p.Buffer.Write(b)
	text := p.String()
	if q := prompt.FindString(text[p.seen:]); q != "" {
		p.seen = len(text)
		go io.WriteString(p.in, p.answer(text, q)+"\n") // ends when it is read, or with the test's pipe
	}
	return len(b), nil
}

// speak runs a command with somebody who answers.
func speak(t *testing.T, answer func(shown, prompt string) string, args ...string) (code int, out, shown string) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close(); w.Close() })
	p := &person{in: w, answer: answer}
	var stdout bytes.Buffer
	code = run(t.Context(), args, func(string) string { return "" }, r, &stdout, p)
	return code, stdout.String(), p.String()
}

// said runs a command whose standard input is lines.
func said(t *testing.T, lines string, args ...string) (code int, out, shown string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, func(string) string { return "" }, strings.NewReader(lines), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func place(t *testing.T) (dir, cfg, file string) {
	t.Helper()
	dir = t.TempDir()
	return dir, filepath.Join(dir, "cuttled.toml"), filepath.Join(dir, "w.json")
}

var wordOf = regexp.MustCompile(`Word (\d+): $`)

// shownWords reads the numbered words back from the screen.
func shownWords(shown string) map[string]string {
	words := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)(\d+) ([a-z]+) `).FindAllStringSubmatch(shown, -1) {
		words[m[1]] = m[2]
	}
	return words
}

// TestWalletNew: the words are shown on standard error only, some are asked back,
// and the file opens with the password; the same words give the same wallet.
func TestWalletNew(t *testing.T) {
	_, cfg, file := place(t)
	asked := 0
	words := map[string]string{}
	code, out, shown := speak(t, func(shown, q string) string {
		switch {
		case strings.Contains(q, "password"), strings.Contains(q, "same again"):
			return "correct horse"
		case wordOf.MatchString(q):
			asked++
			words = shownWords(shown)
			if asked == 2 {
				return "nonsense" // once is forgiven
			}
			return words[wordOf.FindStringSubmatch(q)[1]]
		}
		return ""
	}, "--json", "wallet", "new", "--config", cfg, "--wallet", file, "--words", "12", "--light")
	if code != exitOK {
		t.Fatalf("code %d: %s", code, shown)
	}
	if asked != askedBack+1 || len(words) != 12 {
		t.Errorf("%d words were asked back of %d, want %d of 12", asked, len(words), askedBack+1)
	}
	var m made
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("output %q: %v", out, err)
	}
	w, err := wallet.Open(file, "correct horse")
	if err != nil || w.String() != m.Address || m.Earning == m.Address {
		t.Errorf("file opens to %v (%v), the output says %+v", w, err, m)
	}
	var all []string
	for i := range 12 {
		all = append(all, words[fmt.Sprint(i+1)])
	}
	if strings.Contains(out, all[0]+" "+all[1]) {
		t.Error("the words are on standard output")
	}
	again := filepath.Join(filepath.Dir(file), "again")
	code, out, shown = said(t, strings.Join(all, " ")+"\npw\npw\n", "--json", "wallet", "import", "words", "--config", cfg, "--wallet", again, "--light")
	var m2 made
	if err := json.Unmarshal([]byte(out), &m2); err != nil || code != exitOK || m2.Address != m.Address || m2.Earning != m.Earning {
		t.Errorf("the same words give %+v (code %d, %v %s), want %+v", m2, code, err, shown, m)
	}
}

// TestWalletNewRefuses: nothing is written when the words do not come back, the
// passwords differ, or a file is there.
func TestWalletNewRefuses(t *testing.T) {
	dir, cfg, file := place(t)
	new := []string{"wallet", "new", "--config", cfg, "--wallet", file, "--light"}
	if code, _, shown := said(t, "pw\npw\n\na\nb\nc\nd\n", new...); code != exitError || !strings.Contains(shown, "not the words") {
		t.Errorf("wrong words: code %d, %s", code, shown)
	}
	if code, _, shown := said(t, "pw\nother\n", new...); code != exitError || !strings.Contains(shown, "not the same") {
		t.Errorf("different passwords: code %d, %s", code, shown)
	}
	if code, _, shown := said(t, "pw\npw\n", new...); code != exitError || !strings.Contains(shown, "ended") {
		t.Errorf("input that ends: code %d, %s", code, shown)
	}
	if code, _, _ := said(t, "", append(new, "--words", "13")...); code != exitUsage {
		t.Errorf("13 words: code %d, want %d", code, exitUsage)
	}
	if code, _, shown := said(t, "", append(new, "--path", "44/60")...); code != exitError || !strings.Contains(shown, "path") {
		t.Errorf("bad path: code %d, %s", code, shown)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Fatalf("left behind: %v %v", entries, err)
	}
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, shown := said(t, "", new...); code != exitError || !strings.Contains(shown, "never overwritten") {
		t.Errorf("a file is there: code %d, %s", code, shown)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file that was there is now %q, %v", b, err)
	}
}

func TestWalletImport(t *testing.T) {
	dir, cfg, _ := place(t)
	secretFile := filepath.Join(dir, "pw")
	if err := os.WriteFile(secretFile, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		what, lines, address, want string
		args                       []string
	}{
		{what: "words", lines: junk + "\npw\npw\n", address: junkConsuming, args: []string{"words"}},
		{what: "words, earning path, password file", lines: junk + "\n", address: junkEarning, args: []string{"words", "--path", "m/44'/60'/0'/0/1", "--password-file", secretFile}},
		{what: "words, password on standard input", lines: junk + "\npw\n", address: junkConsuming, args: []string{"words", "--password-fd", "0"}},
		{what: "words with a passphrase", lines: junk + "\npw\npw\nTREZOR\n", args: []string{"words", "--passphrase"}},
		{what: "key", lines: "0x" + junkKey + "\npw\npw\n", address: junkConsuming, args: []string{"key"}},
		{what: "wrong words", lines: strings.Replace(junk, "junk", "test", 1) + "\n", want: "do not belong together", args: []string{"words"}},
		{what: "wrong word", lines: strings.Replace(junk, "junk", "jumk", 1) + "\n", want: "word 12", args: []string{"words"}},
		{what: "wrong key", lines: "0x12\npw\npw\n", want: "64 hexadecimal digits", args: []string{"key"}},
		{what: "secret as an argument", want: "never an argument", args: []string{"key", junkKey}},
		{what: "closed descriptor", lines: junk + "\n", want: "not open", args: []string{"words", "--password-fd", "999"}},
		{what: "no credential", lines: junk + "\n", want: "credential", args: []string{"words", "--password-credential", "x"}},
	} {
		file := filepath.Join(dir, fmt.Sprint(i))
		args := append([]string{"--json", "wallet", "import"}, c.args...)
		code, out, shown := said(t, c.lines, append(args, "--config", cfg, "--wallet", file, "--light")...)
		if c.want != "" {
			if code == exitOK || !strings.Contains(shown, c.want) || strings.Contains(shown, junkKey) && c.what != "secret as an argument" {
				t.Errorf("%s: code %d, %s; want %q", c.what, code, shown, c.want)
			}
			if _, err := os.Lstat(file); err == nil {
				t.Errorf("%s: a file was written", c.what)
			}
			continue
		}
		var m made
		if err := json.Unmarshal([]byte(out), &m); err != nil || code != exitOK {
			t.Errorf("%s: code %d, %v: %s", c.what, code, err, shown)
			continue
		}
		if c.address != "" && m.Address != c.address || c.address == "" && (m.Address == junkConsuming || m.Address == "") {
			t.Errorf("%s: address %s, want %s", c.what, m.Address, c.address)
		}
	}
	// Another program's keystore file, with its own password.
	to := filepath.Join(dir, "copy")
	if code, _, shown := said(t, "pw\nnew\nnew\n", "wallet", "import", "keystore", filepath.Join(dir, "0"), "--config", cfg, "--wallet", to, "--light"); code != exitOK {
		t.Fatalf("keystore: %s", shown)
	}
	if w, err := wallet.Open(to, "new"); err != nil || w.String() != junkConsuming {
		t.Errorf("imported keystore: %v, %v", w, err)
	}
}

func TestWalletShow(t *testing.T) {
	_, cfg, file := place(t)
	if _, err := wallet.Import(file, "pw", true, junkKey); err != nil {
		t.Fatal(err)
	}
	write := func(earning string) {
		t.Helper()
		text := fmt.Sprintf("[billing]\nmode = \"paid\"\nconsuming = %q\nearning = %q\n", file, earning)
		if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ earning, want, not string }{
		{junkEarning, junkEarning, "checksum"},
		{strings.ToLower(junkEarning), "no checksum", ""},
		{"", "not set", ""},
		{junkConsuming, "link what you pay", "file"},
		{strings.Replace(junkEarning, "C5", "c5", 1), "typing error", ""},
	} {
		write(c.earning)
		_, out, shown := said(t, "", "wallet", "show", "--config", cfg)
		all := out + shown
		if !strings.Contains(all, c.want) || c.not != "" && strings.Contains(all, c.not) {
			t.Errorf("earning %q: %s; want %q and not %q", c.earning, all, c.want, c.not)
		}
	}
	write(junkEarning)
	if code, out, _ := said(t, "pw\n", "--json", "wallet", "show", "--unlock", "--config", cfg); code != exitOK || !strings.Contains(out, `"proven": true`) || !strings.Contains(out, junkConsuming) {
		t.Errorf("--unlock: code %d, %s", code, out)
	}
	if code, _, shown := said(t, "wrong\n", "wallet", "show", "--unlock", "--config", cfg); code != exitError || !strings.Contains(shown, "wrong password") {
		t.Errorf("--unlock with a wrong password: code %d, %s", code, shown)
	}
	if _, out, _ := said(t, "", "wallet", "show", "--config", cfg, "--wallet", file+".no"); !strings.Contains(out, "cuttle wallet new") {
		t.Errorf("without a wallet: %s", out)
	}
}

// endpoint is a JSON-RPC endpoint on which the consuming wallet has 12.5 token
// and 2 coins, and everybody else nothing.
func endpoint(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			ID     json.RawMessage
			Method string
			Params json.RawMessage
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		amount := new(big.Int)
		if strings.Contains(strings.ToLower(string(q.Params)), strings.ToLower(junkConsuming[2:])) {
			amount, _ = new(big.Int).SetString("12500000000000000000", 10)
		}
		var answer string
		switch q.Method {
		case "eth_chainId":
			answer = "0x539"
		case "eth_getCode":
			answer = "0x60"
		case "eth_getBalance":
			if amount.Sign() > 0 {
				answer = "0x1bc16d674ec80000"
			} else {
				answer = "0x0"
			}
		case "eth_call":
			if strings.Contains(string(q.Params), "313ce567") {
				amount = big.NewInt(18)
			}
			answer = fmt.Sprintf("0x%064x", amount)
		}
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%q}`, q.ID, answer)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestWalletBalance(t *testing.T) {
	dir, cfg, file := place(t)
	if _, err := wallet.Import(file, "pw", true, junkKey); err != nil {
		t.Fatal(err)
	}
	write := func(circuits bool) {
		t.Helper()
		text := fmt.Sprintf("[billing]\nmode = \"paid\"\nchain_id = 1337\nrpc = [%q]\nconsuming = %q\nearning = %q\nrpc_through_circuits = %v\n", endpoint(t), file, junkEarning, circuits)
		if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(false)
	nobody := filepath.Join(dir, "none.sock")
	code, out, shown := said(t, "", "--socket", nobody, "wallet", "balance", "--config", cfg)
	if code != exitOK {
		t.Fatalf("code %d: %s", code, shown)
	}
	for _, want := range []string{"1337", junkConsuming + "  12.5", junkEarning + "  0 "} {
		if !strings.Contains(out, want) {
			t.Errorf("%s does not say %q", out, want)
		}
	}
	write(true)
	if code, _, shown := said(t, "", "--socket", nobody, "wallet", "balance", "--config", cfg); code != exitError || !strings.Contains(shown, "past them") {
		t.Errorf("past circuits: code %d, %s", code, shown)
	}
	if code, _, shown := said(t, "", "--socket", nobody, "wallet", "balance", "--direct", "--config", cfg); code != exitOK {
		t.Errorf("--direct: code %d, %s", code, shown)
	}
}

// TestSweepRefuses: nobody's nonces are touched while somebody else uses them.
func TestSweepRefuses(t *testing.T) {
	dir, cfg, file := place(t)
	if _, err := wallet.Import(file, "pw", true, junkKey); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[node]\nstate = %q\n[billing]\nmode = \"paid\"\nchain_id = 1337\nrpc = [%q]\nconsuming = %q\n", dir, endpoint(t), file)
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sweep := func(socket, to, lines string) (int, string) {
		t.Helper()
		code, _, shown := said(t, lines, "--socket", socket, "wallet", "sweep", "--config", cfg, "--to", to)
		return code, shown
	}
	nobody := filepath.Join(dir, "none.sock")
	if code, shown := sweep(nobody, "", ""); code != exitUsage || !strings.Contains(shown, "40 hexadecimal digits") {
		t.Errorf("without a target: code %d, %s", code, shown)
	}
	if code, shown := sweep(nobody, strings.Replace(junkEarning, "C5", "c5", 1), ""); code != exitUsage || !strings.Contains(shown, "checksum") {
		t.Errorf("misspelt target: code %d, %s", code, shown)
	}
	held, err := wallet.Lock(file)
	if err != nil {
		t.Fatal(err)
	}
	if code, shown := sweep(nobody, junkEarning, "pw\n"); code != exitError || !strings.Contains(shown, "in use") {
		t.Errorf("while the file is locked: code %d, %s", code, shown)
	}
	held.Release()
	d := &daemon{ledger: control.Ledger{Mode: "paid", Wallets: []control.Wallet{{Purpose: "consuming", Address: strings.ToLower(junkConsuming)}}}}
	if code, shown := sweep(serve(t, d), junkEarning, "pw\n"); code != exitError || !strings.Contains(shown, "stop it first") {
		t.Errorf("while cuttled pays from it: code %d, %s", code, shown)
	}
	if code, shown := sweep(nobody, junkEarning, "wrong\n"); code != exitError || !strings.Contains(shown, "wrong password") {
		t.Errorf("with a wrong password: code %d, %s", code, shown)
	}
	if err := os.WriteFile(filepath.Join(dir, "ledger.db"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, shown := sweep(nobody, junkEarning, "pw\n"); code != exitError || !strings.Contains(shown, "not a ledger") {
		t.Errorf("beside a ledger that cannot be read: code %d, %s", code, shown)
	}
}
