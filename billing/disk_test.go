package billing

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// space gives the reserve a place where it cannot be, or its own again.
func space(tb testing.TB, b *Book, there bool) {
	tb.Helper()
	if err := b.ledger.update(context.Background(), func(tx *tx) error {
		tx.l.reserve.path = filepath.Join(b.cfg.Path+".no", "such folder")
		if there {
			tx.l.reserve.path = b.cfg.Path + reserveSuffix
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
}

// TestFullDisk lets the ledger run out of pages with no reserve: no circuit is
// taken and no payment begins, what runs goes on within credit, the report names
// the file, and everything is agreed once there is space.
func TestFullDisk(t *testing.T) {
	var clock atomic.Int64 // of minutes; goes on so far that each charge needs a row of its own
	late := func(c *Config) {
		c.SettleAfter = 24 * time.Minute
		c.Up = func() time.Duration { return time.Duration(clock.Load()) * time.Minute }
		c.Now = func() time.Time { return time.Unix(60*clock.Load(), 0) }
	}
	a, b := openBook(t, 1, nil), openBook(t, 2, late)
	l := join(t, a, b)
	l.run()
	defer l.cut()
	limit := func(pages string) {
		t.Helper()
		if err := b.ledger.update(context.Background(), func(tx *tx) error { return tx.exec("PRAGMA max_page_count = " + pages) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.ends[1].n.Admit(1); err != nil {
		t.Fatalf("a circuit is refused while there is space: %v", err)
	}
	space(t, b, false)
	limit("1") // it never goes below the present size
	sent := wire.Cells(0)
	for len(report(t, b).Problems) == 0 {
		if sent > 1_000_000 {
			t.Fatal("the ledger never ran full")
		}
		sent += 150
		clock.Add(2)
		l.ends[0].send(WePay, 5, 150)
		eventually(t, "all cells are carried", l.drained)
		b.tickAll()
	}
	if p := report(t, b).Problems[0]; !strings.Contains(p, b.cfg.Path) || !strings.Contains(p, "no space") {
		t.Errorf("problem %q does not name the file and the cause", p)
	}
	if err := l.ends[1].n.Admit(1); !errors.Is(err, ErrFull) {
		t.Errorf("a circuit while the disk is full: %v, want ErrFull", err)
	}
	if err := l.ends[1].n.Admit(0); err != nil {
		t.Errorf("a circuit that costs nothing while the disk is full: %v", err)
	}
	if n, err := b.plan(t.Context(), true); n != 0 || !errors.Is(err, ErrFull) {
		t.Errorf("%d payments were planned while the disk is full, %v", n, err)
	}
	before := report(t, b).Neighbors[0].TheyOwe
	l.ends[0].send(WePay, 5, 1000)
	eventually(t, "cells are carried while the disk is full", l.drained)
	if got := report(t, b).Neighbors[0].TheyOwe; got != before || got >= Owed(sent, 5) {
		t.Errorf("%v is charged while the disk is full, before it was %v", got, before)
	}
	limit("1000000")
	space(t, b, true)
	eventually(t, "the counts are agreed after all", func() bool {
		a.tickAll()
		b.tickAll()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return a.Flush(ctx) == nil
	})
	eventually(t, "circuits are taken again", func() bool {
		_ = b.ledger.update(context.Background(), func(*tx) error { return nil })
		return l.ends[1].n.Admit(1) == nil
	})
	if r := report(t, b); len(r.Problems) > 0 || r.Neighbors[0].TheyOwe != Owed(sent+1000, 5) {
		t.Errorf("problems %q, owed %v, want none and %v", r.Problems, r.Neighbors[0].TheyOwe, Owed(sent+1000, 5))
	}
}

// TestReserve: the reserve has its size, is made again when it has another, and
// is there once to give.
func TestReserve(t *testing.T) {
	r := reserve{path: filepath.Join(t.TempDir(), "r")}
	for _, had := range []int64{-1, 0, reserveSize, 2 * reserveSize} {
		if had >= 0 {
			if err := os.Truncate(r.path, had); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.hold(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(r.path); err != nil || info.Size() != reserveSize || info.Mode().Perm() != 0o600 {
			t.Errorf("the reserve that had %d bytes: %v, %v", had, info, err)
		}
	}
	if !r.give() || r.give() {
		t.Error("the reserve is to be given once")
	}
}

// TestTwoWriters: two daemons never have one ledger, and nobody adopts one that is
// in use.
func TestTwoWriters(t *testing.T) {
	b := openBook(t, 1, nil)
	if other, err := Open(Config{Path: b.cfg.Path, Self: testID(1)}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), b.cfg.Path) {
		if err == nil {
			other.Close()
		}
		t.Errorf("a second daemon on one ledger: %v, want ErrInUse and the path", err)
	}
	if err := Adopt(t.Context(), b.cfg.Path); !errors.Is(err, ErrInUse) {
		t.Errorf("adopting a ledger in use: %v, want ErrInUse", err)
	}
	if _, err := b.peer(testID(2)); err != nil {
		t.Errorf("the first one after that: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := Open(Config{Path: b.cfg.Path, Self: testID(1)})
	if err != nil {
		t.Fatalf("after the first has closed it: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// TestDamagedStaysAsItWas: a damaged ledger with a write-ahead log beside it, as a
// crash leaves it, is refused with what to do, and not a byte of it changes.
func TestDamagedStaysAsItWas(t *testing.T) {
	b := openBook(t, 1, nil)
	p, err := b.peer(testID(2))
	if err != nil {
		t.Fatal(err)
	}
	fill := func(from int) {
		t.Helper()
		for i := range 40 {
			if err := b.ledger.update(t.Context(), func(x *tx) error {
				_, err := x.claimed(p.row, int64(from+i+1))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(0)
	if _, err := b.ledger.write.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	fill(40)
	path := filepath.Join(t.TempDir(), "ledger.db")
	var whole [2][]byte
	for i, suffix := range []string{"", "-wal"} {
		if whole[i], err = os.ReadFile(b.cfg.Path + suffix); err != nil || len(whole[i]) < 4<<12 {
			t.Fatalf("ledger%s has %d bytes, %v", suffix, len(whole[i]), err)
		}
	}
	refused := 0
	for at := 0; at < len(whole[0]); at += 4096 { // a page that the log holds is mended by it
		broken := bytes.Clone(whole[0])
		for i := range 4096 {
			broken[at+i] = byte(i * 31)
		}
		for suffix, text := range map[string][]byte{"": broken, "-wal": whole[1], "-shm": nil, generationSuffix: nil} {
			os.Remove(path + suffix)
			if text == nil {
				continue
			}
			if err := os.WriteFile(path+suffix, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		opened, err := Open(Config{Path: path, Self: testID(1)})
		if err == nil {
			if err := opened.Close(); err != nil {
				t.Errorf("page %d: %v", at/4096+1, err)
			}
			continue
		}
		refused++
		if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, "cuttle ledger verify") || !strings.Contains(text, "backup") {
			t.Errorf("garbage in page %d: %q does not name the file and say what to do", at/4096+1, text)
		}
		for suffix, had := range map[string][]byte{"": broken, "-wal": whole[1]} {
			if got, err := os.ReadFile(path + suffix); err != nil || !bytes.Equal(got, had) {
				t.Errorf("garbage in page %d: ledger%s was changed from %d to %d bytes, %v", at/4096+1, suffix, len(had), len(got), err)
			}
		}
	}
	if refused == 0 {
		t.Error("no ledger was refused")
	}
}

// TestAdoptOlderSchema: an older copy from before an upgrade is adopted, and one
// that does not hold together is not, and stays of its schema.
func TestAdoptOlderSchema(t *testing.T) {
	for _, whole := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "ledger.db")
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		units := "-1000000"
		if !whole {
			units = "-999999"
		}
		for _, q := range []string{
			schema, "INSERT INTO meta VALUES ('schema', '1')", "INSERT INTO neighbor (id, node) VALUES (1, x'" + strings.Repeat("09", 32) + "')",
			"INSERT INTO journal VALUES (1, 1700000000, 'charge', '1/0/1')",
			"INSERT INTO posting VALUES (1, 'spent', 1, 1000000), (1, 'payable', 1, " + units + ")",
			"INSERT INTO lot VALUES (1, 1, 0, 1700000000, 1000000, 1000000, 1)",
			"INSERT INTO total VALUES (1, 1, 0, 1, 1048576, 0)",
		} {
			if _, err := db.ExecContext(t.Context(), q); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := writeGeneration(path, 7); err != nil { // a newer one was in use
			t.Fatal(err)
		}
		var older *SchemaError
		if _, err := verifyFile(path); !errors.As(err, &older) || older.Have != 1 || !strings.Contains(err.Error(), "cuttle ledger adopt") {
			t.Errorf("verifying a copy of schema 1: %v, want a SchemaError and what to do", err)
		}
		if b, err := Open(Config{Path: path, Self: testID(1), Account: true}); err == nil || whole && !errors.Is(err, ErrOlder) {
			if err == nil {
				b.Close()
			}
			t.Errorf("an older copy of an older schema: %v, want ErrOlder", err)
		}
		err = Adopt(t.Context(), path)
		if !whole {
			if err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("a copy that does not hold together was adopted: %v", err)
			}
			if _, err := verifyFile(path); !errors.As(err, &older) {
				t.Errorf("a copy that was not adopted: %v, want that it is of schema 1 still", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := Open(Config{Path: path, Self: testID(1), Account: true})
		if err != nil {
			t.Fatalf("an adopted copy: %v", err)
		}
		if got := report(t, b).Neighbors[0].WeOwe; got != 1_000_000 {
			t.Errorf("the adopted copy says that we owe %v", got)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCreditedWhenDurable: what a payment takes off what was served and never agreed on
// is taken when the payment is durable, however often its job has run.
func TestCreditedWhenDurable(t *testing.T) {
	a, b := openBook(t, 1, nil), openBook(t, 2, nil)
	l := join(t, a, b)
	l.run()
	l.cut()
	p := b.known()[0]
	p.lost.Store(100)
	full := errors.New("no space")
	for _, c := range []struct {
		fails error
		want  int64
	}{{full, 100}, {full, 100}, {nil, 60}, {nil, 20}, {nil, 0}} {
		err := b.ledger.update(context.Background(), func(tx *tx) error {
			return errors.Join(tx.credited(p.row, 30), tx.credited(p.row, 10), c.fails)
		})
		if got := p.lost.Load(); !errors.Is(err, c.fails) || got != c.want {
			t.Errorf("%d is left, %v; want %d, %v", got, err, c.want, c.fails)
		}
	}
}
