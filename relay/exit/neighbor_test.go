package exit

import (
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// greedy takes all that many sessions of one neighbor can get.
func greedy(e *Exit, from wire.NodeID) (places int) {
	for range 100 {
		for c := e.Circuit(from); e.places.take(&c.places); places++ {
		}
	}
	return places
}

// TestNeighborShares: those who open many sessions over one neighbor leave room for
// those who come over others.
func TestNeighborShares(t *testing.T) {
	const all = 4096
	for _, many := range []int{1, 2, 5} {
		e := newBareExit(t, Config{Limits: Limits{Connections: all, PerSession: all}})
		places := make([]int, many)
		for took := true; took; {
			took = false
			for i := range places {
				if c := e.Circuit(wire.NodeID{1, byte(i)}); e.places.take(&c.places) {
					took = true
					places[i]++
				}
			}
		}
		for i, got := range places {
			if want := neighborPart * all / (neighborPart*many + 1); got < want-many || got > want+many {
				t.Errorf("number %d of %d greedy neighbors got %d places of %d, want about %d", i+1, many, got, all, want)
			}
		}
		c, got := e.Circuit(wire.NodeID{2}), 0
		for e.places.take(&c.places) {
			got++
		}
		if want := all / (neighborPart*many + 1) / 2; got < want-many {
			t.Errorf("beside %d greedy neighbors a session of another got %d places of %d, want about %d", many, got, all, want)
		}
	}
}

// TestNeighborLimits: what is configured for a neighbor bounds its sessions together.
func TestNeighborLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no token comes back
		e := newBareExit(t, Config{Limits: Limits{PerNeighbor: 10, NeighborRate: 20, NeighborQueryRate: 2, QueriesPerNeighbor: 5}})
		if got := greedy(e, wire.NodeID{1}); got != 10 {
			t.Errorf("%d places of one neighbor, want 10", got)
		}
		opened, echoes, asked := 0, 0, 0
		for range 100 {
			c := e.Circuit(wire.NodeID{3})
			for range 30 {
				if c.paced() {
					opened++
				}
				if c.echo.take(time.Now()) && c.near.Load().echo.take(time.Now()) {
					echoes++
				}
				if c.asking.take(time.Now()) && c.near.Load().asking.take(time.Now()) {
					asked++
				}
			}
		}
		if opened != 60 || echoes != 2*neighborEcho || asked != 8 {
			t.Errorf("at once over one neighbor: %d opened, %d echoes, %d asked; want 60, %d, 8", opened, echoes, asked, 2*neighborEcho)
		}
		c, n := someone(e), 0
		for range 100 {
			if c.paced() {
				n++
			}
		}
		if n != 60 {
			t.Errorf("over another neighbor: %d opened, want 60", n)
		}
		var some []*Circuit
		for range 8 {
			c := e.Circuit(wire.NodeID{4})
			some = append(some, c)
			_ = e.queries.take(&c.questions)
		}
		if got := some[0].near.Load().questions.used; got != 5 {
			t.Errorf("%d questions at a time of one neighbor, want 5", got)
		}
	})
}

// TestNeighborTurns: who waits for a place behind many of one neighbor does not wait
// until those have had theirs, and they do not fill the queue.
func TestNeighborTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newBareExit(t, Config{Limits: Limits{Queries: 8}})
		s := &e.queries
		many, one := wire.NodeID{1}, wire.NodeID{2}
		var have []*Circuit
		for range 100 {
			if c := e.Circuit(many); s.take(&c.questions) {
				have = append(have, c)
			}
		}
		if len(have) != 6 {
			t.Fatalf("%d places of one neighbor, want 6 of 8", len(have))
		}
		a, b := e.Circuit(one), e.Circuit(one)
		if !s.take(&a.questions) || !s.take(&b.questions) {
			t.Fatal("no place for another neighbor")
		}
		got, tooMany := make(chan wire.NodeID, 64), make(chan error, 64)
		wait := func(from wire.NodeID) {
			c := e.Circuit(from)
			go func() { // ends with a place, or when too many wait
				if err := s.wait(t.Context(), &c.questions); err != nil {
					tooMany <- err
					return
				}
				got <- from
				s.give(&c.questions)
			}()
			synctest.Wait()
		}
		for range 20 {
			wait(many)
		}
		wait(one)
		if len(s.waiting) != 17 || len(tooMany) != 4 {
			t.Errorf("%d wait and %d may not, want 16 of one neighbor and 1 of another, and 4", len(s.waiting), len(tooMany))
		}
		s.give(&have[0].questions)
		synctest.Wait()
		if len(got) != 1 || <-got != one {
			t.Error("a neighbor with many places was served before one with few")
		}
		for _, c := range append(have[1:], a, b) {
			s.give(&c.questions)
		}
		synctest.Wait()
		if len(got) != 16 {
			t.Errorf("%d were served in the end, want 16", len(got))
		}
		if n := e.neighbors[many].questions; n.waiting != 0 || n.used != 0 || s.count() != 0 {
			t.Errorf("at the end %d places taken, %d and %d counted for a neighbor; want none", s.count(), n.used, n.waiting)
		}
	})
}

// TestNeighborChanges: what a session has counts for the neighbor that it comes over
// now, and a neighbor is forgotten with its last session.
func TestNeighborChanges(t *testing.T) {
	e := newBareExit(t, Config{})
	a, b := wire.NodeID{1}, wire.NodeID{2}
	first, second := e.Circuit(a), e.Circuit(a)
	for range 5 {
		if !e.places.take(&first.places) || !e.queries.take(&first.questions) {
			t.Fatal("no place")
		}
	}
	first.Move(b)
	e.places.give(&first.places)
	if x, y := e.neighbors[a], e.neighbors[b]; x.places.used != 0 || y.places.used != 4 || x.questions.used != 0 || y.questions.used != 5 || x.sessions != 1 || y.sessions != 1 {
		t.Errorf("after the move: %+v and %+v, want everything at the second", x, y)
	}
	for range 4 {
		e.places.give(&first.places)
	}
	for range 5 {
		e.queries.give(&first.questions)
	}
	first.Leave()
	second.Leave()
	if len(e.neighbors) != 0 || e.places.count() != 0 || e.queries.count() != 0 {
		t.Errorf("at the end %d neighbors, %d places and %d questions; want none", len(e.neighbors), e.places.count(), e.queries.count())
	}
}
