package circuit

import (
	"math/rand/v2"
	"time"

	"cuttle/relay/wire"
)

// Tunables of ratings.
const (
	ratedMost  = 1024                   // nodes remembered
	tripFloor  = 5 * time.Millisecond   // below it trips count as equal
	ratingStep = 1.0 / 8                // weight of the newest experience
	sampleTime = 500 * time.Millisecond // between samples of what circuits in use carry
)

// rating is what we have experienced with a node on our paths.
type rating struct {
	good float64 // share of builds, of late, that did not fail at the node, and of circuits that did not die; 1 at first
	peak float64 // cells per second that have come over it at most, of late; 0: not known
	wait float64 // seconds by which round trips over it have been longer than when their circuits were built, of late; its share
}

// ratings weigh circuits against each other. The pool locks them.
type ratings map[wire.NodeID]*rating

func (rs ratings) of(id wire.NodeID) *rating {
	r := rs[id]
	if r == nil {
		if len(rs) >= ratedMost {
			for other := range rs { // any will do: there are far more than paths in use
				delete(rs, other)
				break
			}
		}
		r = &rating{good: 1}
		rs[id] = r
	}
	return r
}

// note adds an experience with a node.
func (rs ratings) note(id wire.NodeID, good bool) {
	r := rs.of(id)
	r.good -= r.good * ratingStep
	if good {
		r.good += ratingStep
	}
}

// carried notes how many cells per second have come over a path.
func (rs ratings) carried(path []wire.NodeID, perSecond float64) {
	for _, id := range path {
		r := rs.of(id)
		if perSecond > r.peak {
			r.peak = perSecond
		} else {
			r.peak -= (r.peak - perSecond) / 1024 // forgets over minutes
		}
	}
}

// took notes a round trip over a circuit in use: what it takes longer than when the
// circuit was built is shared out among the hops, each of which may be the cause.
func (rs ratings) took(c *Circuit, trip time.Duration) {
	late := max(0, trip-c.built).Seconds() / float64(len(c.hops))
	for _, id := range c.hops {
		r := rs.of(id)
		r.wait += (late - r.wait) * ratingStep
	}
}

// expected is the round trip that a circuit is expected to have by now.
func (rs ratings) expected(c *Circuit) time.Duration {
	trip := c.Trip()
	for _, id := range c.hops {
		if r := rs[id]; r != nil {
			trip += time.Duration(r.wait * float64(time.Second))
		}
	}
	return trip
}

// weight is how likely a circuit is to be chosen among others: the faster its
// round trip, the more reliable its nodes, and (by a factor of two at most, since
// what was carried says as much about what was asked for) the more they have
// carried, the likelier.
func (rs ratings) weight(c *Circuit) float64 {
	best := 0.0
	for _, r := range rs {
		best = max(best, r.peak)
	}
	trip := float64(rs.expected(c)+tripFloor) / float64(time.Second)
	w := 1 / (trip * trip)
	least := best
	for _, id := range c.hops {
		r := rs[id]
		if r == nil {
			continue
		}
		w *= max(r.good*r.good, 1.0/64) // never nothing: a node may have become better
		if r.peak > 0 {
			least = min(least, r.peak)
		}
	}
	if best > 0 {
		w *= 0.5 + 0.5*least/best
	}
	return w
}

// draw picks one of the members with chances in proportion to their weights, nil
// if there are none.
func (rs ratings) draw(from []*member) *member {
	if len(from) == 0 {
		return nil
	}
	weights, sum := make([]float64, len(from)), 0.0
	for i, m := range from {
		weights[i] = rs.weight(m.c)
		sum += weights[i]
	}
	x := rand.Float64() * sum
	for i, w := range weights {
		if x -= w; x < 0 {
			return from[i]
		}
	}
	return from[len(from)-1]
}
