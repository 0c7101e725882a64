package session

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Budget bounds the receive buffers of many sessions together: those of an exit,
// whose clients are strangers and may be one and the same. When it is used up
// windows do not grow, and the session that holds most loses streams. All methods
// may be called by any number of goroutines.
type Budget struct {
	limit int64
	used  atomic.Int64
	extra atomic.Int64

	mu       sync.Mutex // guards sessions; held while a victim is looked for
	sessions map[*mux]struct{}
}

// NewBudget makes a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	return &Budget{limit: bytes, sessions: make(map[*mux]struct{})}
}

// Used returns the bytes that all sessions hold.
func (b *Budget) Used() int64 { return b.used.Load() }

func (b *Budget) join(m *mux) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions[m] = struct{}{}
}

func (b *Budget) leave(m *mux) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, m)
}

// relieve has a session shed a stream if the budget is exceeded: the one that holds
// most, of those that hold anything that can be shed. If another goroutine is at it
// there is nothing to do. The caller holds no lock.
func (b *Budget) relieve() {
	if b.used.Load() <= b.limit || !b.mu.TryLock() {
		return
	}
	type holder struct {
		m    *mux
		used int64
	}
	all := make([]holder, 0, len(b.sessions))
	for m := range b.sessions {
		if n := m.memory.used.Load(); n > 0 {
			all = append(all, holder{m, n})
		}
	}
	b.mu.Unlock()
	slices.SortFunc(all, func(x, y holder) int { return cmp.Compare(y.used, x.used) })
	for _, h := range all {
		if h.m.shed() {
			return
		}
	}
}
