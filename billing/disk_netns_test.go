//go:build netns && linux

package billing

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cuttle/relay/wire"
)

const tmpfsEnv = "CUTTLE_BILLING_TMPFS"

// TestFullFileSystem fills the file system that a ledger is on, a small one in a
// mount namespace: nothing new begins, what runs is agreed with the space that was
// kept, also over a restart, and there is service again when there is space.
func TestFullFileSystem(t *testing.T) {
	if os.Getenv(tmpfsEnv) == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestFullFileSystem$", "-test.v")
		cmd.Env = append(os.Environ(), tmpfsEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestFullFileSystem") {
			t.Fatalf("in a mount namespace: %v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=700")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	cfg := Config{Path: filepath.Join(dir, "ledger.db"), Self: testID(2), MarkerCells: 100}
	open := func() *Book {
		t.Helper()
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a, b := openBook(t, 1, nil), open()
	l := join(t, a, b)
	l.run()
	sent := wire.Cells(0)
	use := func() {
		t.Helper()
		for range 20 {
			l.ends[0].send(WePay, 5, 150)
			sent += 150
		}
		eventually(t, "all cells are carried", l.drained)
		flushBoth(t, a, b)
	}
	use()
	filler := filepath.Join(dir, "filler")
	fill := func() {
		t.Helper()
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for page := make([]byte, 4096); err == nil; {
			_, err = f.Write(page)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	for i := 0; !errors.Is(l.ends[1].n.Admit(5), ErrFull); i++ {
		if i == 200 {
			t.Fatal("the ledger never ran full")
		}
		use() // the log has room for some
	}
	use() // agreed, on what was kept
	before, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // looks for space, each as if a long time had passed
		if err := b.ledger.update(t.Context(), func(tx *tx) error { tx.l.reserve.tried = time.Time{}; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.Stat(dir); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("files were made while there is no space: %v, %v", after, err)
	}
	if _, err := os.Stat(cfg.Path + reserveSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the reserve was not given up: %v", err)
	}
	if r := report(t, b); len(r.Problems) == 0 || !strings.Contains(r.Problems[0], cfg.Path) || r.Neighbors[0].TheyOwe != Owed(sent, 5) {
		t.Errorf("problems %q, owed %v; want the file named, and %v", r.Problems, r.Neighbors[0].TheyOwe, Owed(sent, 5))
	}
	if n, err := b.plan(t.Context(), true); n != 0 || !errors.Is(err, ErrFull) {
		t.Errorf("%d payments were planned, %v; want ErrFull", n, err)
	}
	l.cut()
	if err := b.Close(); err != nil {
		t.Errorf("closing on a full disk: %v", err)
	}
	b = open() // a restart on the full disk
	l = join(t, a, b)
	l.run()
	use()
	if err := l.ends[1].n.Admit(5); !errors.Is(err, ErrFull) {
		t.Errorf("a circuit after a restart on a full disk: %v, want ErrFull", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "circuits are taken again", func() bool {
		if err := b.ledger.update(t.Context(), func(*tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		return l.ends[1].n.Admit(5) == nil
	})
	use()
	l.cut()
	if r := report(t, b); len(r.Problems) > 0 || r.Neighbors[0].TheyOwe != Owed(sent, 5) || r.Neighbors[0].Dispute != "" {
		t.Errorf("with space again: problems %q, owed %v, dispute %q; want %v", r.Problems, r.Neighbors[0].TheyOwe, r.Neighbors[0].Dispute, Owed(sent, 5))
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if v, err := verifyFile(cfg.Path); err != nil || len(v.Findings) > 0 {
		t.Errorf("the ledger afterwards: %+v, %v", v, err)
	}
}
