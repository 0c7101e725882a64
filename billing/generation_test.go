package billing

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOlderCopy: a copy from before anything that was paid, or from an earlier
// run, is refused until somebody adopts it.
func TestOlderCopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger.db")
	open := func() (*Book, error) { return Open(Config{Path: path, Self: testID(1), Account: true}) }
	copyOf := func() []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	put := func(b []byte) {
		t.Helper()
		os.Remove(path + "-wal")
		os.Remove(path + "-shm")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := open()
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.peer(testID(2))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := b.ledger.update(ctx, func(x *tx) error {
		var t totals
		t[Sent][WePay][1] = 1 << 20
		return x.setTotals(p, &t)
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	unpaid := copyOf()

	if b, err = open(); err != nil {
		t.Fatalf("the newest ledger is refused: %v", err)
	}
	p, err = b.peer(testID(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ledger.update(ctx, func(x *tx) error { _, err := x.promise(p, 1000); return err }); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	paid := copyOf()

	put(unpaid)
	if _, err = open(); !errors.Is(err, ErrOlder) || !strings.Contains(err.Error(), "cuttle ledger adopt") || !strings.Contains(err.Error(), path) {
		t.Fatalf("an older copy: %v, want ErrOlder, the path and what to do", err)
	}
	put(paid)
	if b, err = open(); err != nil {
		t.Fatalf("the newest copy put back: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	put(unpaid)
	if err := Adopt(ctx, path); err != nil {
		t.Fatal(err)
	}
	if b, err = open(); err != nil {
		t.Fatalf("an adopted copy: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// A crash between the two writes leaves an older number in the file.
	if err := writeGeneration(path, 1); err != nil {
		t.Fatal(err)
	}
	if b, err = open(); err != nil {
		t.Fatalf("after a crash between the writes: %v", err)
	}
	b.Close()
	if err := os.WriteFile(path+generationSuffix, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil {
		t.Error("a generation that is no number was ignored")
	}
	put([]byte("garbage"))
	if err := Adopt(ctx, path); err == nil {
		t.Error("garbage was adopted")
	}
}

// TestOlderCopyOnLinks: links of a node whose ledger was put back work again: what
// its neighbor holds as paid counts as paid, and nothing is paid twice.
func TestOlderCopyOnLinks(t *testing.T) {
	b := running(t, 2, nil)
	dir := t.TempDir()
	start := func(name string) (*Book, func()) {
		t.Helper()
		x, err := Open(Config{Path: filepath.Join(dir, name), Self: testID(1), Account: true, MarkerCells: 100, SettleAbove: 1 << 60})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx) }() // ends with cancel
		return x, func() { cancel(); <-done; x.Close() }
	}
	a, stop := start("now")
	l := join(t, a, b)
	l.run()
	l.ends[1].send(TheyPay, 1, 500)
	flushBoth(t, a, b)
	path := filepath.Join(dir, "older")
	if _, err := a.ledger.write.Exec("VACUUM INTO ?", path); err != nil { // before it has paid anything
		t.Fatal(err)
	}
	ctx := context.Background()
	pay := func() {
		t.Helper()
		if err := a.Settle(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the payment is confirmed", func() bool { r := report(t, a).Neighbors[0]; return r.InTransit == 0 && r.WeOwe <= 0 })
	}
	pay()
	l.ends[1].send(TheyPay, 1, 700)
	flushBoth(t, a, b)
	pay()
	l.cut()
	stop()

	a, stop = start("older")
	defer stop()
	l = join(t, a, b)
	l.run()
	eventually(t, "the neighbor says that we forgot", func() bool { return report(t, b).Neighbors[0].Standing == Disputed })
	l.cut()
	if err := b.ledger.update(ctx, func(x *tx) error { return x.exec("UPDATE total SET proven = 0") }); err != nil { // its operator believes us
		t.Fatal(err)
	}
	received := sums(t, b)[accReceived]
	l = join(t, a, b)
	l.run()
	defer l.cut()
	pay() // again, as far as the copy knows
	if got := sums(t, b)[accReceived]; got != received {
		t.Errorf("the neighbor was paid %v, and %v before the copy was put back", got, received)
	}
	l.ends[1].send(TheyPay, 1, 2000)
	flushBoth(t, a, b)
	if err := l.ends[0].error(); err != nil {
		t.Fatalf("the link with an older ledger: %v", err)
	}
	if owed, due := report(t, a).Neighbors[0].WeOwe, report(t, b).Neighbors[0].TheyOwe; owed != due {
		t.Errorf("one side says that %v is owed, the other %v", owed, due)
	}
	sums(t, a, b)
}
