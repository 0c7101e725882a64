package circuit

import (
	"time"

	"cuttle/relay/link"
	"cuttle/relay/wire"
)

// share is what one neighbor takes of this relay. Idle circuits cost no more than their
// place, so a neighbor may have only as many as are free besides: half of all places at
// most, when nobody else has any, and there is always a place for the next neighbor.
type share struct {
	creates *bucket
	extends *bucket
	open    int                 // circuits
	onward  map[wire.NodeID]int // of these, by the neighbor of ours that they lead to
}

// idle tells whether it says nothing any more.
func (x *share) idle(now time.Time) bool {
	x.creates.refill(now)
	x.extends.refill(now)
	return x.open == 0 && x.creates.full() && x.extends.full()
}

// shareOf finds a neighbor's share, or makes one; nil: there are too many. Called with
// mu held.
func (s *Switch) shareOf(id wire.NodeID, now time.Time) *share {
	x := s.shares[id]
	if x != nil {
		return x
	}
	if len(s.shares) >= maxNeighbors {
		for id, x := range s.shares {
			if x.idle(now) {
				delete(s.shares, id)
			}
		}
	}
	if len(s.shares) >= maxNeighbors {
		return nil
	}
	x = &share{
		creates: newBucket(createRate, createBurst, now), extends: newBucket(createRate/extendShare, createBurst/extendShare, now),
		onward: make(map[wire.NodeID]int),
	}
	s.shares[id] = x
	return x
}

// mayCreate tells whether a neighbor may open a circuit, and counts the attempt.
func (s *Switch) mayCreate(id wire.NodeID, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.shareOf(id, now)
	return x != nil && x.open < maxCircuits-int(s.open.Load()) && x.creates.take(now)
}

// opened counts a circuit of a neighbor; closed takes it off again. A share that counts
// circuits is not idle, so it stays.
func (s *Switch) opened(t *transit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open.Add(1)
	if t.share = s.shareOf(t.from(), time.Now()); t.share != nil {
		t.share.open++
	}
}

func (s *Switch) closed(t *transit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open.Add(-1)
	if t.share != nil {
		s.leadsNowhere(t)
		t.share.open--
	}
}

// mayExtend tells whether a circuit may be extended over l, and counts the attempt.
func (s *Switch) mayExtend(t *transit, l *link.Link, now time.Time) bool {
	open, most := l.Opened()
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.share != nil && t.share.onward[l.Peer().ID] < most-open && t.share.extends.take(now)
}

// leads counts a circuit that may be extended as one that leads to a neighbor of ours;
// leadsNowhere takes it off again, and is called with mu held.
func (s *Switch) leads(t *transit, next wire.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.leads = next
	t.share.onward[next]++
	if t.closed.Load() { // close may have looked before
		s.leadsNowhere(t)
	}
}

// leadsNoMore is leadsNowhere for a circuit that stays.
func (s *Switch) leadsNoMore(t *transit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leadsNowhere(t)
}

func (s *Switch) leadsNowhere(t *transit) {
	if t.leads.IsZero() {
		return
	}
	if t.share.onward[t.leads]--; t.share.onward[t.leads] == 0 {
		delete(t.share.onward, t.leads)
	}
	t.leads = wire.NodeID{}
}
