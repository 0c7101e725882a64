package session

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// stuckTime is how long what was held by streams that have ended may take to be given
// back.
const stuckTime = time.Second

// Budget bounds what many sessions hold together: those of an exit, whose clients are
// strangers and may be one and the same. When it is used up windows do not grow, and
// of the neighbor whose sessions hold most the one that holds most loses streams. All
// methods may be called by any number of goroutines.
type Budget struct {
	limit int64
	used  atomic.Int64
	extra atomic.Int64
	stuck atomic.Pointer[time.Time] // since when there is nothing to shed; nil: there is

	mu       sync.Mutex           // guards sessions; held while a victim is looked for
	sessions map[*mux]wire.NodeID // and the neighbor that each comes over
}

// NewBudget makes a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	return &Budget{limit: bytes, sessions: make(map[*mux]wire.NodeID)}
}

// Used returns the bytes that all sessions hold.
func (b *Budget) Used() int64 { return b.used.Load() }

func (b *Budget) join(m *mux) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions[m] = wire.NodeID{}
}

// move notes which neighbor a session comes over from now on.
func (b *Budget) move(m *mux, to wire.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.sessions[m]; ok {
		b.sessions[m] = to
	}
}

func (b *Budget) leave(m *mux) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, m)
}

// relieve has a session shed a stream if the budget is exceeded. It looks at the
// neighbor whose sessions hold most together, and takes of these the one that holds
// most and has something to shed. When none has had for stuckTime, the one that holds
// most ends: its carrier takes nothing, so that it gives nothing back. If another
// goroutine is at it there is nothing to do. The caller holds no lock but
// trunk.receiving of its own session.
func (b *Budget) relieve() {
	if b.used.Load() <= b.limit {
		if b.stuck.Load() != nil {
			b.stuck.Store(nil)
		}
		return
	}
	if !b.mu.TryLock() {
		return
	}
	type holder struct {
		m    *mux
		from wire.NodeID
		used int64
	}
	all := make([]holder, 0, len(b.sessions))
	sums := make(map[wire.NodeID]int64)
	var worst wire.NodeID
	for m, from := range b.sessions {
		if n := m.memory.used.Load(); n > 0 {
			all = append(all, holder{m, from, n})
			if sums[from] += n; sums[from] > sums[worst] {
				worst = from
			}
		}
	}
	b.mu.Unlock()
	all = slices.DeleteFunc(all, func(h holder) bool { return h.from != worst })
	slices.SortFunc(all, func(x, y holder) int { return cmp.Compare(y.used, x.used) })
	for _, h := range all {
		if h.m.shed() {
			b.stuck.Store(nil)
			return
		}
	}
	now := time.Now()
	if since := b.stuck.Load(); since == nil {
		b.stuck.Store(&now)
	} else if len(all) > 0 && now.Sub(*since) > stuckTime {
		b.stuck.Store(&now)
		all[0].m.finish(wire.CodeResources)
	}
}
