package session

import (
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/session/sessiontest"
)

// TestAttachedByChance: how long after a carrier's end the session attaches to another
// is drawn each time, also when links come up before and meanwhile, which the one who
// ended it may bring about.
func TestAttachedByChance(t *testing.T) {
	const ends = 20
	for _, tt := range []struct {
		name              string
		before, meanwhile bool // Retry is called
	}{{"no link comes up", false, false}, {"one before", true, false}, {"one meanwhile", false, true}, {"both", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attached time.Time // the last; written by roads.make, read when all is quiet
				r := travel(t, serving(t, func(c *memConn) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) }), Config{}, func(r *roads) {
					r.change = func(int, *sessiontest.Carrier, *sessiontest.Carrier) { attached = time.Now() }
				})
				st, err := r.client.DialTCP(t.Context(), somewhere)
				if err != nil {
					t.Fatal(err)
				}
				defer st.Close()
				var took []time.Duration
				for i := range ends {
					if tt.before {
						r.client.Retry()
					}
					time.Sleep(time.Second)
					start := time.Now()
					r.up[i].Close()
					synctest.Wait()
					if tt.meanwhile {
						r.client.Retry()
					}
					time.Sleep(time.Second)
					synctest.Wait()
					took = append(took, attached.Sub(start))
				}
				if r.made() != 1+ends {
					t.Fatalf("%d carriers, want %d", r.made(), 1+ends)
				}
				slices.Sort(took)
				// Drawn evenly they are all within a third of the range once in 10^7 runs.
				if took[0] < 0 || took[ends-1] > attachDelay || took[ends-1]-took[0] < attachDelay/3 {
					t.Errorf("attached after %v, want times drawn from up to %v", took, attachDelay)
				}
			})
		})
	}
}

// TestRetryShortens: a session that has looked for a carrier in vain for long looks
// again soon when a link has come up.
func TestRetryShortens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var blocked atomic.Bool
		r := travel(t, serving(t, echo), Config{}, func(r *roads) {
			r.refuse = func(int) error {
				if blocked.Load() {
					return errors.New("no link")
				}
				return nil
			}
		})
		st, err := r.client.DialTCP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		for i := range 5 { // it may have been about to look
			blocked.Store(true)
			r.up[i].Close()
			time.Sleep(30 * time.Second)
			blocked.Store(false)
			r.client.Retry()
			time.Sleep(attachDelay)
			synctest.Wait()
			if r.made() != i+2 {
				t.Fatal("no carrier soon after a link has come up")
			}
			time.Sleep(time.Second)
		}
	})
}
