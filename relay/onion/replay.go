package onion

import (
	"crypto/sha256"
	"errors"
	"sync"
)

// ErrReplayed is returned for a first message that was seen before.
var ErrReplayed = errors.New("first message was seen before")

// ReplayCache remembers the encapsulations of the last first messages, so that a
// recorded one is not answered twice. It holds two generations of at most limit
// entries of 16 bytes: when the younger is full the older is forgotten. It may be
// used by many goroutines at a time.
type ReplayCache struct {
	limit int

	mu         sync.Mutex // guards young and old
	young, old map[[16]byte]struct{}
}

// NewReplayCache remembers between limit and 2*limit messages; limit is at least 1.
func NewReplayCache(limit int) *ReplayCache {
	return &ReplayCache{limit: max(limit, 1), young: map[[16]byte]struct{}{}}
}

// Seen remembers enc and tells whether it was remembered already. Call it only
// for messages that verified, else anybody could flush the memory with noise.
func (r *ReplayCache) Seen(enc []byte) bool {
	sum := sha256.Sum256(enc)
	id := [16]byte(sum[:16])
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.young[id]; ok {
		return true
	}
	if _, ok := r.old[id]; ok {
		return true
	}
	if len(r.young) >= r.limit {
		r.old, r.young = r.young, map[[16]byte]struct{}{}
	}
	r.young[id] = struct{}{}
	return false
}
