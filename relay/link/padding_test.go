package link

import (
	"math/rand/v2"
	"testing"

	"cuttle/relay/wire"
)

// padded puts padding before, between and behind the frames of a batch,
// as a mask that wants other sizes or cover traffic does.
func padded(t *testing.T, rng *rand.Rand, batch []byte) (out []byte) {
	t.Helper()
	pad := func() {
		for range rng.IntN(3) {
			out = wire.AppendPad(out, rng.IntN(2000))
		}
	}
	pad()
	for len(batch) > 0 {
		_, rest, err := wire.NextFrame(batch)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, batch[:len(batch)-len(rest)]...)
		batch = rest
		pad()
	}
	return wire.AppendPad(out, 1+rng.IntN(100))
}

// TestPaddingIsNotBilled: whatever padding and cover traffic goes over a link, the
// accounts of both ends count the cells of circuits, and nothing else.
func TestPaddingIsNotBilled(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var la, lb Counter
	p := newPair(t, Config{Accounts: func(*Link) Account { return &la }}, Config{Accounts: func(*Link) Account { return &lb }})
	ra, rb := newSink(0), newSink(0)
	a, b := p.open(ra, rb)
	ra.onCell = func(c *wire.Cell) { c.Release(); a.Grant(1) }
	rb.onCell = func(c *wire.Cell) { c.Release(); b.Grant(1) }
	deliver := func(from, to *Link) {
		t.Helper()
		for record := padded(t, rng, from.fill(nil)); len(record) > 0; {
			part := record
			for len(part) > wire.MaxRecord { // the same frames in two records
				_, rest, err := wire.NextFrame(record)
				if err != nil {
					t.Fatal(err)
				}
				part = record[:len(record)-len(rest)]
			}
			if err := to.record(part); err != nil {
				t.Fatal(err)
			}
			record = record[len(part):]
		}
	}
	var sent [2]wire.Cells
	for range 200 {
		n, m := rng.IntN(30), rng.IntN(30)
		sendCells(a, n)
		sendCells(b, m)
		sent[0], sent[1] = sent[0]+wire.Cells(n), sent[1]+wire.Cells(m) //nolint:gosec // small
		deliver(p.a, p.b)
		deliver(p.b, p.a)
	}
	for range 20 { // what waits for credit, and cover traffic alone
		deliver(p.a, p.b)
		deliver(p.b, p.a)
	}
	for _, c := range []struct {
		name      string
		got, want wire.Cells
	}{
		{"a sent", la.Cells(Sent, WePay), sent[0]},
		{"b received", lb.Cells(Received, TheyPay), sent[0]},
		{"b sent", lb.Cells(Sent, TheyPay), sent[1]},
		{"a received", la.Cells(Received, WePay), sent[1]},
		{"a, of circuits of b", la.Cells(Sent, TheyPay) + la.Cells(Received, TheyPay), 0},
		{"b, of circuits of its own", lb.Cells(Sent, WePay) + lb.Cells(Received, WePay), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d cells are counted, want %d", c.name, c.got, c.want)
		}
	}
}
