package exit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Limits bound what an exit does for one session (which is on one circuit at a
// time), for all that came over one neighbor, and for all together. Zero fields get
// the defaults named at each.
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

	PerNeighbor        int // connections of all sessions of one neighbor; three quarters of Connections
	NeighborRate       int // their new ones per second; three quarters of TotalRate. Three times as many at once
	QueriesPerNeighbor int // their queries at a time; three quarters of Queries
	NeighborQueryRate  int // the same per second; 1000. Four times as many at once
}

// Connections and queries are shared as a switch shares its buffer (Choudhury and
// Hahne, Dynamic Queue Length Thresholds, 1998): nobody gets another place who has as
// many as are left, or a quarter of those for queries. So one greedy session leaves
// half of the connections and four fifths of the queries to others. Sessions cost
// nothing, so those of one neighbor together get no further place when they have
// three times as many as are left: a quarter is for who comes over other neighbors,
// and each of k greedy ones gets 3/(3k+1).
const neighborPart = 3

func (l *Limits) defaults() {
	type field struct {
		v         *int
		otherwise int
	}
	fill := func(fields ...field) {
		for _, d := range fields {
			if *d.v <= 0 {
				*d.v = d.otherwise
			}
		}
	}
	fill(
		field{&l.Connections, 4096}, field{&l.PerSession, 1024}, field{&l.Rate, 100}, field{&l.Burst, 300},
		field{&l.TotalRate, 1000}, field{&l.TotalBurst, 3000},
		field{&l.Queries, 512}, field{&l.QueriesPerSession, 64}, field{&l.QueryRate, 100}, field{&l.QueryBurst, 400},
		field{&l.NeighborQueryRate, 1000},
	)
	part := func(n int) int { return max(1, n*3/4) }
	fill(field{&l.PerNeighbor, part(l.Connections)}, field{&l.NeighborRate, part(l.TotalRate)}, field{&l.QueriesPerNeighbor, part(l.Queries)})
}

// maxTurns bounds those who wait for a share, in shares.
const maxTurns = 4

var errTurns = errors.New("too many wait")

// share is a number of places of which each holder gets its part.
type share struct {
	total, each int
	part        int // nobody has more than what is left, divided by part
	near        int // a crowd's limit

	mu      sync.Mutex // guards the rest, and what holders and crowds have
	used    int
	waiting []*turn // in the order of their coming
}

// holder is somebody with places of a share, in a crowd of others.
type holder struct {
	used int
	near *crowd // nil: alone
}

// crowd is the places of the holders that came over one neighbor.
type crowd struct{ used, waiting int }

// turn is a place that a holder waits for.
type turn struct {
	by    *holder
	ready chan struct{} // closed when the place is given
}

// fits tells whether a holder may have one more of so many places that are left.
// Called with mu held.
func (s *share) fits(h *holder, left int) bool {
	if left < 1 || h.used >= min(s.each, (left+s.part-1)/s.part) {
		return false
	}
	return h.near == nil || h.near.used < min(s.near, neighborPart*left)
}

// short tells whether one more free place would help the holder: whether neither it
// nor its crowd is at its own limit.
func (s *share) short(h *holder) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used >= s.total && s.fits(h, s.total-s.used+1)
}

// crowded tells whether the holder would get a place if its crowd had one less.
func (s *share) crowded(h *holder) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.total - s.used
	return h.near != nil && !s.fits(h, left) && s.fits(&holder{used: h.used}, left) &&
		h.near.used-1 < min(s.near, neighborPart*(left+1))
}

// take takes a place, if the holder may have one more.
func (s *share) take(h *holder) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(h)
}

// get is take. Called with mu held.
func (s *share) get(h *holder) bool {
	if !s.fits(h, s.total-s.used) {
		return false
	}
	s.add(h, 1)
	return true
}

// add counts places of a holder. Called with mu held.
func (s *share) add(h *holder, n int) {
	s.used += n
	h.used += n
	if h.near != nil {
		h.near.used += n
	}
}

// wait takes a place as soon as the holder may have one more; those whose crowd has
// the fewest come first, and of these those with the fewest.
func (s *share) wait(ctx context.Context, h *holder) error {
	s.mu.Lock()
	if s.get(h) {
		s.mu.Unlock()
		return nil
	}
	if len(s.waiting) >= maxTurns*s.total || h.near != nil && h.near.waiting >= maxTurns*s.total/2 {
		s.mu.Unlock()
		return errTurns
	}
	t := &turn{h, make(chan struct{})}
	s.waiting = append(s.waiting, t)
	if h.near != nil {
		h.near.waiting++
	}
	s.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, t); i >= 0 {
		s.unqueue(i)
		return ctx.Err()
	}
	return nil // it was given meanwhile
}

// unqueue takes a turn out of the queue. Called with mu held.
func (s *share) unqueue(i int) {
	if near := s.waiting[i].by.near; near != nil {
		near.waiting--
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
}

// give puts a place back.
func (s *share) give(h *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(h, -1)
	for {
		next := -1
		for i, t := range s.waiting {
			if s.fits(t.by, s.total-s.used) && (next < 0 || t.by.before(s.waiting[next].by)) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		t := s.waiting[next]
		s.add(t.by, 1)
		s.unqueue(next)
		close(t.ready)
	}
}

// before tells whose turn is first.
func (h *holder) before(other *holder) bool {
	of := func(c *crowd) int {
		if c == nil {
			return 0
		}
		return c.used
	}
	if a, b := of(h.near), of(other.near); a != b {
		return a < b
	}
	return h.used < other.used
}

// move takes a holder, with what it has and waits for, from its crowd to another.
func (s *share) move(h *holder, to *crowd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := 0
	for _, t := range s.waiting {
		if t.by == h {
			waits++
		}
	}
	h.near.used -= h.used
	h.near.waiting -= waits
	to.used += h.used
	to.waiting += waits
	h.near = to
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
