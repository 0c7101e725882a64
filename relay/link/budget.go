package link

import (
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// cellMemory is what one queued cell is taken to cost, bytes: its buffer in the
// pool, rounded up as the allocator does, and its place in a ring.
const cellMemory = 1800

// DefaultBudget is the memory a node's links may promise when the
// configuration does not say, bytes.
const DefaultBudget = 64 << 20

// Budget bounds the memory that all links of one node promise to their
// neighbors as windows, and hold as queued cells. When it is used up windows do
// not grow; when the queued cells alone exceed it, lanes are closed until they fit
// again: first those whose oldest cell has waited longest, so that many that take
// nothing, or next to nothing, do not drive out the few that are busy (Jansen,
// Tschorsch, Johnson, Scheuermann: The Sniper Attack, NDSS 2014, section VI-C).
// All methods may be called by any goroutine.
type Budget struct {
	limit   int64 // bytes
	granted atomic.Int64
	first   atomic.Int64 // of granted, the lanes' first windows

	mu    sync.Mutex // guards links; held while a victim is looked for
	links map[*Link]struct{}
}

// NewBudget makes a budget of so many bytes (DefaultBudget if not positive).
func NewBudget(bytes int64) *Budget {
	if bytes <= 0 {
		bytes = DefaultBudget
	}
	return &Budget{limit: bytes, links: make(map[*Link]struct{})}
}

// Granted returns the bytes promised to neighbors as windows.
func (b *Budget) Granted() int64 { return b.granted.Load() }

// Queued returns the bytes of the cells that wait in all lanes.
func (b *Budget) Queued() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queuedLocked()
}

func (b *Budget) queuedLocked() int64 {
	var n int64
	for l := range b.links {
		n += l.queued.Load()
	}
	return n * cellMemory
}

// open promises a lane's first window, whatever the limit says. It does not
// count against it either: circuits that carry nothing, of which a neighbor may
// open thousands, would keep every window small.
func (b *Budget) open() {
	b.first.Add(wire.InitialCredit * cellMemory)
	b.granted.Add(wire.InitialCredit * cellMemory)
}

// reserve promises more cells if the limit allows it.
func (b *Budget) reserve(cells int64) bool {
	if b.granted.Add(cells*cellMemory)-b.first.Load() <= b.limit {
		return true
	}
	b.unreserve(cells)
	return false
}

// unreserve takes back what reserve promised.
func (b *Budget) unreserve(cells int64) { b.granted.Add(-cells * cellMemory) }

// giveBack ends the promise of a lane whose window has so many cells by now.
func (b *Budget) giveBack(cells int64) {
	b.first.Add(-wire.InitialCredit * cellMemory)
	b.granted.Add(-cells * cellMemory)
}

func (b *Budget) join(l *Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.links[l] = struct{}{}
}

func (b *Budget) leave(l *Link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.links, l)
}

// relieve closes lanes until the queued cells fit. Links call it
// now and then while their queues grow, holding no lock; if another goroutine
// is at it already there is nothing to do.
func (b *Budget) relieve() {
	for {
		if !b.mu.TryLock() {
			return
		}
		var victim *Lane
		if b.queuedLocked() > b.limit {
			victim = b.victimLocked()
		}
		b.mu.Unlock()
		if victim == nil {
			return
		}
		victim.evict()
	}
}

// patience is the difference in age that counts; of lanes that have waited equally
// long, the one that holds most goes.
const patience = 100 * time.Millisecond

func (b *Budget) victimLocked() *Lane {
	var victim *Lane
	var age, most int64
	for l := range b.links {
		now := l.now()
		l.mu.Lock()
		for _, ln := range l.lanes {
			n := int64(ln.queued.Load())
			if n == 0 {
				continue
			}
			a := max(0, int64(now)-ln.oldest.Load()) / int64(patience)
			if victim == nil || a > age || a == age && n > most {
				victim, age, most = ln, a, n
			}
		}
		l.mu.Unlock()
	}
	return victim
}
