package exit

import "cuttle/relay/wire"

// neighborEcho is how many echo requests per second the sessions of a neighbor send,
// and twice as many at once.
const neighborEcho = 5 * echoRate

// neighbor is what the sessions that came over one neighbor have in common: whoever
// opens many sessions does not get more than their share of it.
type neighbor struct {
	id        wire.NodeID
	sessions  int
	places    crowd
	questions crowd
	rate      bucket
	asking    bucket
	echo      bucket
}

// neighbor finds or makes a neighbor, for one session more.
func (e *Exit) neighbor(id wire.NodeID) *neighbor {
	l := &e.cfg.Limits
	e.near.Lock()
	defer e.near.Unlock()
	n := e.neighbors[id]
	if n == nil {
		n = &neighbor{
			id: id, rate: bucket{rate: l.NeighborRate, burst: 3 * l.NeighborRate},
			asking: bucket{rate: l.NeighborQueryRate, burst: 4 * l.NeighborQueryRate},
			echo:   bucket{rate: neighborEcho, burst: 2 * neighborEcho},
		}
		e.neighbors[id] = n
	}
	n.sessions++
	return n
}

// left forgets a neighbor with its last session.
func (e *Exit) left(n *neighbor) {
	e.near.Lock()
	defer e.near.Unlock()
	if n.sessions--; n.sessions == 0 {
		delete(e.neighbors, n.id)
	}
}

// Move counts the session, with what it has open, for another neighbor that it comes
// over now. Calls of Move and Leave come one after the other.
func (c *Circuit) Move(to wire.NodeID) {
	e := c.exit
	n := e.neighbor(to)
	old := c.near.Swap(n)
	e.places.move(&c.places, &n.places)
	e.queries.move(&c.questions, &n.questions)
	e.left(old)
}

// Leave is called when the session has ended and nothing of it is open.
func (c *Circuit) Leave() { c.exit.left(c.near.Load()) }
