package billing

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cuttle/relay/wire"
)

func report(tb testing.TB, b *Book) Report {
	tb.Helper()
	r, err := b.Report(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func flushBoth(tb testing.TB, a, b *Book) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(a.Flush(ctx), b.Flush(ctx)); err != nil {
		tb.Fatal(err)
	}
}

// TestLedgersAgree sends random traffic both ways at several tiers and compares
// the two ledgers to the cell and to the unit.
func TestLedgersAgree(t *testing.T) {
	a, b := openBook(t, 1, nil), openBook(t, 2, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 3 { // three links, one after the other
		l := join(t, a, b)
		l.run()
		for range 400 {
			l.ends[rng.IntN(2)].send(Payer(rng.IntN(2)), wire.Tier(rng.IntN(5)), wire.Cells(1+rng.IntN(3000)))
		}
		eventually(t, "all cells are counted", l.drained)
		flushBoth(t, a, b)
		eventually(t, "both ledgers are equal", func() bool {
			ra, rb := report(t, a).Neighbors[0], report(t, b).Neighbors[0]
			return ra.TheyOwe == rb.WeOwe && ra.WeOwe == rb.TheyOwe && mirrored(ra.Counts, rb.Counts)
		})
		ra := report(t, a).Neighbors[0]
		if ra.TheyOwe <= 0 || ra.WeOwe <= 0 {
			t.Fatalf("round %d: nothing is owed: %v and %v", round, ra.TheyOwe, ra.WeOwe)
		}
		for _, c := range ra.Counts {
			if c.OursSent != c.AgreedSent || c.OursReceived != c.AgreedReceived || c.OursSent != c.TheirsSent || c.OursReceived != c.TheirsReceived {
				t.Errorf("round %d: counts are not equal after Flush: %+v", round, c)
			}
		}
		l.cut()
		if err := errors.Join(l.ends[0].error(), l.ends[1].error()); err != nil {
			t.Fatalf("round %d: link ended: %v", round, err)
		}
	}
	for _, book := range []*Book{a, b} {
		if err := book.ledger.update(context.Background(), func(tx *tx) error { return tx.verify() }); err != nil {
			t.Error(err)
		}
	}
}

// mirrored tells whether one side's counts are the other's as seen from there.
func mirrored(a, b []Count) bool {
	if len(a) != len(b) {
		return false
	}
	other := map[[2]any]Count{}
	for _, c := range b {
		other[[2]any{!c.WePay, c.Tier}] = c
	}
	for _, c := range a {
		o := other[[2]any{c.WePay, c.Tier}]
		if c.AgreedSent != o.AgreedReceived || c.AgreedReceived != o.AgreedSent {
			return false
		}
	}
	return true
}

// TestCutLink breaks links in the middle of traffic: both ledgers must end up
// equal after the next link's HELLO, and lose no more than the stated bound.
func TestCutLink(t *testing.T) {
	a, b := openBook(t, 1, nil), openBook(t, 2, nil)
	const frame = 50
	for round := range 20 {
		l := join(t, a, b)
		l.run()
		for range 40 {
			l.ends[0].send(WePay, 3, frame)
			l.ends[1].send(TheyPay, 3, frame)
		}
		if round%2 == 0 {
			eventually(t, "some of it is agreed", func() bool {
				l.ends[0].n.mu.Lock()
				defer l.ends[0].n.mu.Unlock()
				return l.ends[0].n.acked >= 1
			})
		}
		l.cut()
		if err := errors.Join(l.ends[0].error(), l.ends[1].error()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	l := join(t, a, b)
	l.run()
	defer l.cut()
	flushBoth(t, a, b)
	eventually(t, "both ledgers are equal", func() bool {
		ra, rb := report(t, a).Neighbors[0], report(t, b).Neighbors[0]
		return ra.WeOwe == rb.TheyOwe && ra.WeOwe > 0 && mirrored(ra.Counts, rb.Counts)
	})
	for _, book := range []*Book{a, b} {
		if r := report(t, book).Neighbors[0]; r.Dispute != "" || r.Standing != Active {
			t.Errorf("standing %s, dispute %q", r.Standing, r.Dispute)
		}
		if err := book.ledger.update(context.Background(), func(tx *tx) error { return tx.verify() }); err != nil {
			t.Error(err)
		}
	}
}

// TestDispute lets a neighbor claim one cell more than it sent.
func TestDispute(t *testing.T) {
	a, b := openBook(t, 1, nil), openBook(t, 2, func(c *Config) { c.Credit = 1000 })
	l := join(t, a, b)
	lied := false
	l.ends[0].twist = func(f *memFrame) {
		if f.bill != nil && f.bill[0] == kindTally {
			m, err := parseTally(f.bill)
			if err != nil {
				panic(err)
			}
			m.sent[WePay][2]++
			f.bill, lied = m.append(nil), true
		}
	}
	l.run()
	defer l.cut()
	l.ends[0].send(WePay, 2, 500)
	eventually(t, "both sides dispute", func() bool {
		return report(t, a).Neighbors[0].Standing == Disputed && report(t, b).Neighbors[0].Standing == Disputed
	})
	if !lied {
		t.Fatal("the test did not lie")
	}
	for _, book := range []*Book{a, b} {
		r := report(t, book)
		if n := r.Neighbors[0]; !strings.Contains(n.Dispute, "500") {
			t.Errorf("dispute %q does not show the count 500", n.Dispute)
		}
		if len(r.Problems) == 0 {
			t.Error("no problem is reported")
		}
		n := book.live()[0]
		if err := n.Admit(1); !errors.Is(err, ErrDisputed) {
			t.Errorf("Admit while disputed: %v", err)
		}
		if err := n.Admit(0); err != nil {
			t.Errorf("Admit of a free circuit while disputed: %v", err)
		}
	}
	if r := report(t, b).Neighbors[0]; !strings.Contains(r.Dispute, "501") || r.TheyOwe != 0 {
		t.Errorf("b: dispute %q, owed %v; want both numbers and nothing charged", r.Dispute, r.TheyOwe)
	}
	if err := b.Unban(context.Background(), testID(1)); err != nil {
		t.Fatal(err)
	}
	if r := report(t, b).Neighbors[0]; r.Standing != Active {
		t.Errorf("standing after Unban: %s", r.Standing)
	}
}

// TestRollback puts an old copy of the ledger back at one neighbor: the other
// has proof that more was agreed and disputes.
func TestRollback(t *testing.T) {
	a := openBook(t, 1, nil)
	b := openBook(t, 2, nil)
	l := join(t, a, b)
	l.run()
	for range 10 {
		l.ends[0].send(WePay, 1, 150)
	}
	eventually(t, "all cells are counted", l.drained)
	flushBoth(t, a, b)
	flushBoth(t, a, b) // a second marker shows that the first one's agreement was kept
	l.cut()

	a2 := openBook(t, 1, nil) // a without its memory
	l = join(t, a2, b)
	l.run()
	defer l.cut()
	eventually(t, "b disputes", func() bool { return report(t, b).Neighbors[0].Standing == Disputed })
	if r := report(t, b).Neighbors[0]; r.TheyOwe == 0 {
		t.Error("b has written everything off")
	}
}

func TestWrongOrder(t *testing.T) {
	a := openBook(t, 1, nil)
	hello := func() []byte { return (&hello{ways: []Way{WayNone}}).append(nil) }
	tallyOf := func(seq uint32) []byte { return (&tally{seq: seq}).append(nil) }
	for _, c := range []struct {
		name string
		msgs [][]byte
	}{
		{"empty", [][]byte{{}}},
		{"tally first", [][]byte{tallyOf(1)}},
		{"two hellos", [][]byte{hello(), hello()}},
		{"tally skips", [][]byte{hello(), tallyOf(2)}},
		{"ack of nothing", [][]byte{hello(), (&ack{seq: 1}).append(nil)}},
		{"unknown kind", [][]byte{hello(), {9}}},
		{"seen before sent", [][]byte{hello(), (&tally{seq: 1, seen: 1}).append(nil)}},
	} {
		end := &memEnd{link: &memLink{stop: make(chan struct{})}, wakes: make(chan struct{}, 1)}
		n, err := a.Neighbor(testID(2), end)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.msgs {
			if err = n.Message(m); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v, want ErrMessage", c.name, err)
		}
		n.Down()
		if err := n.Message(hello()); !errors.Is(err, ErrReplaced) {
			t.Errorf("%s: message after Down: %v, want ErrReplaced", c.name, err)
		}
	}
}

func (b *Book) tickAll() {
	for _, n := range b.live() {
		n.tick(b.cfg.Up())
	}
}

func TestOpenRefuses(t *testing.T) {
	damage := func(query string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(query); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name, want string
		do         func(*testing.T, string)
	}{
		{"sums", "do not sum to zero", damage("UPDATE posting SET amount = amount + 1 WHERE account = 'earned'")},
		{"lots", "open lots", damage("UPDATE lot SET open = open - 1")},
		{"charges", "not the price", damage("UPDATE total SET cells = cells + 1000000")},
		{"schema", "schema is", damage("UPDATE meta SET value = '99' WHERE key = 'schema'")},
		{"no database", "not a database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("garbage ", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
			os.Remove(path + "-wal")
		}},
	} {
		path := filepath.Join(t.TempDir(), "ledger.db")
		a := openBook(t, 1, nil)
		b, err := Open(Config{Path: path, Self: testID(2), MarkerCells: 100})
		if err != nil {
			t.Fatal(err)
		}
		l := join(t, a, b)
		l.run()
		l.ends[0].send(WePay, 1, 5000)
		eventually(t, "all cells are counted", l.drained)
		flushBoth(t, a, b)
		l.cut()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		c.do(t, path)
		b, err = Open(Config{Path: path, Self: testID(2)})
		if err == nil {
			b.Close()
			t.Errorf("%s: a damaged ledger was opened", c.name)
		} else if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %q, want it to say %q and the path", c.name, err, c.want)
		}
	}
	if _, err := Open(Config{Path: filepath.Join(t.TempDir(), "no", "ledger.db"), Self: testID(1)}); err == nil {
		t.Error("a ledger in a folder that is not there was opened")
	}
}

func TestMode(t *testing.T) {
	b := openBook(t, 1, nil)
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(b.cfg.Path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("mode of ledger file %q is %o, want 600", suffix, got)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	n := new(Neighbor)
	b.ReportAllocs()
	for b.Loop() {
		n.Add(Sent, WePay, 3, 1)
	}
}

func BenchmarkAddBothDirections(b *testing.B) {
	n := new(Neighbor)
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				n.Add(Received, TheyPay, 3, 1)
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		n.Add(Sent, WePay, 3, 1)
	}
	close(stop)
	<-done
}

func BenchmarkMarkerNotDue(b *testing.B) {
	n := &Neighbor{book: &Book{cfg: Config{MarkerCells: 100}}}
	b.ReportAllocs()
	for b.Loop() {
		if n.Marker() != nil {
			b.Fatal("a marker is due")
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	n, err := openBook(b, 1, nil).Neighbor(testID(2), &memEnd{link: &memLink{stop: make(chan struct{})}, wakes: make(chan struct{}, 1)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := n.Admit(3); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLedger is one agreed marker: two totals, a charge and its postings,
// durable.
func BenchmarkLedger(b *testing.B) {
	book := openBook(b, 1, nil)
	p, err := book.peer(testID(2))
	if err != nil {
		b.Fatal(err)
	}
	var c wire.Cells
	b.ReportAllocs()
	for b.Loop() {
		c += 800
		if err := book.ledger.update(context.Background(), func(tx *tx) error {
			t, err := tx.totals(p.row)
			if err != nil {
				return err
			}
			t[Sent][WePay][2], t[Received][WePay][2] = c, c
			return tx.setTotals(p, &t)
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
}
