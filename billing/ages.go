package billing

import (
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Tunables of ages.
const (
	maxJump   = 5 * time.Minute // by which the wall clock may part from the time that has passed
	calmScans = 2               // scans after a jump before debts age again
	saveEvery = time.Minute
)

// ages are the clocks that debts age by, one for each side of a lot: Unix
// seconds at the ledger's beginning, and from then on time that this program has
// run, by a monotonic clock. So a wall clock that is set does not make a debt
// older or younger. What we owe ages while the program is off, too: that it pays
// early harms nobody. What others owe us does not, and neither while frozen.
//
// Frozen means that what we know of payments may be out of date: the chain has
// not been seen for two scans, or the wall clock has jumped. Then nobody is cut
// off who was not, up to twice its limit.
type ages struct {
	now      func() time.Time
	up       func() time.Duration
	patience time.Duration // without a look at the chain; 0: there is no chain

	mu     sync.Mutex // guards the fields below
	at     [2]time.Duration
	ran    time.Duration // up, and
	wall   time.Time     // the wall clock, when at was right
	seen   time.Duration // up, when the chain was seen last
	looked bool          // it was, in this run
	calm   int           // scans that have to pass
	saved  time.Duration // up, when the clocks were written down
}

func newAges(now func() time.Time) *ages {
	start := time.Now()
	return &ages{now: now, up: func() time.Duration { return time.Since(start) }}
}

// load begins where the ledger was left.
func (a *ages) load(x *tx) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	wall := a.now().Round(0) // without the monotonic reading, which no jump shows in
	a.ran, a.wall = a.up(), wall
	a.saved = a.ran
	a.at = [2]time.Duration{sinceEpoch(wall), sinceEpoch(wall)}
	var last time.Duration
	for key, to := range map[string]*time.Duration{"age/0": &a.at[sidePayable], "age/1": &a.at[sideReceivable], "age/wall": &last} {
		var v string
		found, err := x.one("SELECT value FROM meta WHERE key = ?", []any{key}, &v)
		if err != nil {
			return err
		}
		if !found {
			return a.write(x)
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return fmt.Errorf("meta %s: %w", key, err)
		}
		*to = time.Duration(n) * time.Second
	}
	switch off := sinceEpoch(wall) - last; {
	case off >= 0:
		a.at[sidePayable] += off
	case off < -maxJump:
		a.calm = calmScans
	}
	return a.write(x)
}

func sinceEpoch(t time.Time) time.Duration { return time.Duration(t.Unix()) * time.Second }

// write puts the clocks into the ledger. mu is held.
func (a *ages) write(x *tx) error {
	for key, v := range map[string]time.Duration{"age/0": a.at[sidePayable], "age/1": a.at[sideReceivable], "age/wall": sinceEpoch(a.wall)} {
		if err := x.exec("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, strconv.FormatInt(int64(v/time.Second), 10)); err != nil {
			return err
		}
	}
	return nil
}

// save is write for whoever has a transaction.
func (a *ages) save(x *tx) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advance()
	return a.write(x)
}

// stale tells, once a minute, that the clocks are to be saved.
func (a *ages) stale() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advance()
	if a.ran-a.saved < saveEvery {
		return false
	}
	a.saved = a.ran
	return true
}

// advance moves the clocks on. mu is held.
func (a *ages) advance() {
	up, wall := a.up(), a.now().Round(0)
	ran := up - a.ran
	if (wall.Sub(a.wall) - ran).Abs() > maxJump {
		a.calm = calmScans
	}
	a.ran, a.wall = up, wall
	a.at[sidePayable] += ran
	if !a.blind() {
		a.at[sideReceivable] += ran
	}
}

// blind is frozen with mu held.
func (a *ages) blind() bool {
	return a.calm > 0 || a.patience > 0 && (!a.looked || a.ran-a.seen > a.patience)
}

// read is the time by one side's clock.
func (a *ages) read(side int) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advance()
	return time.Unix(int64(a.at[side]/time.Second), 0)
}

// frozen tells whether debts to us do not age.
func (a *ages) frozen() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advance()
	return a.blind()
}

// sighted notes that the chain has been read.
func (a *ages) sighted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advance()
	a.seen, a.looked = a.ran, true
}

// scanned notes a scan without an error.
func (a *ages) scanned() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.advance()
	a.calm = max(0, a.calm-1)
}
