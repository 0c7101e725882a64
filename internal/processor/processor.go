// Package processor decides how this process takes processors: on how many it runs Go code at
// a time (GOMAXPROCS; on as few as its work needs), and that it waits for its turn. A node's work is handed from
// goroutine to goroutine in short pieces. On one processor that costs next to
// nothing, and what comes meanwhile is sent together; on several each hand-over
// wakes a thread, which took up to as much time again as the work itself
// (docs/performance.md).
//
// It is the whole process's setting, so cmd/cuttled alone uses it, once.
package processor

import (
	"context"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Tunables. Half of what is in use is left free: a processor that is never idle
// looks at the network late.
const (
	period   = 250 * time.Millisecond // between two looks
	high     = 0.5                    // of the processors in use were busy: one more
	low      = 0.35                   // of what would be left: one less,
	patience = 20                     // when so many looks in a row say so: a change costs what is pooled
)

// Adapt starts with one processor and takes more, up to as many as Go wants to
// use by itself, while they are busy. It returns when ctx ends, and at once if the
// environment says how many it should be. The rest of the process's life goes
// on with the number that Go chose.
func Adapt(ctx context.Context) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	most := runtime.GOMAXPROCS(0)
	if most == 1 {
		return
	}
	defer runtime.GOMAXPROCS(most)
	tick := time.NewTicker(period)
	defer tick.Stop()
	c := chooser{now: 1, most: most}
	runtime.GOMAXPROCS(c.now)
	at, before := time.Now(), used()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t, u := time.Now(), used()
		if c.look(float64(u-before) / float64(max(t.Sub(at), 1))) {
			runtime.GOMAXPROCS(c.now)
		}
		at, before = t, u
	}
}

// chooser is the number of processors in use, and for how many looks it has been
// too large.
type chooser struct{ now, most, calm int }

// look takes how many processors were busy lately, on average, and tells whether
// the number has changed.
func (c *chooser) look(busy float64) bool {
	if busy >= low*float64(c.now-1) {
		c.calm = 0
	} else {
		c.calm++
	}
	switch {
	case busy > high*float64(c.now) && c.now < c.most:
		c.now++
	case c.calm >= patience:
		c.now--
		c.calm = 0
	default:
		return false
	}
	return true
}

// used is the processor time that the process has taken so far, in the kernel too.
func used() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0 // it cannot fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
