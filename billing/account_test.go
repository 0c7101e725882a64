package billing

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// running opens a Book that settles by account and runs it until the test ends.
func running(t *testing.T, self byte, change func(*Config)) *Book {
	t.Helper()
	b := openBook(t, self, func(c *Config) {
		c.Account, c.PollEvery, c.ScanEvery = true, 10*time.Millisecond, 50*time.Millisecond
		c.Credit, c.CreditStart, c.SettleAbove = Owed(8000, 1), Owed(1000, 1), Owed(400, 1)
		if change != nil {
			change(c)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }() // ends with cancel
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// sums adds up the accounts of several ledgers over all neighbors.
func sums(t *testing.T, books ...*Book) map[string]Amount {
	t.Helper()
	out := map[string]Amount{}
	for _, b := range books {
		err := b.ledger.update(context.Background(), func(x *tx) error {
			rows, err := x.QueryContext(x.ctx, "SELECT account, sum(amount) FROM posting GROUP BY account")
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var account string
				var a int64
				if err := rows.Scan(&account, &a); err != nil {
					return err
				}
				out[account] += Amount(a)
				out[""] += Amount(a)
			}
			return errors.Join(rows.Err(), rows.Close(), x.verify())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestNetworkSums runs random traffic over a row of four nodes, every link pays
// its own way, links break at random: in the end every debt is paid, both sides
// of everything are equal, and the whole network sums to zero.
func TestNetworkSums(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 11))
	var books []*Book
	for i := range 4 {
		books = append(books, running(t, byte(i+1), func(c *Config) { c.Credit = Owed(1_000_000, 1); c.CreditStart = 0 }))
	}
	for round := range 4 {
		var links []*memLink
		for i := range len(books) - 1 {
			l := join(t, books[i], books[i+1])
			l.run()
			links = append(links, l)
		}
		for range 300 {
			l := links[rng.IntN(len(links))]
			l.ends[rng.IntN(2)].send(Payer(rng.IntN(2)), wire.Tier(rng.IntN(4)), wire.Cells(1+rng.IntN(200)))
		}
		if round%2 == 0 { // else most of it is lost
			for i := range links {
				flushBoth(t, books[i], books[i+1])
			}
		}
		for _, l := range links {
			l.cut()
			if err := errors.Join(l.ends[0].error(), l.ends[1].error()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range len(books) - 1 {
		l := join(t, books[i], books[i+1])
		l.run()
		defer l.cut()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	eventually(t, "everything is paid", func() bool {
		for _, b := range books {
			if err := b.Settle(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for _, b := range books {
			for _, n := range report(t, b).Neighbors {
				// Paid and then lost by the creditor: that is paid ahead.
				if n.WeOwe > 0 || n.TheyOwe > 0 || n.InTransit != 0 {
					return false
				}
			}
		}
		return true
	})
	s := sums(t, books...)
	if s[""] != 0 || s[accReceivable]+s[accPayable] != 0 || s[accEarned]+s[accSpent] != 0 || s[accPaid]+s[accReceived] != 0 {
		t.Errorf("the network does not sum to zero: %v", s)
	}
	if s[accPaid] == 0 {
		t.Error("nothing was paid")
	}
}

// TestAccountCredit: a stranger's credit is small and grows by what it pays; a
// neighbor that pays is served without end, one that does not is warned, cut, and
// served again when it has paid.
func TestAccountCredit(t *testing.T) {
	a, b := running(t, 1, nil), running(t, 2, nil)
	l := join(t, a, b)
	l.run()
	defer l.cut()
	n := l.ends[1].n
	if got, want := b.limit(n.peer), Owed(1000, 1); got != want {
		t.Errorf("a stranger's limit is %v, want %v", got, want)
	}
	for range 20 {
		l.ends[1].send(TheyPay, 1, 500)
		eventually(t, "a pays before it is cut off", func() bool {
			return l.drained() && n.peer.repaid.Load() > 0 && n.peer.receivable.Load() == 0 && errors.Is(n.Admit(1), nil)
		})
	}
	eventually(t, "the limit of a neighbor that has paid 10000 cells is the whole credit", func() bool { return b.limit(n.peer) == Owed(8000, 1) })

	c := openBook(t, 3, func(c *Config) { c.Account = true }) // nothing runs: it never pays by itself
	l2 := join(t, c, b)
	l2.run()
	defer l2.cut()
	n2 := l2.ends[1].n
	standing := func(s Standing) func() bool {
		return func() bool { return report(t, c).Neighbors[0].TheirStanding == s }
	}
	eventually(t, "c is welcome", func() bool { return n2.Admit(1) == nil })
	for _, step := range []struct {
		cells wire.Cells
		what  Standing
		rate  int64
	}{{800, Warned, 0}, {100, Throttled, DefaultThrottle}} {
		l2.ends[1].send(TheyPay, 1, step.cells)
		eventually(t, "c is "+step.what.String(), standing(step.what))
		if err := n2.Admit(1); err != nil {
			t.Errorf("a neighbor that is %v is refused: %v", step.what, err)
		}
		if got := l2.ends[1].rate.Load(); got != step.rate {
			t.Errorf("a neighbor that is %v is carried at %d cells a second, want %d", step.what, got, step.rate)
		}
	}
	l2.ends[1].send(TheyPay, 1, 200)
	eventually(t, "c is cut off", standing(Cut))
	if r := report(t, c).Neighbors[0]; r.TheirReason == "" || r.TheirLimit != Owed(1000, 1) || r.TheirRestore <= Owed(300, 1) || r.TheirRestore > Owed(1100, 1) {
		t.Errorf("c is told: %s, limit %v, pay %v", r.TheirReason, r.TheirLimit, r.TheirRestore)
	}
	if err := n2.Admit(1); !errors.Is(err, ErrDue) {
		t.Errorf("Admit = %v, want ErrDue", err)
	}
	flushBoth(t, c, b)
	if _, err := c.plan(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c is served again", standing(Active))
	if err := n2.Admit(1); err != nil {
		t.Errorf("after paying: %v", err)
	}
	if got := l2.ends[1].rate.Load(); got != 0 {
		t.Errorf("after paying c is carried at %d cells a second", got)
	}
}

// TestPayTwice: a claim that is repeated is credited once, and what a neighbor
// confirms beyond what was owed is paid ahead, by its own word.
func TestPayTwice(t *testing.T) {
	a, b := openBook(t, 1, func(c *Config) { c.Account = true }), openBook(t, 2, func(c *Config) { c.Account = true })
	l := join(t, a, b)
	l.run()
	defer l.cut()
	l.ends[1].send(TheyPay, 1, 1000)
	eventually(t, "all cells are counted", l.drained)
	flushBoth(t, a, b)
	owed := report(t, a).Neighbors[0].WeOwe
	if _, err := a.plan(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.ends[0].n.pay(WayAccount, payBody(payClaim, int64(owed)))
	}
	eventually(t, "the payment is confirmed", func() bool { return report(t, a).Neighbors[0].InTransit == 0 })
	flushBoth(t, a, b)
	if s := sums(t, b); s[accReceived] != owed || s[accReceivable] != 0 {
		t.Errorf("received %v and still due %v, want %v and 0", s[accReceived], s[accReceivable], owed)
	}
	l.ends[1].n.pay(WayAccount, payBody(payConfirm, int64(owed)+5))
	eventually(t, "it is paid ahead", func() bool { return report(t, a).Neighbors[0].WeOwe == -5 })
	sums(t, a) // the ledger fits together
}

// TestPayFlood: what a neighbor can make wait for our disk is bounded.
func TestPayFlood(t *testing.T) {
	a, b := openBook(t, 1, func(c *Config) { c.Account = true }), openBook(t, 2, func(c *Config) { c.Account = true })
	l := join(t, a, b)
	l.run()
	defer l.cut()
	n := l.ends[1].n
	flushBoth(t, a, b)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	b.ledger.enqueue(func(*tx) error { <-hold; return nil }, func(error) {}) // a slow disk
	msg := append([]byte{kindPay, byte(WayAccount)}, payBody(payClaim, 5)...)
	for range maxPays {
		if err := n.Message(msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Message(msg); !errors.Is(err, ErrMessage) {
		t.Errorf("message %d at a time: %v, want ErrMessage", maxPays+1, err)
	}
	release()
	for _, bad := range [][]byte{
		{kindPay}, {kindPay, byte(WayDirect)}, {kindPay, byte(WayAccount)}, append([]byte{kindPay, byte(WayAccount)}, payBody(3, 5)...),
		append([]byte{kindPay, byte(WayAccount)}, payBody(payClaim, 0)...), append([]byte{kindPay, byte(WayAccount)}, payBody(payClaim, -1)...),
		append(msg[:len(msg):len(msg)], 0),
	} {
		if err := n.Message(bad); !errors.Is(err, ErrMessage) {
			t.Errorf("Message(%x) = %v, want ErrMessage", bad, err)
		}
	}
}

// TestMigration opens a ledger of schema 1 with a debt in it.
func TestMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	id := testID(9)
	for _, q := range []string{
		schema, "INSERT INTO meta VALUES ('schema', '1')",
		"INSERT INTO journal VALUES (1, 1700000000, 'charge', '1/0/1')",
		"INSERT INTO posting VALUES (1, 'spent', 1, 1000000), (1, 'payable', 1, -1000000)",
		"INSERT INTO lot VALUES (1, 1, 0, 1700000000, 1000000, 1000000, 1)",
		"INSERT INTO total VALUES (1, 1, 0, 1, 1048576, 0)",
	} {
		if q[:7] == "INSERT " && q[12:19] == "journal" {
			if _, err := db.ExecContext(t.Context(), "INSERT INTO neighbor (id, node) VALUES (1, ?)", id[:]); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		b, err := Open(Config{Path: path, Self: testID(1), Account: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := report(t, b).Neighbors[0].WeOwe; got != 1_000_000 {
			t.Errorf("owed after the migration: %v", got)
		}
		if err := b.ledger.update(t.Context(), func(x *tx) error {
			_, err := x.promise(b.peers[id], 10)
			if err != nil {
				return err
			}
			return errors.New("undo")
		}); err == nil || err.Error() != "undo" {
			t.Errorf("a payment in the migrated ledger: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if db, err = sql.Open("sqlite", path); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "UPDATE meta SET value = '99' WHERE key = 'schema'"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := Open(Config{Path: path, Self: testID(1)}); err == nil {
		t.Errorf("a ledger of a newer program was opened: %v", b.Close())
	}
}
