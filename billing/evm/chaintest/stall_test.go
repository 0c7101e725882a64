package chaintest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cuttle/billing"
)

// TestStalledFinality: the chain goes on and calls nothing new final, so payments are
// not credited. Debts do not age then, from the beginning on and after two scans.
func TestStalledFinality(t *testing.T) {
	c := startChain(t)
	c.commit(40) // a block in 32 is called final
	began := time.Now().Round(0)
	var ahead atomic.Int64
	up := func() time.Duration { return time.Since(began) + time.Duration(ahead.Load()) }
	a, b, p := pair(t, c, c.url, func(s *setup) {
		s.finality.Tag = "finalized"
		s.change = func(cfg *billing.Config) {
			cfg.Up, cfg.Now, cfg.ScanEvery = up, func() time.Time { return began.Add(up()) }, time.Hour
		}
	})
	p.use(billing.WePay, 10, mega) // b is owed, so it looks at the chain all the time
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(a.book.Flush(ctx), b.book.Flush(ctx), a.book.Flush(ctx)); err != nil {
		t.Fatal(err)
	}
	p.cut()
	sees := func(what string, frozen, stalled bool) {
		t.Helper()
		c.commit(1)
		head := c.head()
		eventually(t, what, func() error {
			r, n, err := neighbor(b.book)
			switch {
			case err != nil:
				return err
			case n.TheyOwe <= 0:
				return errors.New("nothing is owed")
			case r.Head < head || r.Frozen != frozen || strings.Contains(strings.Join(r.Problems, "\n"), "has called no block after") != stalled:
				return fmt.Errorf("head %d of %d, frozen %v, problems %q", r.Head, head, r.Frozen, r.Problems)
			}
			return nil
		})
	}
	sees("a first look says nothing of whether it moves", true, false)
	c.commit(32)
	sees("it moves", false, false)
	for range 50 { // in steps that are no jump of the clock, each of them seen
		ahead.Add(int64(4 * time.Minute))
		if _, _, err := neighbor(b.book); err != nil {
			t.Fatal(err)
		}
	}
	sees("it has not moved for hours", true, true)
	c.commit(32)
	sees("it moves again", false, false)
}
