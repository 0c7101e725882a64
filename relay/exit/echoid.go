package exit

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
)

// identifiers are those of echo flows whose sockets hear the replies to all of this
// machine: no two flows to one host have the same.
type identifiers struct {
	mu    sync.Mutex // guards taken
	taken map[identifier]struct{}
}

type identifier struct {
	host netip.Addr
	id   uint16
}

// take draws one; false: the host has flows with all of them.
func (s *identifiers) take(host netip.Addr) (uint16, bool) {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	first := binary.BigEndian.Uint16(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == nil {
		s.taken = make(map[identifier]struct{})
	}
	for n := range 1 << 16 {
		i := identifier{host, first + uint16(n)}
		if _, used := s.taken[i]; !used {
			s.taken[i] = struct{}{}
			return i.id, true
		}
	}
	return 0, false
}

// give puts one back.
func (s *identifiers) give(host netip.Addr, id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, identifier{host, id})
}
