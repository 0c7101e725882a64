package link

import (
	"time"

	"cuttle/relay/wire"
)

// Status is a snapshot of a link for people. Cells are indexed by Direction and
// Payer.
type Status struct {
	Peer      wire.NodeID
	Initiator bool // we dialled
	Since     time.Time
	RTT       time.Duration // 0: not measured yet
	Cells     [2][2]wire.Cells
	Queued    wire.Cells
	Lanes     int
}

// LaneStatus is a snapshot of a lane for people.
type LaneStatus struct {
	ID       wire.CircuitID
	Tier     wire.Tier
	Ours     bool // we opened it and pay
	Sent     wire.Cells
	Received wire.Cells
	Queued   int
	Window   wire.Cells // what the neighbor may have under way to us
}

// Status returns a snapshot of the link.
func (l *Link) Status() Status {
	s := Status{Peer: l.peer.ID, Initiator: l.initiator, Since: l.start, RTT: l.RTT(), Queued: wire.Cells(max(0, l.queued.Load()))}
	for dir := range s.Cells {
		for payer := range s.Cells[dir] {
			s.Cells[dir][payer] = l.counter.Cells(Direction(dir), Payer(payer))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Lanes = len(l.lanes)
	return s
}

// Lanes returns snapshots of the link's lanes in no particular order.
func (l *Link) Lanes() []LaneStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]LaneStatus, 0, len(l.lanes))
	for _, ln := range l.lanes {
		out = append(out, ln.Status())
	}
	return out
}

// Status returns a snapshot of the lane.
func (ln *Lane) Status() LaneStatus {
	return LaneStatus{
		ID: ln.id, Tier: ln.tier, Ours: ln.ours, Queued: ln.Queued(),
		Sent: wire.Cells(ln.sent.Load()), Received: wire.Cells(ln.received.Load()),
		Window: wire.Cells(ln.in.window.Load()),
	}
}
