package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func call(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), args, &out, &errs)
	return out.String(), err
}

func TestIdentityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := call(t, "identity", "-state", dir)
	if err != nil || len(strings.TrimSpace(first)) != 52 {
		t.Fatalf("identity: %q, %v; want 52 characters", first, err)
	}
	if again, err := call(t, "identity", "-state", dir); err != nil || again != first {
		t.Errorf("second call: %q, %v; want %q", again, err, first)
	}
}

func TestRecordAndWallet(t *testing.T) {
	dir := t.TempDir()
	file, password := filepath.Join(dir, "c.toml"), filepath.Join(dir, "password")
	text := "[node]\nstate = \"" + filepath.Join(dir, "state") + "\"\nrelay = true\n[[listen]]\nmask = \"plain\"\naddress = \"127.0.0.1:0\"\n"
	for path, content := range map[string]string{file: text, password: "correct horse\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := call(t, "check", "-config", file); err != nil {
		t.Errorf("check: %v", err)
	}
	if out, err := call(t, "record", "-config", file); err != nil || len(out) < 1700 {
		t.Errorf("record: %d bytes, %v; want a record in base64", len(out), err)
	}
	keystore := filepath.Join(dir, "wallet.json")
	if out, err := call(t, "wallet", "-out", keystore, "-password-file", password, "-light"); err != nil || !strings.HasPrefix(out, "0x") || len(out) != 43 {
		t.Errorf("wallet: %q, %v; want an address", out, err)
	}
	if _, err := call(t, "wallet", "-out", keystore, "-password-file", password, "-light"); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("wallet over a wallet: %v, want a refusal", err)
	}
}

func TestDefaultConfigIsValid(t *testing.T) {
	out, err := call(t, "default-config")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, "check", "-config", file); err != nil {
		t.Errorf("check of the default configuration: %v", err)
	}
}

func TestBadCalls(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"fly"}, `unknown verb "fly"`},
		{[]string{"identity"}, "-state DIR"},
		{[]string{"wallet"}, "-out FILE"},
		{[]string{"check", "extra"}, `unexpected argument "extra"`},
		{[]string{"-config", "/nonexistent/c.toml"}, "read configuration"},
		{[]string{"-nonsense"}, "nonsense"},
	} {
		if _, err := call(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("cuttled %v: %v, want an error with %q", tc.args, err, tc.want)
		}
	}
}

// TestSignals wants SIGUSR1 to count whether it comes before or after SIGTERM.
func TestSignals(t *testing.T) {
	for _, order := range [][]os.Signal{{syscall.SIGTERM}, {syscall.SIGUSR1}, {syscall.SIGUSR1, syscall.SIGTERM}, {syscall.SIGTERM, syscall.SIGUSR1}} {
		signals, ended, taken := make(chan os.Signal), make(chan struct{}), make(chan struct{})
		closed, ends := false, 0
		go func() { // ends with ended
			defer close(taken)
			obey(signals, ended, func() { closed = true }, func() { ends++ })
		}()
		for _, s := range order {
			signals <- s
		}
		close(ended)
		<-taken
		if closed != slices.Contains(order, os.Signal(syscall.SIGUSR1)) || ends != len(order) {
			t.Errorf("after %v closed is %v, ended %d times", order, closed, ends)
		}
	}
}
