package billing

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// TestAddIsTwoAdds reads Add, which the forwarding path calls: it makes two calls,
// both of an atomic counter's Add, and no more. What it counts is what it is told.
func TestAddIsTwoAdds(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "meter.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	adds, found := 0, false
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "Add" {
			continue
		}
		found = true
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "uint64" {
					return true // a conversion
				}
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Add" {
					adds++
					return true
				}
				t.Errorf("Add calls something at %d", n.Pos())
			case *ast.ForStmt, *ast.RangeStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.SelectStmt, *ast.CompositeLit, *ast.FuncLit:
				t.Errorf("Add has a %T at %d", n, n.Pos())
			}
			return true
		})
	}
	if !found || adds != 2 {
		t.Errorf("Add is there: %v, and makes %d atomic adds, want 2", found, adds)
	}
	n := new(Neighbor)
	if allocs := testing.AllocsPerRun(100, func() { n.Add(Received, TheyPay, MaxTier, 3) }); allocs != 0 {
		t.Errorf("Add allocates %v times", allocs)
	}
	n.Add(Received, TheyPay, MaxTier+1, 3) // not carried
	if c := n.meters[Received].snapshot(); c[TheyPay][MaxTier] != 303 || c.sum() != 303 || n.meters[Received].total.Load() != 303 || n.meters[Sent].total.Load() != 0 {
		t.Errorf("after 101 times 3 cells %d are counted, in all %d", c[TheyPay][MaxTier], n.meters[Received].total.Load())
	}
}

// TestCrashBound: both ends crash at any moment of quiet traffic. What both lose is
// what was sent since the last agreed marker, which is less than MarkerCells and a
// batch in each direction, by both ledgers to the cell.
func TestCrashBound(t *testing.T) {
	const (
		marker = 100
		batch  = 30
	)
	rng := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	open := func(self byte) *Book {
		t.Helper()
		b, err := Open(Config{Path: filepath.Join(dir, string('a'+rune(self))), Self: testID(self), MarkerCells: marker, MarkerEvery: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	agreed := func(b *Book) (t totals, err error) {
		err = b.ledger.update(context.Background(), func(tx *tx) (err error) {
			t, err = tx.totals(1)
			return err
		})
		return t, err
	}
	var sent [2]wire.Cells // by whom, over all links, without what was lost
	for round := range 12 {
		a, b := open(1), open(2)
		l := join(t, a, b)
		l.run()
		var now [2]wire.Cells
		for range 10 + rng.IntN(20) {
			for i, payer := range []Payer{WePay, TheyPay} {
				n := wire.Cells(1 + rng.IntN(batch))
				l.ends[i].send(payer, 3, n)
				now[i] += n
			}
		}
		eventually(t, "all cells are carried and nothing is due", func() bool {
			if !l.drained() {
				return false
			}
			for i, e := range l.ends {
				e.n.mu.Lock()
				quiet := e.n.base != nil && e.n.waiting == nil && !e.n.writing && now[i]-e.n.agreed[Sent].sum() < marker+batch
				e.n.mu.Unlock()
				if !quiet {
					return false
				}
			}
			return true
		})
		l.cut() // and nothing is flushed
		for _, x := range []*Book{a, b} {
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		}
		a, b = open(1), open(2)
		l = join(t, a, b) // both come to the lower of their counts
		greeted(t, l)
		ta, err := agreed(a)
		if err != nil {
			t.Fatal(err)
		}
		tb, err := agreed(b)
		if err != nil {
			t.Fatal(err)
		}
		if ta != tb.flipped() {
			t.Fatalf("round %d: the ledgers are not equal", round)
		}
		for i, dir := range []Direction{Sent, Received} {
			kept := ta[dir][WePay][3]
			if lost := sent[i] + now[i] - kept; kept < sent[i] || lost >= marker+batch {
				t.Errorf("round %d: of %d cells of side %d the crash has lost %d, want less than %d", round, now[i], i, lost, marker+batch)
			}
			sent[i] = kept
		}
		l.cut()
		for _, x := range []*Book{a, b} {
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sent[0] < 12*marker || sent[1] < 12*marker {
		t.Errorf("%v cells were agreed in all, which is little", sent)
	}
}
