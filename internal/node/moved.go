package node

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"cuttle/tun/hostnet"
)

// signal wakes everybody who waits for it, any number of times.
type signal struct {
	mu sync.Mutex // guards c
	c  chan struct{}
}

// next is closed at the next call of raise.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) raise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// follow looks after links while this machine's network changes, until ctx ends:
// whoever waits to dial tries at once, and when addresses have changed, links from
// one that is gone end instead of waiting for answers that cannot come.
func (nb *neighborhood) follow(ctx context.Context) {
	last := sortedAddresses()
	hostnet.Changes(ctx, func() {
		now := sortedAddresses()
		if slices.Equal(now, last) {
			return
		}
		last = now
		nb.moved.raise()
		nb.leave(now)
	})
}

// sortedAddresses are those of this machine that links can leave from.
func sortedAddresses() []netip.Addr {
	list := hostnet.Usable(ownAddresses())
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// leave ends the links whose own address is not among those of this machine.
func (nb *neighborhood) leave(own []netip.Addr) {
	if len(own) == 0 {
		return // not known
	}
	nb.mu.Lock()
	defer nb.mu.Unlock()
	for _, l := range nb.live {
		a, ok := l.link.LocalAddr().(*net.TCPAddr)
		if !ok {
			continue
		}
		if at := a.AddrPort().Addr().Unmap().WithZone(""); at.IsValid() && !slices.Contains(own, at) {
			l.link.Close()
		}
	}
}
