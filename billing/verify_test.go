package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// clerk does random things to a ledger, as links, the chain and neighbors would.
type clerk struct {
	t       *testing.T
	rng     *rand.Rand
	book    *Book
	peers   []*peer
	journal *journal
	inbox   *inbox
	block   uint64
	nonce   uint64
	done    map[string]int // how often each succeeded
}

func newClerk(t *testing.T, seed uint64) *clerk {
	t.Helper()
	var decimals atomic.Int32
	decimals.Store(18)
	b := openBook(t, 1, nil)
	c := &clerk{t: t, rng: rand.New(rand.NewPCG(seed, 1)), book: b, done: map[string]int{}, block: 10,
		journal: &journal{l: b.ledger, wallet: evm.Address{7}}, inbox: &inbox{l: b.ledger, decimals: &decimals, step: func(string, int64) {}}}
	for i := range 3 {
		p, err := b.peer(testID(byte(i + 2)))
		if err != nil {
			t.Fatal(err)
		}
		c.peers = append(c.peers, p)
	}
	return c
}

func (c *clerk) update(do func(*tx) error) error {
	return c.book.ledger.update(context.Background(), do)
}

// step does one thing; what does not fit the moment is refused, which is fine,
// and leaves no trace.
func (c *clerk) step() {
	p := c.peers[c.rng.IntN(len(c.peers))]
	ctx := context.Background()
	name, err := "", error(nil)
	switch c.rng.IntN(10) {
	case 0, 1:
		name, err = "charge", c.update(func(tx *tx) error { return c.count(tx, p, 1) })
	case 2:
		name, err = "writeoff", c.update(func(tx *tx) error { return c.count(tx, p, -1) })
	case 3:
		a := Amount(1 + c.rng.Int64N(max(1, p.payable.Load())))
		name, err = "plan", c.book.ledger.plan(ctx, p, c.journal.wallet, evm.Address{byte(p.row)}, a, toToken(a, 18))
	case 4:
		name, err = c.pay(ctx)
	case 5:
		c.block++
		t := evm.Transfer{Tx: evm.Hash{byte(c.block), byte(c.block >> 8), 9}, From: evm.Address{9, byte(c.rng.IntN(5))}, Amount: toToken(Amount(c.rng.Int64N(5000)), 18),
			Block: evm.Mark{Number: c.block, Hash: evm.Hash{byte(c.block)}}}
		name, err = "credit", c.inbox.Credit(ctx, t.Block, []evm.Transfer{t})
	case 6:
		if c.block > 12 && c.rng.IntN(3) == 0 {
			c.block -= uint64(1 + c.rng.IntN(2))
			name, err = "rewind", c.inbox.Rewind(ctx, evm.Mark{Number: c.block, Hash: evm.Hash{byte(c.block)}})
		} else {
			h := &hello{bound: true, wallet: evm.Address{9, byte(c.rng.IntN(5))}, expiry: 1 << 40}
			name, err = "bind", c.update(func(tx *tx) error { return tx.bind(p, h) })
		}
	case 7:
		if owed := p.payable.Load(); owed > 0 && c.rng.IntN(2) == 0 {
			name, err = "promise", c.update(func(tx *tx) error { _, err := tx.promise(p, Amount(1+c.rng.Int64N(owed))); return err })
		} else {
			name, err = "confirm", c.update(func(tx *tx) error {
				cum, err := promisedSoFar(tx, p, 0)
				return errors.Join(err, tx.confirmed(p, cum))
			})
		}
	case 8:
		name, err = "claim", c.update(func(tx *tx) error {
			had, err := promisedSoFar(tx, p, 1)
			if err == nil {
				_, err = tx.claimed(p.row, had+c.rng.Int64N(3000))
			}
			return err
		})
	case 9:
		c.block++
		gone := Amount(0)
		err = c.update(func(tx *tx) (err error) {
			moved, _, err := tx.movedFrom(c.journal.wallet, c.block)
			if err == nil {
				gone, _, err = tx.compareCash(c.journal.wallet, c.block, Amount(c.rng.Int64N(1<<40)), c.rng.IntN(2) == 0)
			}
			if moved < 0 {
				err = errors.New("more came back than went out")
			}
			return err
		})
		if name = "cash"; gone > 0 {
			name = "theft"
		}
	}
	if err == nil {
		c.done[name]++
	}
}

// promisedSoFar is what was said to be paid by account, by us (0) or to us (1).
func promisedSoFar(tx *tx, p *peer, dir int) (cum int64, err error) {
	_, err = tx.one("SELECT cum FROM promise WHERE neighbor = ? AND dir = ? AND way = ?", []any{p.row, dir, int(WayAccount)}, &cum)
	return cum, err
}

// count moves a neighbor's agreed cells up, or down as a new link may.
func (c *clerk) count(tx *tx, p *peer, sign int) error {
	t, err := tx.totals(p.row)
	if err != nil {
		return err
	}
	n := &t[c.rng.IntN(2)][c.rng.IntN(2)][1+c.rng.IntN(3)]
	if by := wire.Cells(c.rng.IntN(4000)); sign > 0 {
		*n += by
	} else {
		*n -= min(*n, by)
	}
	return tx.setTotals(p, &t)
}

// pay moves one payment a step, in any direction that a chain can take it.
func (c *clerk) pay(ctx context.Context) (string, error) {
	open, _, err := c.journal.OpenIntents(ctx)
	if err != nil || len(open) == 0 {
		return "nothing", errors.Join(err, errors.New("nothing is open"))
	}
	in := open[c.rng.IntN(len(open))]
	if in.State == evm.Planned || in.State == evm.Sent && c.rng.IntN(3) == 0 { // first bytes, or a higher fee
		nonce := in.Nonce
		if in.State == evm.Planned {
			if c.rng.IntN(3) == 0 { // another program has used some
				c.nonce += 1 + c.rng.Uint64N(3)
			}
			nonce = c.nonce
			c.nonce++
		}
		a := evm.Attempt{Hash: evm.Hash{byte(in.ID), byte(in.ID >> 8), byte(len(in.Attempts)), 1}, Raw: []byte{1}, TipCap: big.NewInt(1), FeeCap: big.NewInt(2), Gas: 3, At: c.book.cfg.Now()}
		return "sign", c.journal.Sign(ctx, in.ID, nonce, a)
	}
	to := []evm.State{evm.Sent, evm.Mined, evm.Final, evm.Reverted, evm.Superseded}[c.rng.IntN(5)]
	inc := evm.Inclusion{}
	if to != evm.Sent && to != evm.Superseded {
		inc = evm.Inclusion{Tx: in.Attempts[0].Hash, Block: evm.Mark{Number: 5, Hash: evm.Hash{5}}, Confirmations: 1, Success: to != evm.Reverted, GasUsed: 21000 + c.rng.Uint64N(50000), GasPrice: 1e9 + c.rng.Uint64N(1e9), DataFee: c.rng.Uint64N(1e12)}
	}
	return to.String(), c.journal.Mark(ctx, in.ID, to, inc)
}

// copied copies the ledger as it is now.
func (c *clerk) copied() string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "copy.db")
	db, err := sql.Open("sqlite", c.book.cfg.Path)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = db.Exec("VACUUM INTO ?", path)
	if err = errors.Join(err, db.Close()); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// TestInvariants: whatever happens, in whatever order, every invariant of a
// ledger holds after each step.
func TestInvariants(t *testing.T) {
	for seed := range uint64(3) {
		c := newClerk(t, seed)
		for i := range 400 {
			c.step()
			if err := c.update(func(tx *tx) error {
				all, err := tx.findings()
				if len(all) > 0 {
					err = fmt.Errorf("%v", all)
				}
				return err
			}); err != nil {
				t.Fatalf("seed %d, after step %d: %v", seed, i, err)
			}
		}
		var skipped int
		if err := c.book.ledger.read.QueryRow("SELECT count(*) FROM skipped").Scan(&skipped); err != nil || skipped == 0 {
			t.Errorf("seed %d: no nonce was another program's (%v), so it was not tested", seed, err)
		}
		for _, what := range []string{"charge", "writeoff", "plan", "sign", "final", "credit", "rewind", "bind", "promise", "confirm", "claim", "cash", "theft"} {
			if c.done[what] == 0 {
				t.Errorf("seed %d: %q never succeeded, so it was not tested: %v", seed, what, c.done)
			}
		}
	}
}

// TestVerifyFinds breaks each invariant in a copy of a busy ledger: Verify finds
// it, and the ledger is not opened.
func TestVerifyFinds(t *testing.T) {
	c := newClerk(t, 42)
	for c.done["final"] < 2 || c.done["credit"] < 5 || c.done["claim"] == 0 || c.done["confirm"] == 0 || c.done["cash"] == 0 || c.done["sign"] < 5 {
		c.step()
	}
	if err := c.inbox.Credit(context.Background(), evm.Mark{Number: 1000, Hash: evm.Hash{1}}, []evm.Transfer{{Tx: evm.Hash{200}, From: evm.Address{200}, Amount: toToken(5, 18), Block: evm.Mark{Number: 1000, Hash: evm.Hash{1}}}}); err != nil {
		t.Fatal(err)
	}
	whole := c.copied()
	if v, err := verifyFile(whole); err != nil || len(v.Findings) > 0 || v.Neighbors != 3 || v.Entries == 0 {
		t.Fatalf("a ledger that is whole: %+v, %v", v, err)
	}
	for _, b := range []struct{ what, query string }{
		{"do not sum to zero", "UPDATE posting SET amount = amount + 1 WHERE rowid = (SELECT min(rowid) FROM posting)"},
		{"open lots", "UPDATE lot SET open = open - 1 WHERE id = (SELECT max(id) FROM lot WHERE open > 0)"},
		{"not the price", "UPDATE total SET cells = cells + 10000000"},
		{"mixed with the token", "UPDATE posting SET account = 'paid' WHERE account = 'coin'"},
		{"moves nothing", "INSERT INTO journal (at, kind, ref) VALUES (1, 'charge', 'x')"},
		{"never signed", "UPDATE intent SET tx = x'00' WHERE state = 4"},
		{"without its bytes", "DELETE FROM attempt"},
		{"under way", "UPDATE promise SET cum = cum + 1 WHERE dir = 0"},
		{"not booked as it came", "UPDATE receipt SET amount = amount + 1 WHERE tx = (SELECT max(tx) FROM receipt WHERE amount > 0)"},
		{"unknown wallets", "UPDATE receipt SET neighbor = 1 WHERE neighbor IS NULL"},
		{"says it has paid", "UPDATE promise SET cum = cum + 1, acked = acked + 1 WHERE dir = 1"},
		{"confirmed is not", "UPDATE promise SET cum = cum + 1, acked = acked + 1 WHERE dir = 0"},
		{"neither a payment's nor", "UPDATE intent SET nonce = nonce + 1000 WHERE id = (SELECT max(id) FROM intent WHERE nonce IS NOT NULL)"},
		{"or both", "INSERT INTO skipped SELECT wallet, max(nonce), max(nonce) FROM intent WHERE nonce IS NOT NULL GROUP BY wallet"},
		{"fee is not booked", "UPDATE intent SET fee = fee + 1 WHERE id = (SELECT max(id) FROM intent WHERE fee IS NOT NULL)"},
		{"fee is not booked", "UPDATE intent SET fee = NULL WHERE id = (SELECT max(id) FROM intent WHERE state = 4)"},
		{"do not sum to their account", "UPDATE posting SET amount = amount * 2 WHERE account IN ('fees', 'coin')"},
		{"was seen to hold", "UPDATE cash SET balance = balance + 1"},
		{"a reference points nowhere", "PRAGMA foreign_keys = 0; DELETE FROM neighbor WHERE id = 3"},
	} {
		path := c.copied()
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		if _, err := db.Exec(b.query); err != nil {
			t.Fatal(b.what, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		v, err := verifyFile(path)
		if err != nil {
			t.Errorf("%s: %v", b.what, err)
		}
		found := false
		for _, f := range v.Findings {
			found = found || strings.Contains(f.What, b.what)
		}
		if !found {
			t.Errorf("%q is not found, but %v", b.what, v.Findings)
		}
		if opened, err := Open(Config{Path: path, Self: testID(1)}); err == nil {
			opened.Close()
			t.Errorf("%s: the ledger was opened", b.what)
		}
	}
}

func verifyFile(path string) (v Verified, err error) {
	f, err := OpenFile(path)
	if err != nil {
		return v, err
	}
	v, err = f.Verify(context.Background())
	return v, errors.Join(err, f.Close())
}

// TestVerifyDamagedPage: a page of garbage in the middle is found or makes the
// file unreadable; it is never fine.
func TestVerifyDamagedPage(t *testing.T) {
	c := newClerk(t, 5)
	for range 600 {
		c.step()
	}
	path := c.copied()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for page := 1; page*4096 < len(text); page += 3 {
		broken := append([]byte(nil), text...)
		for i := range 4096 {
			broken[page*4096+i] = byte(i * 31)
		}
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if v, err := verifyFile(path); err == nil && len(v.Findings) == 0 {
			t.Errorf("page %d of garbage is not noticed", page)
		}
		if b, err := Open(Config{Path: path, Self: testID(1)}); err == nil {
			b.Close()
			t.Errorf("page %d of garbage: the ledger was opened", page)
		}
	}
}

// TestFileBesideDaemon reads a ledger that is open and written.
func TestFileBesideDaemon(t *testing.T) {
	c := newClerk(t, 6)
	for range 100 {
		c.step()
	}
	f, err := OpenFile(c.book.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx := context.Background()
	entries, sum := 0, int64(0)
	if err := f.History(ctx, wire.NodeID{}, func(m Movement) error {
		entries++
		sum += m.Units
		return nil
	}); err != nil || entries < 50 || sum != 0 {
		t.Errorf("history: %d movements that sum to %d, %v", entries, sum, err)
	}
	some := 0
	if err := f.History(ctx, testID(2), func(m Movement) error {
		if m.Neighbor != testID(2) && !m.Neighbor.IsZero() {
			t.Errorf("the history of one neighbor holds %v", m)
		}
		some++
		return nil
	}); err != nil || some == 0 || some >= entries {
		t.Errorf("history of one neighbor: %d of %d movements, %v", some, entries, err)
	}
	all, err := f.Positions(ctx)
	if err != nil || len(all) != 3 {
		t.Fatalf("positions: %v, %v", all, err)
	}
	for i, p := range c.peers {
		if got := all[i]; got.OwedUnits != p.payable.Load() || got.DueUnits != p.receivable.Load() || got.Node != p.id.String() {
			t.Errorf("position %+v, want %d owed, %d due", got, p.payable.Load(), p.receivable.Load())
		}
	}
	before := c.done["charge"]
	for c.done["charge"] == before {
		c.step() // the reader keeps nobody from writing
	}
	if n, err := f.UnderWay(ctx, c.journal.wallet); err != nil {
		t.Errorf("under way: %d, %v", n, err)
	}
	if _, err := OpenFile(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was opened")
	}
}

func TestPerGB(t *testing.T) {
	for _, c := range []struct {
		a     Amount
		cells wire.Cells
		want  string
	}{{0, 0, ""}, {0, 5, "0"}, {Owed(1<<40, 1), 1 << 40, PerGB(Owed(1<<20, 1), 1<<20)}, {maxAmount, 1, ""}} {
		if got := PerGB(c.a, c.cells); got != c.want {
			t.Errorf("PerGB(%d, %d) = %q, want %q", c.a, c.cells, got, c.want)
		}
	}
}
