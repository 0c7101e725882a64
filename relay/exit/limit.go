package exit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Limits bound what an exit does for one session (which is on one circuit at a
// time) and for all together. Zero fields get the defaults named at each.
type Limits struct {
	Connections int // sockets that are open or being opened, all sessions together; 4096
	PerSession  int // the same of one; 1024
	Rate        int // new sockets, and new peers of UDP sockets, per second of one session in the long run; 100
	Burst       int // the same at once; 300
	TotalRate   int // of all sessions; 1000
	TotalBurst  int // 3000

	Queries           int // DNS queries at a time, all sessions together; 512
	QueriesPerSession int // 64
	QueryRate         int // DNS queries per second of one session in the long run; 100
	QueryBurst        int // at once; 400
}

// Connections and queries are shared as a switch shares its buffer (Choudhury and
// Hahne, Dynamic Queue Length Thresholds, 1998): nobody gets another place who has as
// many as are left, or a quarter of those for queries. So one greedy session leaves
// half of the connections and four fifths of the queries to others.

func (l *Limits) defaults() {
	for _, d := range []struct {
		v         *int
		otherwise int
	}{
		{&l.Connections, 4096},
		{&l.PerSession, 1024},
		{&l.Rate, 100},
		{&l.Burst, 300},
		{&l.TotalRate, 1000},
		{&l.TotalBurst, 3000},
		{&l.Queries, 512},
		{&l.QueriesPerSession, 64},
		{&l.QueryRate, 100},
		{&l.QueryBurst, 400},
	} {
		if *d.v <= 0 {
			*d.v = d.otherwise
		}
	}
}

// maxTurns bounds those who wait for a share, in shares.
const maxTurns = 4

var errTurns = errors.New("too many wait")

// share is a number of places of which each holder gets its part.
type share struct {
	total, each int
	part        int // nobody has more than what is left, divided by part

	mu      sync.Mutex // guards the rest, and what holders have
	used    int
	waiting []*turn // in the order of their coming
}

// holder is somebody with places of a share.
type holder struct{ used int }

// turn is a place that a holder waits for.
type turn struct {
	by    *holder
	ready chan struct{} // closed when the place is given
}

// short tells whether one more free place would help the holder: whether it is not
// at its own limit.
func (s *share) short(h *holder) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used >= s.total && h.used < min(s.each, (s.total-s.used+s.part)/s.part)
}

// take takes a place, if the holder may have one more.
func (s *share) take(h *holder) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(h)
}

// get is take. Called with mu held.
func (s *share) get(h *holder) bool {
	if h.used >= min(s.each, (s.total-s.used+s.part-1)/s.part) {
		return false
	}
	h.used++
	s.used++
	return true
}

// wait takes a place as soon as the holder may have one more; those with the
// fewest come first.
func (s *share) wait(ctx context.Context, h *holder) error {
	s.mu.Lock()
	if s.get(h) {
		s.mu.Unlock()
		return nil
	}
	if len(s.waiting) >= maxTurns*s.total {
		s.mu.Unlock()
		return errTurns
	}
	t := &turn{h, make(chan struct{})}
	s.waiting = append(s.waiting, t)
	s.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, t); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return ctx.Err()
	}
	return nil // it was given meanwhile
}

// give puts a place back.
func (s *share) give(h *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.used--
	s.used--
	for len(s.waiting) > 0 {
		next := 0
		for i, t := range s.waiting {
			if t.by.used < s.waiting[next].by.used {
				next = i
			}
		}
		t := s.waiting[next]
		if !s.get(t.by) {
			return // the others have as many or more
		}
		s.waiting = slices.Delete(s.waiting, next, next+1)
		close(t.ready)
	}
}

// count is the number of places taken.
func (s *share) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// bucket limits a rate: burst at once, rate per second in the long run.
type bucket struct {
	rate, burst int

	mu     sync.Mutex // guards the rest
	tokens float64
	at     time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.tokens = float64(b.burst)
	} else {
		b.tokens = min(float64(b.burst), b.tokens+now.Sub(b.at).Seconds()*float64(b.rate))
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
