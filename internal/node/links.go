package node

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"cuttle/internal/config"
	"cuttle/internal/nowait"
	"cuttle/obfs"
	"cuttle/relay/link"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// Tunables of keeping links.
const (
	retryFirst    = 200 * time.Millisecond
	retryMost     = 30 * time.Second
	dialTime      = 15 * time.Second
	steady        = 10 * time.Second // a link that lived so long resets the retry
	maxHandshakes = 64               // accepted connections that are not links yet
	maxClients    = 256              // links of nodes that are not in the configuration
)

var errFull = errors.New("too many clients")

// neighborhood keeps the links of a node: it dials the neighbors that have an
// address, accepts the others, and knows which link is up. One neighbor has one
// link: a new one replaces an old one, which may be half dead.
type neighborhood struct {
	cfg       link.Config
	masks     []obfs.Mask
	listeners []listener
	raw       obfs.Dialer
	mapped    *netmap.Map
	known     map[wire.NodeID]obfs.Descriptor
	log       *slog.Logger
	cameUp    func() // called after a link of a neighbor of the configuration came up; must not block

	moved signal // addresses of this machine have changed

	mu   sync.Mutex // guards live and fail
	live map[wire.NodeID]liveLink
	fail map[wire.NodeID]string // why a neighbor that we dial has no link
}

type liveLink struct {
	link      *link.Link
	mask      string
	initiator bool
	since     time.Time
}

type listener struct {
	mask    obfs.Mask
	options map[string]string
	raw     net.Listener
}

// bind opens the listening sockets, so that a wrong address is an error at
// start and the bound ports are known.
func (nb *neighborhood) bind(ctx context.Context, lc *net.ListenConfig, ls []config.Listen) error {
	for i, l := range ls {
		m, err := obfs.Find(nb.masks, l.Mask)
		if err != nil {
			return fmt.Errorf("listen %d: %w", i+1, err)
		}
		raw, err := lc.Listen(ctx, "tcp", l.Address)
		if err != nil {
			return fmt.Errorf("listen %d: %w", i+1, err)
		}
		nb.listeners = append(nb.listeners, listener{m, l.Options, nowait.Listener{Listener: raw}})
	}
	return nil
}

func (nb *neighborhood) unbind() {
	for _, l := range nb.listeners {
		_ = l.raw.Close()
	}
}

// lookup returns the link to a node, nil if there is none.
func (nb *neighborhood) lookup(id wire.NodeID) *link.Link {
	nb.mu.Lock()
	defer nb.mu.Unlock()
	return nb.live[id].link
}

// onward returns the link on which a circuit of others may go on to a node: one
// to a neighbor of the configuration that the map lists. Clients are in no map. They
// only originate, and nobody is to find out who has a link to us.
func (nb *neighborhood) onward(id wire.NodeID) *link.Link {
	if _, ok := nb.known[id]; !ok {
		return nil
	}
	if _, ok := nb.mapped.Lookup(id); !ok {
		return nil
	}
	return nb.lookup(id)
}

// full tells whether there are so many clients already that this node, which is
// none of them, is not wanted. Neighbors of the configuration always are.
func (nb *neighborhood) full(id wire.NodeID) bool {
	if _, ok := nb.known[id]; ok {
		return false
	}
	nb.mu.Lock()
	defer nb.mu.Unlock()
	if _, ok := nb.live[id]; ok {
		return false
	}
	clients := 0
	for other := range nb.live {
		if _, ok := nb.known[other]; !ok {
			clients++
		}
	}
	return clients >= maxClients
}

// name is what the log calls a node: clients are not told apart.
func (nb *neighborhood) name(id wire.NodeID) string {
	if _, ok := nb.known[id]; ok {
		return id.String()
	}
	return "client"
}

// up returns the nodes that we have a link to.
func (nb *neighborhood) up() []wire.NodeID {
	nb.mu.Lock()
	defer nb.mu.Unlock()
	ids := make([]wire.NodeID, 0, len(nb.live))
	for id := range nb.live {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b wire.NodeID) int { return slices.Compare(a[:], b[:]) })
	return ids
}

// run keeps the links until ctx ends; sw takes the circuits neighbors open.
func (nb *neighborhood) run(ctx context.Context, sw link.Switch, state string) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range nb.listeners {
		masked, err := l.mask.Listen(l.raw, obfs.Options{Node: nb.cfg.ID, State: state, Values: l.options})
		if err != nil {
			return fmt.Errorf("listen with mask %s: %w", l.mask.Name(), err)
		}
		wg.Go(func() { nb.accept(ctx, masked, l.mask.Name(), sw) }) // ends when the listener closes
		stop := context.AfterFunc(ctx, func() { _ = masked.Close() })
		defer stop()
	}
	wg.Go(func() { nb.follow(ctx) }) // ends with ctx
	for id, d := range nb.known {
		if len(d.Addresses) > 0 {
			wg.Go(func() { nb.keep(ctx, id, d, sw) }) // ends with ctx
		}
	}
	<-ctx.Done()
	return nil
}

func (nb *neighborhood) accept(ctx context.Context, ln net.Listener, mask string, sw link.Switch) {
	defer func() { _ = ln.Close() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	var waiting strangers
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			select { // out of descriptors, for example: give the others time to go
			case <-time.After(retryFirst):
			case <-ctx.Done():
			}
			continue
		}
		forget := waiting.admit(conn)
		if forget == nil {
			continue
		}
		wg.Go(func() { // ends with the link, at the latest with ctx
			l, err := link.Accept(ctx, conn, nb.cfg)
			forget()
			if err != nil {
				return // a stranger's bytes are nobody's news
			}
			nb.serve(ctx, l, mask, false, sw)
		})
	}
}

// strangers are the connections that have not become links. When there are too
// many the one that came first goes: whoever holds connections open and says
// nothing keeps no neighbor out. One that has gone may still be computed for, so
// that these are bounded too.
type strangers struct {
	mu    sync.Mutex // guards the fields below
	conns list.List  // of net.Conn, in order of arrival
	work  int        // admitted and not forgotten
}

// admit lists a connection until the function that it returns is called. It
// returns nil, and the connection is closed, when there is too much to do.
func (s *strangers) admit(c net.Conn) (forget func()) {
	s.mu.Lock()
	if s.work >= 4*maxHandshakes {
		s.mu.Unlock()
		_ = c.Close()
		return nil
	}
	s.work++
	e := s.conns.PushBack(c)
	var surplus net.Conn
	if s.conns.Len() > maxHandshakes {
		surplus = s.conns.Remove(s.conns.Front()).(net.Conn)
	}
	s.mu.Unlock()
	if surplus != nil {
		_ = surplus.Close() // may take a moment to say goodbye
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.work--
		s.conns.Remove(e) // no harm when it is not there any more
	}
}

// keep holds a link to one neighbor, with growing pauses between attempts.
func (nb *neighborhood) keep(ctx context.Context, id wire.NodeID, d obfs.Descriptor, sw link.Switch) {
	pause := retryFirst
	for i := 0; ctx.Err() == nil; i++ {
		if l := nb.lookup(id); l != nil { // the neighbor has opened one: two would replace each other for ever
			select {
			case <-l.Done():
			case <-ctx.Done():
			}
		}
		started, moved := time.Now(), nb.moved.next()
		l, err := nb.dialUnless(ctx, moved, id, d, d.Addresses[i%len(d.Addresses)])
		if err == nil {
			nb.noteFailure(id, "")
			nb.serve(ctx, l, d.Mask, true, sw)
			if time.Since(started) >= steady {
				pause = retryFirst
			}
		} else if ctx.Err() == nil {
			nb.noteFailure(id, obfs.Scrub(err).Error())
			nb.log.Debug("no link", "neighbor", id, "err", obfs.Scrub(err))
		}
		wait := pause/2 + rand.N(pause)
		pause = min(2*pause, retryMost)
		select {
		case <-time.After(wait):
		case <-moved:
			pause = retryFirst
		case <-ctx.Done():
		}
	}
}

// dialUnless is dial; it gives up when the addresses of this machine change.
func (nb *neighborhood) dialUnless(ctx context.Context, moved <-chan struct{}, id wire.NodeID, d obfs.Descriptor, address string) (*link.Link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with cancel
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
		}
	}()
	return nb.dial(ctx, id, d, address)
}

func (nb *neighborhood) dial(ctx context.Context, id wire.NodeID, d obfs.Descriptor, address string) (*link.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	rec, ok := nb.mapped.Lookup(id)
	if !ok {
		return nil, errors.New("the network map has no record of this neighbor: add its record to the map")
	}
	m, err := obfs.Find(nb.masks, d.Mask)
	if err != nil {
		return nil, err
	}
	conn, err := m.Dial(ctx, nb.raw, obfs.Endpoint{Node: id, Address: address, Params: d.Params})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	l, err := link.Dial(ctx, conn, nb.cfg, link.Peer{ID: id, KEM: rec.KEM})
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("authenticate: %w", err)
	}
	return l, nil
}

// serve runs a link and lists it while it is up.
func (nb *neighborhood) serve(ctx context.Context, l *link.Link, mask string, initiator bool, sw link.Switch) {
	id := l.Peer().ID
	nb.mu.Lock()
	old := nb.live[id]
	nb.live[id] = liveLink{l, mask, initiator, time.Now()}
	nb.mu.Unlock()
	if old.link != nil {
		old.link.Close()
	}
	nb.log.Info("link up", "neighbor", nb.name(id), "mask", mask)
	if _, ok := nb.known[id]; ok { // no path leads over others
		nb.cameUp()
	}
	err := l.Run(ctx, sw)
	nb.mu.Lock()
	if nb.live[id].link == l {
		delete(nb.live, id)
	}
	nb.mu.Unlock()
	nb.log.Info("link down", "neighbor", nb.name(id), "cause", obfs.Scrub(err))
}

func (nb *neighborhood) noteFailure(id wire.NodeID, why string) {
	nb.mu.Lock()
	defer nb.mu.Unlock()
	nb.fail[id] = why
}
