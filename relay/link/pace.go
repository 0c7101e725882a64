package link

import (
	"syscall"
	"time"

	"cuttle/relay/wire"
)

// Tunables of pacer.
const (
	paceLook   = 100 * time.Millisecond // between two looks at least, and two round trips
	paceLeast  = 256                    // segments that tell something of losses,
	paceSpan   = 2 * time.Second        // sent in so much time or eight round trips: who sends less does not lose by its rate
	paceLosses = 20                     // one segment of so many sent again is heavy loss
	paceStep   = 16                     // the bound begins by one part of so many below what was measured, and grows by as much each look
	paceAgain  = 5 * time.Second        // BBR measures anew so often at most
	paceFar    = 1 << 20                // bytes under way on a link that is far and fast
	paceTries  = 3                      // looks in a row that losses may last although the rate is bounded, or BBR be far below what it knew
	recordTime = 2 * time.Millisecond   // that the kernel takes to send a record, about
)

// pacer helps BBR, which keeps a far link with losses fast, where it measures wrongly.
//
// It bounds how fast the kernel sends on a link's connection while BBR is in its startup, where it sends up to 2.9 times what it has measured, and loses what
// the path's queue does not hold. It leaves the startup only after round trips in
// which there was always more to send; a relay has as much to send as the link
// before brings, so there are none. BBR's successors leave it when they lose much
// (Cardwell et al.: BBRv2, IETF 104, 2019); so does pacer: it lets BBR send
// somewhat less than it has measured, then slowly more again, until it loses
// again.
//
// And it has BBR measure anew when there is more to send than it lets through, at
// much less than this connection has delivered before: a loss while a relay has
// little to send makes the window small, what the window lets through becomes the
// measure, and that grows by a quarter in eight trips only. (Compare Kuhn et al.:
// Careful Resume, draft-ietf-tsvwg-careful-resume.) The writer's alone.
type pacer struct {
	socket      syscall.RawConn // nil: there is nothing to bound
	next        time.Duration   // when to look again, on the link's clock
	segments    uint32          // sent until the last verdict
	repeated    uint32          // of these, sent again
	since       time.Duration   // when that was
	bound       uint64          // bytes a second; 0: none
	complaining int             // looks in a row with heavy loss

	cells int // that a record is to have at most, for recordTime; 0: as many as it holds

	best  uint64        // bytes a second that have been delivered at most
	held  int           // looks in a row at which much less than best held up what there was to send
	anew  bool          // BBR has been told to measure anew, and has not come near best since
	again time.Duration // when it may be told again, on the link's clock
}

// sending is what the kernel tells of a connection under BBR.
type sending struct {
	segments, repeated uint32        // data segments sent, and sent again, so far
	rate               uint64        // bytes a second that have been delivered at most, lately
	paced              uint64        // bytes a second that are sent now at most
	trip               time.Duration // smoothed
	startup            bool
	held               bool // there is more to send than it lets through
}

// look sees to the bound now and then, and tells whether it has found the link to be
// fast and far.
func (p *pacer) look(now time.Duration) (far bool) {
	if p.socket == nil || now < p.next {
		return false
	}
	s, ok := readSending(p.socket)
	if !ok {
		p.socket, p.cells = nil, 0 // another congestion control, or none
		return false
	}
	p.cells = s.cells()
	p.next = now + max(paceLook, 2*s.trip)
	if before := p.bound; p.judge(s, now) != before {
		boundSending(p.socket, p.bound)
	}
	if p.forgotten(s, now) {
		restartSending(p.socket)
	}
	return s.far()
}

// far tells whether more is under way than the kernel's usual buffers bear with losses.
func (s sending) far() bool { return float64(s.rate)*s.trip.Seconds() >= paceFar }

// cells is how many cells go into a record: a node opens a record when all of it has
// come, and on a far link that has carried little BBR sends no faster than that, so that
// the first cell of an answer would wait for the others at each node.
func (s sending) cells() int {
	return int(min(max(s.paced/uint64(time.Second/recordTime)/wire.CellFrameSize, 1), turn))
}

// judge decides on the bound by what was sent since the last look.
func (p *pacer) judge(s sending, now time.Duration) uint64 {
	segments, repeated := s.segments-p.segments, s.repeated-p.repeated
	little := now-p.since > max(paceSpan, 8*s.trip)
	if segments < paceLeast && !little {
		return p.bound
	}
	p.segments, p.repeated, p.since = s.segments, s.repeated, now
	switch heavy := repeated*paceLosses > segments; {
	case !s.startup, little:
		p.bound, p.complaining = 0, 0
	case heavy && p.complaining >= paceTries: // the path loses as much at any rate
		p.bound = 0
	case heavy:
		p.complaining++
		p.bound = s.rate - s.rate/paceStep
	default:
		p.complaining = 0
		if p.bound += p.bound / paceStep; p.bound > 3*s.rate {
			p.bound = 0
		}
	}
	return p.bound
}

// forgotten tells whether BBR should measure anew. If it has just done so, it is the
// path that has become slower.
func (p *pacer) forgotten(s sending, now time.Duration) bool {
	p.best = max(p.best, s.rate)
	switch near := s.rate > p.best/3*2; {
	case near:
		p.held, p.anew = 0, false
	case s.startup || !s.held:
		p.held = 0
	default:
		p.held++
	}
	if p.held < paceTries || now < p.again {
		return false
	}
	p.held, p.again = 0, now+paceAgain
	if p.anew {
		p.best, p.anew = s.rate, false
		return false
	}
	p.anew = true
	return true
}
