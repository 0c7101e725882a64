package circuit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// Tunables of the pool; the first two are defaults.
const (
	defaultReady    = 3
	defaultMost     = 64
	defaultLifetime = 10 * time.Minute
	avoidTime       = 2 * time.Minute        // how long a node that failed is avoided
	apartTime       = 10 * time.Second       // and one that a neighbor had no link to, the first time: links come back, and to be told so again costs a round trip
	avoidTries      = 16                     // nodes given up one by one, of those that are avoided
	backoffFirst    = 200 * time.Millisecond // after a failed build, doubling
	backoffMost     = 30 * time.Second
	buildRate       = 0.2 // builds per second, lasting: who kills circuits must not make us build at will
	buildSpare      = 8   // and at once, beyond the circuits kept ready
)

// PoolConfig says what a pool keeps and where it comes from.
type PoolConfig struct {
	// Build makes a circuit; Builder.Build.
	Build func(ctx context.Context, path []*netmap.Record) (*Circuit, error)
	// Probe is Build to an exit that may be dead; Builder.Probe. nil: Build.
	Probe func(ctx context.Context, path []*netmap.Record) (*Circuit, error)
	// Choose finds a path without the nodes of avoid. Its error is what Get says
	// when there is no path.
	Choose func(avoid []wire.NodeID) ([]*netmap.Record, error)
	// ChooseTo is the same for paths to one exit. nil: GetTo builds none.
	ChooseTo func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error)
	// ChooseFor is the same for paths to an exit that a want asks for, whatever its
	// key. nil: what no circuit serves waits for one by chance.
	ChooseFor func(w Want, avoid []wire.NodeID) ([]*netmap.Record, error)
	// ChooseElse is Choose for paths to another exit that is as welcome, so that the
	// circuits kept ready do not all end with one exit. nil: they may.
	ChooseElse func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error)
	// Retire closes a circuit that is too old and not in use; it must not block.
	// nil: Circuit.Close.
	Retire func(*Circuit)
	// Opened is called for each new circuit before anybody gets it, by Run.
	// nil: nothing.
	Opened func(*Circuit)

	Ready    int           // circuits kept ready; 0: 3
	Most     int           // circuits at a time; 0: 64, at least Ready
	Lifetime time.Duration // after the first use; 0: ten minutes
}

// Pool keeps circuits ready, so that no stream waits for a build. Run builds
// ahead, one circuit at a time; after a failure it waits, longer each time and
// by a random part, and avoids the node that failed for a while. A circuit is
// retired some time after its first use and closed when nothing uses it any
// more.
//
// A circuit that was used belongs to the isolation key of its first flow, so
// circuits are kept ready beside those in use. New keys get one of the ready ones,
// drawn by what is known of their speed and reliability. When there are as many
// circuits as there may be, the one that was idle for longest makes room.
type Pool struct {
	cfg  PoolConfig
	kick chan struct{} // capacity 1: something has changed for Run

	mu      sync.Mutex // guards the fields below
	members []*member
	avoid   map[wire.NodeID]fault
	failure error     // of the last attempt; nil after a success
	fails   int       // attempts failed in a row
	retry   time.Time // no attempt before it
	builds  *bucket
	renewed int          // how often other paths were wanted
	demands int          // builds under way for wants that no circuit serves
	wishes  map[Key]bool // keys with a build under way to exits of their own
	waiting int          // calls of Get that wait for a circuit
	era     int          // grows when circuits in use are to get no new flows
	ratings ratings
	known   map[Key]bool // keys that have had a circuit; forgotten when there are too many
	sampled time.Time
	beside  *beside       // what another circuit is deserved by; nil: nothing
	alike   time.Time     // no look for another exit than that of all circuits before it
	changed chan struct{} // closed and replaced when a circuit is added
	stopped bool

	watchers sync.WaitGroup // a goroutine for each member, until it has closed
}

// fault is when a node has failed last, and until when it is avoided for that. It is
// remembered for avoidTime.
type fault struct{ at, until time.Time }

// member is a circuit of the pool. Claimed means that GetTo's caller has it for
// itself, old that it gets no new flows.
type member struct {
	c       *Circuit
	exit    *netmap.Record
	claimed bool
	old     bool
	cells   wire.Cells // received when the throughput was sampled last
	carried wire.Cells // both ways, then
	rate    float64    // cells a second, both ways together, then
}

// NewPool checks the configuration; Run starts the work.
func NewPool(cfg PoolConfig) (*Pool, error) {
	if cfg.Build == nil || cfg.Choose == nil {
		return nil, errors.New("circuit pool: a builder and a chooser are needed")
	}
	if cfg.Ready <= 0 {
		cfg.Ready = defaultReady
	}
	if cfg.Most <= 0 {
		cfg.Most = defaultMost
	}
	cfg.Most = max(cfg.Most, cfg.Ready)
	if cfg.Retire == nil {
		cfg.Retire = (*Circuit).Close
	}
	if cfg.Lifetime <= 0 {
		cfg.Lifetime = defaultLifetime
	}
	return &Pool{
		cfg: cfg, kick: make(chan struct{}, 1), avoid: make(map[wire.NodeID]fault), changed: make(chan struct{}),
		ratings: make(ratings), known: make(map[Key]bool), wishes: make(map[Key]bool),
		builds: newBucket(buildRate, float64(cfg.Ready+buildSpare), time.Now()),
	}, nil
}

func alive(c *Circuit) bool {
	select {
	case <-c.Done():
		return false
	default:
		return true
	}
}

func (p *Pool) why(ctxErr error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure == nil {
		return fmt.Errorf("get circuit: none ready yet: %w", ctxErr)
	}
	return fmt.Errorf("get circuit: %w (%w)", p.failure, ctxErr)
}

// Retry lets the pool try again at once, e.g. since a link came up.
func (p *Pool) Retry() {
	p.mu.Lock()
	p.retry, p.fails, p.alike = time.Time{}, 0, time.Time{}
	clear(p.avoid)
	p.mu.Unlock()
	p.wake()
}

// Failure returns why the last attempt to build a circuit failed, nil if it did
// not.
func (p *Pool) Failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

// Circuits returns snapshots of the pool's circuits, oldest first.
func (p *Pool) Circuits() []Status {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Status, 0, len(p.members))
	for _, m := range p.members {
		s := m.c.Status()
		s.Retiring, s.Wished = !p.usable(m, now), m.c.turn.wished
		out = append(out, s)
	}
	return out
}

func (p *Pool) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run keeps the pool until ctx ends; all circuits are closed when it returns.
func (p *Pool) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		now := time.Now()
		if p.tidy(now) {
			p.build(ctx)
			continue
		}
		if b, ok := p.another(now); ok {
			p.buildBeside(ctx, b)
			continue
		}
		if exit, ok := p.alone(now); ok {
			p.buildElse(ctx, exit)
			continue
		}
		p.sleep(ctx, now)
	}
	p.stop()
	p.watchers.Wait()
	return fmt.Errorf("circuit pool: %w", ctx.Err())
}

// sleep waits until something changes or is due.
func (p *Pool) sleep(ctx context.Context, now time.Time) {
	var due <-chan time.Time
	if at := p.nextDue(now); !at.IsZero() {
		timer := time.NewTimer(max(0, at.Sub(now)))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-p.kick:
	case <-due:
	case <-ctx.Done():
	}
}

// tidy drops what has closed, closes what is retired and idle, and says whether
// a circuit is to be built now.
func (p *Pool) tidy(now time.Time) bool {
	p.mu.Lock()
	var retired []*Circuit
	kept := p.members[:0]
	for _, m := range p.members {
		switch {
		case p.usable(m, now):
		case !alive(m.c):
			if !m.old {
				p.died(m.c)
			}
			continue
		case m.c.users.Load() == 0:
			retired = append(retired, m.c)
			continue
		}
		kept = append(kept, m)
	}
	clear(p.members[len(kept):])
	p.members = kept
	p.sample(now)
	if p.waiting > 0 && len(p.members)+p.demands >= p.cfg.Most {
		p.makeRoom(now, true) // one that is idle by now; those nobody has used serve nobody who waits
	}
	build := p.short(now) && !now.Before(p.retry) && p.builds.take(now)
	p.mu.Unlock()
	for _, c := range retired {
		p.cfg.Retire(c)
	}
	return build
}

// nextDue returns when Run has something to do without being told; zero: never.
func (p *Pool) nextDue(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, m := range p.members {
		if m.c.users.Load() > 0 && alive(m.c) {
			sooner(p.sampled.Add(sampleTime))
		}
		if p.usable(m, now) && !m.c.turn.used.IsZero() {
			sooner(m.c.turn.used.Add(p.cfg.Lifetime))
		}
	}
	if p.cfg.ChooseElse != nil && p.roomLeft() {
		if _, only := p.onlyExit(now); only {
			sooner(p.alike)
		}
	}
	if p.short(now) {
		at := p.builds.ready(now)
		if p.retry.After(at) {
			at = p.retry
		}
		sooner(at)
	}
	return next
}

// build makes one circuit and adds it, or notes the failure.
func (p *Pool) build(ctx context.Context) {
	p.mu.Lock()
	begun := p.renewed
	p.mu.Unlock()
	path, err := p.chooseAhead(time.Now())
	var c *Circuit
	if err == nil {
		c, err = p.cfg.Build(ctx, path)
	}
	if err != nil {
		p.failed(ctx, path, err)
		return
	}
	if p.cfg.Opened != nil {
		p.cfg.Opened(c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure, p.fails, p.retry = nil, 0, time.Time{}
	p.add(&member{c: c, exit: path[len(path)-1], old: p.renewed != begun})
}

// add takes a circuit into the pool. Called with mu held, before stop.
func (p *Pool) add(m *member) {
	m.c.idle = p.wake
	for _, id := range m.c.hops {
		p.ratings.note(id, true)
	}
	p.members = append(p.members, m)
	p.watchers.Go(func() { // ends with the circuit
		<-m.c.Done()
		p.wake()
	})
	close(p.changed)
	p.changed = make(chan struct{})
}

// around finds a path without the nodes that failed lately, and best without the
// relays of a circuit that was lost. If there is none it gives up one failed node
// after the other, the first to have failed first: it may be back, or may not have
// been at fault. The relays of the lost circuit it gives up before those, since one
// of them at most is likely to be dead; but after them when the circuit went silent,
// since then a build over the dead one would hang. Whoever fails again is the last to
// be given up after that, so that repeated builds come to every path.
func (p *Pool) around(lost, failed []wire.NodeID, silent bool, choose func(avoid []wire.NodeID) ([]*netmap.Record, error)) (path []*netmap.Record, err error) {
	for {
		for n := len(failed); n >= 0; n = min(n-1, avoidTries) {
			if path, err = choose(slices.Concat(lost, failed[:n])); err == nil {
				return path, nil
			}
			if len(lost) > 0 && !silent {
				break
			}
		}
		if len(lost) == 0 {
			return nil, err
		}
		lost = nil
	}
}

// avoided lists the nodes that failed lately, the last to have failed first.
func (p *Pool) avoided(now time.Time) []wire.NodeID {
	p.mu.Lock()
	defer p.mu.Unlock()
	var avoid []wire.NodeID
	for id, f := range p.avoid {
		if now.Before(f.until) {
			avoid = append(avoid, id)
		} else if now.Sub(f.at) >= avoidTime {
			delete(p.avoid, id)
		}
	}
	slices.SortFunc(avoid, func(a, b wire.NodeID) int { return p.avoid[b].at.Compare(p.avoid[a].at) })
	return avoid
}

// blame has the node avoided at which a build failed.
func (p *Pool) blame(path []*netmap.Record, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blameLocked(path, err, now)
}

func (p *Pool) blameLocked(path []*netmap.Record, err error, now time.Time) {
	var at *BuildError
	if errors.As(err, &at) && at.Hop < len(path) {
		p.avoidLocked(path[at.Hop].ID, at.Reason == wire.ReasonNotConnected, now)
		p.ratings.note(path[at.Hop].ID, false)
	}
}

// avoidLocked has a node avoided that has failed; apart: for a neighbor had no link to it.
func (p *Pool) avoidLocked(id wire.NodeID, apart bool, now time.Time) {
	f, known := p.avoid[id]
	until := now.Add(avoidTime)
	if apart && (!known || now.Before(f.until)) {
		until = now.Add(apartTime) // it has not had another chance yet
	}
	if until.Before(f.until) {
		until = f.until
	}
	p.avoid[id] = fault{now, until}
}

func (p *Pool) failed(ctx context.Context, path []*netmap.Record, err error) {
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
	p.blameLocked(path, err, now)
	var at *BuildError
	if errors.As(err, &at) && at.Reason != 0 && p.fails < toAgain {
		p.fails++ // the refusal came fast and named who is to be avoided: somebody may be waiting
		p.retry = now
		return
	}
	wait := min(backoffMost, backoffFirst<<min(p.fails, 16))
	p.fails++
	p.retry = now.Add(wait/2 + rand.N(wait)) // half to one and a half
}

// stop closes every circuit.
func (p *Pool) stop() {
	p.mu.Lock()
	members := p.members
	p.members, p.stopped = nil, true
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	for _, m := range members {
		m.c.Close()
	}
}
