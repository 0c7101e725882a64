package session

import (
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// Tunables of flight. Packets, since each takes a cell of the path whatever its size.
const (
	leastFlight = 2 * ackPackets                   // what the peer's acknowledgements need to keep a sender going
	mostFlight  = wire.Number(32 << 20 / slotSize) // more than Config.Window can keep
	startFlight = 2 * leastFlight                  // before anything is known of the path,
	startRate   = 12000                            // or what it carries in a trip of the length it has at this rate, in packets a second (130 Mbit/s),
	mostStart   = 4096                             // but not more than this
	startGrowth = 1.25                             // the bound doubles as long as more is delivered than the best so far, by this much,
	startTrips  = 3                                // and until so many trips in a row deliver no more
	queueTrips  = 3                                // a packet may wait for so many times the least trip,
	leastAge    = 10 * time.Second                 // a least trip that was not seen for as long is measured again,
	mostAge     = 40 * time.Second                 // or up to as long, when it was found to be the same,
	drainTrips  = 2                                // for so many trips, with a queue that should be empty;
	drainShare  = 0.5                              // so much under way of what the path holds without one
)

// Or for as long, whichever is more: nodes need to have work whenever they get a
// processor. A client's own programs are all that wait behind what it sends.
const (
	queueTimeDown  = 7500 * time.Microsecond
	queueTimeHaste = queueTimeDown / 2 // while somebody waits for a first byte
	queueTimeUp    = 20 * time.Millisecond
)

// haste tells that somebody waits for a first byte: a flow has begun within hasteTime,
// or a name was asked for, in any session of the exit. It need not be in the session
// that carries bulk, since new flows go to circuits that carry none. On paths with a
// least trip of more than 2.5 ms the queue goes by that, and haste changes nothing. Its
// methods may be called by any goroutine.
type haste struct{ last atomic.Int64 } // Unix time in nanoseconds

const hasteTime = time.Second

func (h *haste) begun(now time.Time) { h.last.Store(now.UnixNano()) }

func (h *haste) on(now time.Time) bool {
	past := now.UnixNano() - h.last.Load()
	return past >= 0 && past < int64(hasteTime) // negative: the clock was put back
}

// flight bounds how many packets are under way, so that what has just been sent
// does not wait behind megabytes that fill the windows of all links: a window
// that is as large as links allow is found full of a queue. It is what a trip
// makes of it: when packets take much longer than the least trip, there is a queue
// somewhere on the path, and less is sent; when they take less and the bound is
// what held us up, more. (Losses on links that are far make trips of several times
// the least, and are no queue. So a new path is filled as BBR fills one: what tells
// that it is full is that a larger bound delivers no more. The client knows the length
// of a new path from its handshakes, and the exit from what the client grants; so a far
// one begins with more.) (Brakmo and Peterson: TCP Vegas,
// 1995, in the form of Wei, Jin, Low and Hegde: FAST TCP, 2006; the least trip is
// found again as BBR does, by letting the queue run empty now and then. That leaves a
// far path with losses idle for a second; so it is done less and less often as long as
// it finds nothing new. A path that has become much longer is found without it.)
//
// One packet at a time is timed. The trip counts for the bound only if the bound
// was reached meanwhile: then the acknowledgement has not waited for packets
// that did not come. Guarded by trunk.mu.
type flight struct {
	limit wire.Number   // packets that may be under way
	queue time.Duration // one of queueTime's, now

	timing  bool // a packet is being timed:
	number  wire.Number
	at      time.Time
	acked   wire.Number // packets acknowledged then
	reached bool        // the bound was reached since

	least   time.Duration // the least trip; 0: none yet
	leastAt time.Time     // when it was last seen, about
	age     time.Duration // when it was not seen for as long, it is measured again
	full    wire.Number   // the bound before it began to fall
	best    float64       // packets a second delivered at most while a new path is filled
	same    int           // trips in a row that delivered no more; startTrips: it is full
	drain   int           // trips to come with an empty queue
	empty   wire.Number   // the bound while there is to be none
	fresh   time.Duration // the least of those
}

func (f *flight) reset(queue, trip time.Duration) {
	*f = flight{limit: max(startFlight, startFor(trip)), queue: queue, age: leastAge}
}

// startFor is what a path with such a trip is taken to carry in one; 0: it is not known.
func startFor(trip time.Duration) wire.Number {
	return min(wire.Number(startRate*trip.Seconds()), mostStart)
}

// start takes what the peer expects to be on its way in a trip; it tells whether that
// is news. Once the path has begun to be filled it is not.
func (f *flight) start(packets wire.Number) bool {
	packets = min(packets, mostStart)
	if f.best > 0 || f.same > 0 || packets <= f.limit {
		return false
	}
	f.limit = packets
	return true
}

// allowed is how long a packet may take.
func (f *flight) allowed() float64 { return float64(f.least + max(queueTrips*f.least, f.queue)) }

// bound is how many packets may be under way now.
func (f *flight) bound() wire.Number {
	if f.drain > 0 {
		return min(f.limit, f.empty)
	}
	return f.limit
}

// sent begins to time packet n; so many have been acknowledged.
func (f *flight) sent(n, acked wire.Number, now time.Time) {
	f.timing, f.number, f.acked, f.at, f.reached = true, n, acked, now, false
}

// acknowledged takes what the peer expects next; it tells whether a trip is over.
func (f *flight) acknowledged(next wire.Number, now time.Time) bool {
	if !f.timing || next <= f.number {
		return false
	}
	f.timing = false
	trip := max(now.Sub(f.at), time.Microsecond)
	switch {
	case f.drain > 0:
		if f.fresh == 0 || trip < f.fresh {
			f.fresh = trip
		}
		if f.drain--; f.drain == 0 {
			if f.age = min(2*f.age, mostAge); !f.confirmed() {
				f.age = leastAge
			}
			f.least, f.leastAt = f.fresh, now
		}
		return true
	case f.least == 0 || trip < f.least+f.least/8:
		f.leastAt = now
		if f.least == 0 || trip < f.least {
			f.least = trip
		}
	}
	if !f.reached {
		return true
	}
	// What is acknowledged in a trip is what was under way when it began, when the
	// bound may have been half of what it is now.
	under := float64(next - f.acked)
	// Less and less does not help if it is the path that has become longer.
	if now.Sub(f.leastAt) >= f.age || f.limit < f.full/3 {
		f.drain, f.fresh, f.full = drainTrips, 0, 0
		f.empty = max(leastFlight, wire.Number(under*drainShare*float64(f.least)/float64(max(trip, f.least+f.queue))))
		return true
	}
	if f.same < startTrips && f.fill(under/trip.Seconds(), float64(trip) < f.allowed()) {
		return true
	}
	target := min(2*f.limit, wire.Number(under*min(1+queueTrips, f.allowed()/float64(trip))))
	if target < f.limit {
		target = (f.limit + target) / 2 // one late packet is no queue
	} else {
		f.full = target
	}
	f.limit = min(max(target, leastFlight), mostFlight)
	return true
}

// confirmed tells whether the least trip was found to be what it was before.
func (f *flight) confirmed() bool {
	return f.fresh >= f.least-f.least/8 && f.fresh <= f.least+f.least/8
}

// fill takes what a trip delivered, in packets a second, while a new path is being
// filled; false: it is full, for the trip is longer than may be.
func (f *flight) fill(rate float64, short bool) bool {
	if !short {
		f.same = startTrips
		return false
	}
	if rate > f.best*startGrowth {
		f.best, f.same = rate, 0
		f.limit = min(2*f.limit, mostFlight)
	} else {
		f.same++
	}
	f.full = f.limit
	return true
}
