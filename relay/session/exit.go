package session

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"cuttle/relay/wire"
)

// ExitConfig bounds what an exit holds for all sessions together. Zero fields
// get the defaults named at each.
type ExitConfig struct {
	Session Config // of each session

	Sessions    int   // 2048
	PerNeighbor int   // sessions that came over one neighbor; half of Sessions
	Detached    int   // sessions without a circuit; an eighth of Sessions
	DetachedPer int   // the same of one neighbor; half of Detached
	Kept        int64 // bytes of sent packets that are kept; 256 MiB
}

// Beyond its least window a session may keep more only while all sessions
// together keep less than Kept/2, and those of its neighbor less than Kept/4. When
// they keep more than Kept all the same, of the neighbor whose sessions keep most the
// one that keeps most ends.

func (c ExitConfig) withDefaults() ExitConfig {
	number := func(v *int, otherwise int) {
		if *v <= 0 {
			*v = max(1, otherwise)
		}
	}
	number(&c.Sessions, 2048)
	number(&c.PerNeighbor, c.Sessions/2)
	number(&c.Detached, c.Sessions/8)
	number(&c.DetachedPer, c.Detached/2)
	if c.Kept <= 0 {
		c.Kept = 256 << 20
	}
	return c
}

// Exit holds the sessions that end here, with and without a circuit. Its methods
// may be called by any number of goroutines.
type Exit struct {
	opener func(from wire.NodeID) Opener
	cfg    ExitConfig
	salt   [32]byte // so that nobody knows how ids fall into the table
	haste  haste

	mu        sync.Mutex // guards the fields below, and those of resident that say so
	sessions  map[[sha256.Size]byte]*resident
	neighbors map[wire.NodeID]*neighbor // those with sessions
	oldest    *resident                 // detached ones, in the order in which they lost their circuit
	newest    *resident
	detached  int
	closed    bool
	work      sync.WaitGroup // every goroutine of the exit

	keeping sync.Mutex // guards the fields below, and kept of residents and neighbors
	kept    int64
	relief  bool // a goroutine is at it
}

// neighbor is what the sessions that came over one neighbor have in common.
type neighbor struct {
	sessions, detached int
	kept               int64
}

// resident is one session at its exit. The fields but id, index and s are
// guarded by Exit.mu.
type resident struct {
	id         wire.SessionID
	index      [sha256.Size]byte
	s          *server
	from       wire.NodeID
	near       *neighbor // of from; changed with both mutexes of Exit held
	kept       int64     // guarded by Exit.keeping
	timer      *time.Timer
	detached   bool
	prev, next *resident // in the list of detached ones
}

// NewExit makes an exit without sessions. opener is called for each session, with the
// neighbor that it came over.
func NewExit(opener func(from wire.NodeID) Opener, cfg ExitConfig) *Exit {
	x := &Exit{
		opener: opener, cfg: cfg.withDefaults(),
		sessions: make(map[[sha256.Size]byte]*resident), neighbors: make(map[wire.NodeID]*neighbor),
	}
	_, _ = rand.Read(x.salt[:]) // never fails
	return x
}

// Accept takes a circuit that ends here: the first thing the client sends on it
// attaches a session. from is the neighbor that it came over, on whose account
// the session is held. The owner of the carrier hands what comes on it to the
// Handler.
func (x *Exit) Accept(c Carrier, from wire.NodeID) Handler {
	var attached Handler
	refused := false
	return func(kind byte, class wire.Class, p []byte) error { // one call at a time
		if attached != nil {
			return attached(kind, class, p)
		}
		if refused || kind != wire.PayloadAttach || class != wire.Reliable {
			return fmt.Errorf("payload %d before attach: %w", kind, errProtocol)
		}
		m, err := wire.ParseSessionControl(p)
		if err != nil {
			return err
		}
		if m.Type != wire.SessionAttach {
			return fmt.Errorf("session %v before attach: %w", m.Type, errProtocol)
		}
		h, reason, err := x.attach(c, from, m)
		if err != nil {
			return err
		}
		if attached = h; h == nil {
			refused = true
			return x.refuse(c, reason)
		}
		return nil
	}
}

// refuse answers an ATTACH; the client closes the carrier.
func (x *Exit) refuse(c Carrier, reason wire.Refusal) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return net8()
	}
	x.work.Go(func() { // ends when the message is queued or the carrier closed
		_ = sendControl(c, wire.SessionControl{Type: wire.SessionRefused, Refusal: reason})
	})
	return nil
}

func (x *Exit) indexOf(id *wire.SessionID) [sha256.Size]byte {
	return sha256.Sum256(append(x.salt[:], id[:]...))
}

// attach finds or makes the session and puts it on c. Without a handler there is
// a reason for the client, or an error that closes the carrier.
func (x *Exit) attach(c Carrier, from wire.NodeID, m wire.SessionControl) (Handler, wire.Refusal, error) {
	index := x.indexOf(&m.ID)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, 0, net8()
	}
	r := x.sessions[index]
	known := r != nil && same(&r.id, &m.ID)
	switch {
	case m.Resume && !known:
		return nil, wire.RefusalUnknown, nil
	case !m.Resume && r != nil:
		return nil, 0, fmt.Errorf("session begun twice: %w", errProtocol)
	case !m.Resume:
		if r = x.admit(from, index, m.ID); r == nil {
			return nil, wire.RefusalBusy, nil
		}
	case r.from != from:
		x.move(r, from)
	}
	x.unlist(r)
	t := &r.s.m.trunk
	a := &attachment{carrier: c, first: wire.SessionControl{Type: wire.SessionAttached}}
	h := t.handler(a)
	// What an old carrier is at takes trunk.receiving, and may take the locks of
	// streams, but never Exit.mu.
	old, err := t.adopt(a, m.Number)
	if errors.Is(err, errProtocol) {
		x.expel(r)
		return nil, 0, err
	}
	if err != nil { // it is ending
		return nil, wire.RefusalUnknown, nil
	}
	x.work.Go(func() { // ends with the carrier, or the session, which closes it
		<-c.Done()
		if t.lose(a) {
			x.lost(r)
		}
	})
	if old != nil {
		old.carrier.Close()
	}
	return h, 0, nil
}

// admit makes a session, nil if there is no room. Called with mu held.
func (x *Exit) admit(from wire.NodeID, index [sha256.Size]byte, id wire.SessionID) *resident {
	n := x.neighbors[from]
	if n != nil && n.sessions >= x.cfg.PerNeighbor {
		return nil
	}
	if len(x.sessions) >= x.cfg.Sessions {
		if x.oldest == nil {
			return nil
		}
		x.expel(x.oldest)
	}
	r := &resident{id: id, index: index, s: newServer(x.opener(from), x.cfg.Session)}
	r.s.m.trunk.haste = &x.haste
	r.s.m.trunk.allow = func(slabs int, must bool) bool { return x.allow(r, int64(slabs)*slabSize, must) }
	x.sessions[index] = r
	x.enter(r, from)
	x.work.Go(func() { // ends with the session, or Config.Resume later
		r.s.settle()
		r.s.m.close()
		x.forget(r)
		if g, ok := r.s.opener.(Guest); ok {
			g.Leave()
		}
	})
	return r
}

// enter puts r on the account of a neighbor, leave takes it off. Called with mu
// held.
func (x *Exit) enter(r *resident, from wire.NodeID) {
	n := x.neighbors[from]
	if n == nil {
		n = &neighbor{}
		x.neighbors[from] = n
	}
	n.sessions++
	if b := x.cfg.Session.Shared; b != nil {
		b.move(r.s.m, from)
	}
	x.keeping.Lock()
	defer x.keeping.Unlock()
	n.kept += r.kept
	r.from, r.near = from, n
}

func (x *Exit) leave(r *resident) {
	n := r.near
	if n.sessions--; n.sessions == 0 {
		delete(x.neighbors, r.from)
	}
	x.keeping.Lock()
	defer x.keeping.Unlock()
	n.kept -= r.kept
	r.near = &neighbor{kept: r.kept} // nobody's
}

// move takes r from one neighbor's account to another's. Called with mu held.
func (x *Exit) move(r *resident, from wire.NodeID) {
	x.unlist(r)
	x.leave(r)
	x.enter(r, from)
	if g, ok := r.s.opener.(Guest); ok {
		g.Move(from)
	}
}

// forget ends what is known of a session that has ended.
func (x *Exit) forget(r *resident) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sessions[r.index] != r {
		return
	}
	x.unlist(r)
	x.leave(r)
	delete(x.sessions, r.index)
}

// emptyTime is how long a session without a carrier is held when no streams are
// open: the client may have opened one that was lost with the carrier.
const emptyTime = 10 * time.Second

// lost notes that a session has lost its carrier: it is held for a while, unless
// there is no room.
func (x *Exit) lost(r *resident) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := &r.s.m.trunk
	if x.sessions[r.index] != r || r.detached || t.attached() {
		return
	}
	if x.closed {
		x.expel(r)
		return
	}
	if r.near.detached >= x.cfg.DetachedPer {
		for o := x.oldest; o != nil; o = o.next {
			if o.near == r.near {
				x.expel(o)
				break
			}
		}
	}
	if x.detached >= x.cfg.Detached {
		x.expel(x.oldest)
	}
	r.detached = true
	x.detached++
	r.near.detached++
	if r.prev = x.newest; r.prev == nil {
		x.oldest = r
	} else {
		r.prev.next = r
	}
	x.newest = r
	hold := r.s.m.cfg.Resume
	if r.s.m.count() == 0 && t.outstanding() == 0 {
		hold = min(hold, emptyTime)
	}
	var timer *time.Timer
	timer = time.AfterFunc(hold, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if r.timer == timer {
			x.unlist(r)
			x.work.Go(func() { r.s.m.finish(wire.CodeEnded) }) // ends at once
		}
	})
	r.timer = timer
}

// unlist takes r out of the list of detached sessions. Called with mu held.
func (x *Exit) unlist(r *resident) {
	if !r.detached {
		return
	}
	r.detached = false
	x.detached--
	r.near.detached--
	if r.prev == nil {
		x.oldest = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		x.newest = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
	r.timer.Stop()
	r.timer = nil
}

// expel ends a session: it is not known from now on. Called with mu held.
func (x *Exit) expel(r *resident) {
	x.unlist(r)
	x.leave(r)
	delete(x.sessions, r.index)
	x.work.Go(r.s.m.close) // ends when the session's goroutines have
}

// allow counts what a session keeps and tells whether it may keep as much.
func (x *Exit) allow(r *resident, bytes int64, must bool) bool {
	x.keeping.Lock()
	defer x.keeping.Unlock()
	if bytes > 0 && !must && (x.kept+bytes > x.cfg.Kept/2 || r.near.kept+bytes > x.cfg.Kept/4) {
		return false
	}
	x.kept += bytes
	r.kept += bytes
	r.near.kept += bytes
	if bytes > 0 && x.kept > x.cfg.Kept && !x.relief {
		x.relief = true
		x.work.Go(x.relieve) // ends at once; a session's goroutine or Write calls, so the exit is not closed yet
	}
	return true
}

// relieve ends the session that keeps most, of those of the neighbor whose sessions
// keep most together. No other is ended before what it kept is given back.
func (x *Exit) relieve() {
	x.mu.Lock()
	defer x.mu.Unlock()
	near, worst := &neighbor{}, &resident{}
	x.keeping.Lock()
	for _, n := range x.neighbors {
		if n.kept > near.kept {
			near = n
		}
	}
	for _, r := range x.sessions {
		if r.near == near && r.kept > worst.kept {
			worst = r
		}
	}
	x.relief = worst.s != nil
	x.keeping.Unlock()
	if worst.s == nil {
		return
	}
	x.expel(worst)
	x.work.Go(func() { // ends when the session's goroutines have
		worst.s.m.close()
		x.keeping.Lock()
		defer x.keeping.Unlock()
		x.relief = false
	})
}

// Sessions counts the sessions that are known, and of these the ones that have no
// circuit.
func (x *Exit) Sessions() (all, detached int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.sessions), x.detached
}

// Kept returns the bytes of sent packets that are kept.
func (x *Exit) Kept() int64 {
	x.keeping.Lock()
	defer x.keeping.Unlock()
	return x.kept
}

// Close ends every session and waits for every goroutine. Accept refuses
// afterwards.
func (x *Exit) Close() {
	x.mu.Lock()
	x.closed = true
	for _, r := range x.sessions {
		x.expel(r)
	}
	x.mu.Unlock()
	x.work.Wait()
}
