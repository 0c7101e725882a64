package wallet_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cuttle/billing/wallet"
)

const lockChild = "CUTTLE_TEST_LOCK"

// TestLockChild is the other process of TestLock.
func TestLockChild(t *testing.T) {
	path := os.Getenv(lockChild)
	if path == "" {
		return // this is the first process
	}
	held, err := wallet.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	os.Stdout.WriteString("held\n")
	bufio.NewReader(os.Stdin).ReadString('\n')
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w")
	if _, err := wallet.Lock(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lock of no file: %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(path, []byte("{}"), 0o400); err != nil {
		t.Fatal(err)
	}
	held, err := wallet.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.Lock(path); !errors.Is(err, wallet.ErrLocked) {
		t.Errorf("second Lock: %v, want ErrLocked", err)
	}
	held.Release()

	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLockChild$")
	child.Env = append(os.Environ(), lockChild+"="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	if _, err := wallet.Lock(path); !errors.Is(err, wallet.ErrLocked) {
		t.Errorf("Lock beside another process: %v, want ErrLocked", err)
	}
	if err := child.Process.Kill(); err != nil { // a crash lets go, too
		t.Fatal(err)
	}
	in.Close()
	child.Wait()
	again, err := wallet.Lock(path)
	if err != nil {
		t.Fatalf("Lock after the holder was killed: %v", err)
	}
	again.Release()
}
