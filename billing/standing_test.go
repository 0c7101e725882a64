package billing

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// clocked is a Book's two clocks in a test's hands.
type clocked struct{ up, wall atomic.Int64 } // seconds

func (c *clocked) pass(d time.Duration) {
	c.up.Add(int64(d / time.Second))
	c.wall.Add(int64(d / time.Second))
}

func (c *clocked) jump(d time.Duration) { c.wall.Add(int64(d / time.Second)) }

func (c *clocked) config(path string) func(*Config) {
	return func(k *Config) {
		if path != "" {
			k.Path = path
		}
		k.Account = true
		k.Now = func() time.Time { return time.Unix(c.wall.Load(), 0) }
		k.Up = func() time.Duration { return time.Duration(c.up.Load()) * time.Second }
	}
}

func newClocked() *clocked {
	c := new(clocked)
	c.wall.Store(1_800_000_000)
	return c
}

func TestAssess(t *testing.T) {
	c := Config{Credit: 8000, CreditStart: 1600, DueAfter: 48 * time.Hour}
	const big = Amount(1) << 40
	for _, tt := range []struct {
		name string
		in   evidence
		want state
	}{
		{"nothing", evidence{limit: 1600, pot: big}, state{Active, ReasonNone, 0, 1600, 0}},
		{"at three quarters", evidence{limit: 1600, pot: big, owed: 1200}, state{Active, ReasonNone, 1200, 1600, 0}},
		{"warned", evidence{limit: 1600, pot: big, owed: 1201}, state{Warned, ReasonCredit, 1201, 1600, 1}},
		{"throttled", evidence{limit: 1600, pot: big, owed: 1401}, state{Throttled, ReasonCredit, 1401, 1600, 201}},
		{"cut", evidence{limit: 1600, pot: big, owed: 1601}, state{Cut, ReasonCredit, 1601, 1600, 401}},
		{"frozen is not cut", evidence{limit: 1600, pot: big, owed: 3200, frozen: true}, state{Throttled, ReasonCredit, 3200, 1600, 2000}},
		{"frozen is cut at twice", evidence{limit: 1600, pot: big, owed: 3201, frozen: true}, state{Cut, ReasonCredit, 3201, 1600, 2001}},
		{"old enough", evidence{limit: 1600, pot: big, owed: 1000, age: 48 * time.Hour}, state{Active, ReasonNone, 1000, 1600, 0}},
		{"half way to dust", evidence{limit: 1600, pot: big, owed: 700, age: 72 * time.Hour}, state{Warned, ReasonAge, 700, 850, 64}},
		{"older", evidence{limit: 1600, pot: big, owed: 1000, age: 72 * time.Hour}, state{Cut, ReasonAge, 1000, 850, 364}},
		{"very old", evidence{limit: 1600, pot: big, owed: 101, age: 500 * time.Hour}, state{Cut, ReasonAge, 101, 100, 26}},
		{"old dust", evidence{limit: 1600, pot: big, owed: 75, age: 500 * time.Hour}, state{Active, ReasonNone, 75, 1600, 0}},
		{"frozen does not age", evidence{limit: 1600, pot: big, owed: 1000, age: 500 * time.Hour, frozen: true}, state{Active, ReasonNone, 1000, 1600, 0}},
		{"strangers", evidence{limit: 1600, pot: 400, owed: 310}, state{Warned, ReasonStrangers, 310, 400, 10}},
		{"no room for strangers", evidence{limit: 1600, pot: 0}, state{Cut, ReasonStrangers, 0, 0, 0}},
		{"pardoned", evidence{limit: 1600, pot: big, owed: 3000, pardoned: 2000}, state{Active, ReasonNone, 3000, 3600, 0}},
		{"pardoned and cut", evidence{limit: 1600, pot: big, owed: 3601, pardoned: 2000}, state{Cut, ReasonCredit, 3601, 3600, 401}},
		{"paid ahead", evidence{limit: 1600, pot: big, owed: -50, age: 0}, state{Active, ReasonNone, -50, 1600, 0}},
		{"no way to pay", evidence{limit: 1600, pot: big, unpayed: true}, state{Cut, ReasonNoSettlement, 0, 1600, 0}},
		{"an empty wallet", evidence{limit: 1600, pot: big, owed: 9, broke: true}, state{Cut, ReasonFunds, 9, 1600, 0}},
		{"disputed", evidence{limit: 1600, pot: big, disputed: true, unpayed: true, owed: 9}, state{Disputed, ReasonCounts, 9, 1600, 0}},
		{"free", evidence{limit: 1600, pot: 0, free: true, owed: 99999}, state{Active, ReasonNone, 99999, 0, 0}},
	} {
		if got := c.assess(&tt.in); got.state != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got.state, tt.want)
		}
	}
}

// TestDue: what we owe is paid at once above the threshold, in the end however
// little it is, and on a line between.
func TestDue(t *testing.T) {
	c := Config{SettleAbove: 1000, SettleAfter: 24 * time.Hour}
	for age, want := range map[time.Duration]Amount{
		0: 1000, 6 * time.Hour: 750, 12 * time.Hour: 500, 23 * time.Hour: 42, 24 * time.Hour: 0, 999 * time.Hour: 0,
	} {
		if got := c.due(age); got != want {
			t.Errorf("due at %v above %d, want %d", age, got, want)
		}
	}
}

// debt has a neighbor owe for so many cells of tier 1, agreed.
func debt(t *testing.T, b *Book, id wire.NodeID, payer Payer, cells wire.Cells) *peer {
	t.Helper()
	p, err := b.peer(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ledger.update(t.Context(), func(x *tx) error {
		sum, err := x.totals(p.row)
		if err != nil {
			return err
		}
		sum[Sent][payer][1] += cells
		return x.setTotals(p, &sum)
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

// claim books that a neighbor has paid so much in all.
func claim(t *testing.T, b *Book, p *peer, cum Amount) {
	t.Helper()
	if err := b.ledger.update(t.Context(), func(x *tx) error {
		_, err := x.claimed(p.row, int64(cum))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func standing(t *testing.T, b *Book, id wire.NodeID) NeighborReport {
	t.Helper()
	for _, n := range report(t, b).Neighbors {
		if n.Node == id {
			return n
		}
	}
	t.Fatal("no such neighbor in the report")
	return NeighborReport{}
}

// TestDustResetsNothing: a debt that is paid off in crumbs stays as old as its
// oldest part, on both sides and over a restart, and is called in.
func TestDustResetsNothing(t *testing.T) {
	clock, path := newClocked(), filepath.Join(t.TempDir(), "ledger.db")
	open := func() *Book {
		c := Config{Self: testID(1), CreditStart: Owed(16000, 1)}
		clock.config(path)(&c)
		b, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	id := testID(2)
	p := debt(t, b, id, TheyPay, 8000)
	debt(t, b, id, WePay, 8000)
	for hour := range 80 {
		clock.pass(time.Hour)
		claim(t, b, p, Amount(hour+1))
		if hour%20 == 19 { // between, a restart
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			b = open()
			p = b.peers[id]
		}
		if r := standing(t, b, id); (r.Standing == Active) != (hour+1 <= 65) {
			t.Fatalf("after %d hours of crumbs: %v, owes %v of %v", hour+1, r.Standing, r.TheyOwe, r.Limit)
		}
	}
	r := standing(t, b, id)
	if r.Standing != Cut || r.Reason != ReasonAge.String() || r.Restore <= 0 {
		t.Errorf("after 80 hours: %v, %q, %v restores; want cut for its age", r.Standing, r.Reason, r.Restore)
	}
	if age, err := b.ledger.ageOf(t.Context(), p.row); err != nil || age < 79*time.Hour || age > 80*time.Hour {
		t.Errorf("what we owe is %v old (%v), want 80 hours", age, err)
	}
	claim(t, b, p, 80+r.Restore)
	if r := standing(t, b, id); r.Standing != Active {
		t.Errorf("after paying what restores: %v, %q, owes %v of %v", r.Standing, r.Reason, r.TheyOwe, r.Limit)
	}
	if err := errors.Join(b.ledger.update(t.Context(), func(x *tx) error { return x.verify() }), b.Close()); err != nil {
		t.Error(err)
	}
}

// TestClockJump: a wall clock that is set, either way and by years, makes no debt
// older or younger; until two scans have passed nobody is cut off.
func TestClockJump(t *testing.T) {
	for _, by := range []time.Duration{1000 * 24 * time.Hour, -1000 * 24 * time.Hour, 6 * time.Minute, -6 * time.Minute} {
		clock := newClocked()
		b := openBook(t, 1, func(c *Config) { clock.config("")(c); c.CreditStart = Owed(1000, 1) })
		id := testID(2)
		p := debt(t, b, id, TheyPay, 1200)
		debt(t, b, id, WePay, 500)
		if r := standing(t, b, id); r.Standing != Cut {
			t.Fatalf("before the jump: %v", r.Standing)
		}
		clock.pass(time.Hour)
		_ = b.ledger.ages.frozen() // looks at the clocks, as Run does each second
		clock.jump(by)
		r := report(t, b)
		if n := standing(t, b, id); !r.Frozen || n.Standing != Throttled {
			t.Errorf("after a jump of %v: frozen %v, %v; want throttled", by, r.Frozen, n.Standing)
		}
		if age, err := b.ledger.ageOf(t.Context(), p.row); err != nil || age != time.Hour {
			t.Errorf("after a jump of %v what we owe is %v old (%v), want an hour", by, age, err)
		}
		clock.pass(time.Hour) // not counted: frozen
		b.ledger.ages.scanned()
		if !report(t, b).Frozen {
			t.Errorf("after a jump of %v one scan is enough", by)
		}
		b.ledger.ages.scanned()
		clock.pass(time.Hour)
		e := b.evidence(p, 1)
		if n := standing(t, b, id); n.Standing != Cut || e.age != 2*time.Hour || e.frozen {
			t.Errorf("two scans after a jump of %v: %v, the debt is %v old; want cut and 2h", by, n.Standing, e.age)
		}
		clock.jump(time.Minute)
		if report(t, b).Frozen {
			t.Error("a clock that is set by a minute freezes")
		}
	}
}

// TestAgesOverRestart: while the program is off what we owe grows older, what we
// are owed does not; a wall clock that goes back meanwhile freezes.
func TestAgesOverRestart(t *testing.T) {
	clock, path := newClocked(), filepath.Join(t.TempDir(), "ledger.db")
	cfg := Config{Self: testID(1)}
	clock.config(path)(&cfg)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := debt(t, b, testID(2), TheyPay, 1000)
	debt(t, b, testID(2), WePay, 1000)
	clock.pass(2 * time.Hour)
	for _, step := range []struct {
		off     time.Duration
		theirs  time.Duration
		ours    time.Duration
		frozen  bool
		running time.Duration
	}{{10 * time.Hour, 2 * time.Hour, 12 * time.Hour, false, time.Hour}, {-50 * time.Hour, 3 * time.Hour, 13 * time.Hour, true, 0}} {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		clock.jump(step.off)
		if b, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		p = b.peers[p.id]
		age, err := b.ledger.ageOf(t.Context(), p.row)
		if e := b.evidence(p, 1); err != nil || e.age != step.theirs || age != step.ours || e.frozen != step.frozen {
			t.Errorf("off for %v: what they owe is %v old, what we owe %v, frozen %v (%v); want %v, %v, %v", step.off, e.age, age, e.frozen, err, step.theirs, step.ours, step.frozen)
		}
		clock.pass(step.running)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFrozenWithoutChain: nobody is cut off or grows older while the chain has not
// been read for two scans, but twice the limit is the end all the same.
func TestFrozenWithoutChain(t *testing.T) {
	clock := newClocked()
	b := openBook(t, 1, func(c *Config) { clock.config("")(c); c.CreditStart = Owed(1000, 1) })
	b.ledger.ages.patience = 2 * time.Hour // as with a chain
	id := testID(2)
	p := debt(t, b, id, TheyPay, 1200)
	check := func(what string, want Standing, age time.Duration) {
		t.Helper()
		if r := standing(t, b, id); r.Standing != want {
			t.Errorf("%s: %v, want %v", what, r.Standing, want)
		}
		if e := b.evidence(p, 1); e.age != age {
			t.Errorf("%s: the debt is %v old, want %v", what, e.age, age)
		}
	}
	clock.pass(time.Hour)
	check("before the first look", Throttled, 0)
	b.ledger.ages.sighted()
	clock.pass(time.Hour)
	check("the chain was seen", Cut, time.Hour)
	clock.pass(2 * time.Hour)
	check("the chain has been out of sight", Throttled, time.Hour)
	debt(t, b, id, TheyPay, 801)
	check("twice the limit", Cut, time.Hour)
	b.ledger.ages.sighted()
	check("seen again", Cut, time.Hour)
	claim(t, b, p, Owed(2001, 1))
	check("paid", Active, 0)
}

// TestUnban: an operator lets a debt pass. It stays owed, what is paid makes that
// smaller, and the neighbor may owe its limit beside it, over a restart too.
func TestUnban(t *testing.T) {
	clock, path := newClocked(), filepath.Join(t.TempDir(), "ledger.db")
	cfg := Config{Self: testID(1), CreditStart: Owed(1000, 1)}
	clock.config(path)(&cfg)
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	id := testID(2)
	debt(t, b, id, TheyPay, 1500)
	clock.pass(200 * time.Hour)
	check := func(what string, want Standing, owed wire.Cells) {
		t.Helper()
		if r := standing(t, b, id); r.Standing != want || (r.TheyOwe-Owed(owed, 1)).abs() > 2 {
			t.Errorf("%s: %v, owes %v, want %v and %v", what, r.Standing, r.TheyOwe, want, Owed(owed, 1))
		}
	}
	check("before", Cut, 1500)
	if err := b.Unban(context.Background(), testID(7)); err == nil {
		t.Error("somebody who is not there is let in")
	}
	if err := b.Unban(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	check("let in", Active, 1500)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	check("after a restart", Active, 1500)
	debt(t, b, id, TheyPay, 700)
	check("within its limit beside", Active, 2200)
	debt(t, b, id, TheyPay, 350)
	check("beyond it", Cut, 2550)
	claim(t, b, b.peers[id], Owed(1550, 1)) // all that was let pass, and a bit
	check("has paid", Active, 1000)
	if got := b.peers[id].pardoned.Load(); got > int64(Owed(1000, 1))+1 {
		t.Errorf("%d is let pass still", got)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func (a Amount) abs() Amount { return max(a, -a) }
