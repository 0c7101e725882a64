package processor

import (
	"context"
	"runtime"
	"testing"
	"time"
)

// TestLook wants more processors at once when they are busy, and fewer only after
// a while.
func TestLook(t *testing.T) {
	for _, c := range []struct {
		name  string
		from  chooser
		busy  float64
		looks int
		want  int
	}{
		{"idle", chooser{now: 1, most: 4}, 0, 100, 1},
		{"some work", chooser{now: 1, most: 4}, 0.4, 100, 1},
		{"much work", chooser{now: 1, most: 4}, 0.6, 1, 2},
		{"the same work on two", chooser{now: 2, most: 4}, 0.6, 100, 2},
		{"more work", chooser{now: 1, most: 4}, 1.2, 2, 3},
		{"all there is", chooser{now: 1, most: 4}, 4, 100, 4},
		{"one processor", chooser{now: 1, most: 1}, 1, 100, 1},
		{"a short rest", chooser{now: 2, most: 4}, 0.1, patience - 1, 2},
		{"a long rest", chooser{now: 2, most: 4}, 0.1, patience, 1},
		{"a very long rest", chooser{now: 4, most: 4}, 0.1, 3 * patience, 1},
	} {
		got := c.from
		for range c.looks {
			got.look(c.busy)
		}
		if got.now != c.want {
			t.Errorf("%s: %d processors after %d looks, want %d", c.name, got.now, c.looks, c.want)
		}
	}
	c := chooser{now: 2, most: 4}
	for range 10 * patience { // work in between is no rest
		c.look(0.1)
		c.look(0.5)
	}
	if c.now != 2 {
		t.Errorf("%d processors after many short rests, want 2", c.now)
	}
}

// TestAdapt wants one processor for a process without work, more only as far as
// Go would go by itself, and afterwards as many as before.
func TestAdapt(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	before := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(before)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Adapt(ctx) }() // ends with ctx
	for runtime.GOMAXPROCS(0) != 1 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	if got := runtime.GOMAXPROCS(0); got != 2 {
		t.Errorf("GOMAXPROCS %d after the end, want 2", got)
	}
}

// TestAsked wants a number that the environment gives to be kept.
func TestAsked(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	before := runtime.GOMAXPROCS(2)
	defer runtime.GOMAXPROCS(before)
	Adapt(t.Context())
	if got := runtime.GOMAXPROCS(0); got != 2 {
		t.Errorf("GOMAXPROCS %d, want 2", got)
	}
}

// TestUsed wants the clock of the process's work to move with work.
func TestUsed(t *testing.T) {
	for start := used(); used()-start < 20*time.Millisecond; {
		runtime.Gosched()
	}
}
