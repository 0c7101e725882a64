package billing

import (
	"context"
	"runtime"
	"testing"

	"cuttle/relay/wire"
)

// settled is the heap after a collection, bytes.
func settled() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkNeighbors is the memory of a Book that knows 1,000 neighbors, all of
// them connected.
func BenchmarkNeighbors(b *testing.B) {
	for b.Loop() {
		before := settled()
		book := openBook(b, 1, nil)
		for i := range 1000 {
			if _, err := book.Neighbor(wire.NodeID{1: byte(i), 2: byte(i >> 8), 31: 2}, quiet{}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(settled()-before)/1000, "B/neighbor")
		runtime.KeepAlive(book)
	}
}

// quiet is a link that says nothing back.
type quiet struct{}

func (quiet) Bill([]byte) error { return nil }
func (quiet) Wake()             {}
func (quiet) Close()            {}
func (quiet) Throttle(int)      {}

// BenchmarkRows opens a ledger of 10,000 entries, which checks all of it, and
// reports on it: time, memory and size of the file.
func BenchmarkRows(b *testing.B) {
	book := openBook(b, 1, nil)
	p, err := book.peer(testID(2))
	if err != nil {
		b.Fatal(err)
	}
	if err := book.ledger.update(context.Background(), func(x *tx) error {
		for i := range 5000 { // a charge and the payment of it
			var t totals
			t[Sent][TheyPay][1] = wire.Cells(i+1) << 20
			if err := x.setTotals(p, &t); err != nil {
				return err
			}
			if err := x.exec("UPDATE lot SET born = 0 WHERE born > 0"); err != nil { // each has its own entry
				return err
			}
			if _, err := x.claimed(p.row, int64(i+1)*100_000); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	path := book.cfg.Path
	if err := book.Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		before := settled()
		again, err := Open(Config{Path: path, Self: testID(1)})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := again.Report(context.Background()); err != nil {
			b.Fatal(err)
		}
		after := settled()
		var entries int
		if err := again.ledger.read.QueryRow("SELECT count(*) FROM journal").Scan(&entries); err != nil || entries < 10_000 {
			b.Fatalf("%d entries, %v", entries, err)
		}
		b.ReportMetric(float64(int64(after)-int64(before)), "B/ledger") //nolint:gosec // a heap
		if err := again.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
