package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	crand "crypto/rand"

	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/internal/systemd"
	"cuttle/obfs"
	"cuttle/relay/circuit"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
	"cuttle/stack"
	"cuttle/tun"
	"cuttle/tun/hostnet"
)

// client captures this machine's traffic. Its states are those of
// control.State; docs/states.md says what each lets through:
//
//	off -> connecting -> up -> draining -> off
//	           any failure -> blocked -> (down) -> off, (up) -> connecting
//
// connecting and up differ only in whether a circuit is ready, so that is looked
// up when asked. hold.go is what changes the host.
type client struct {
	cfg    *config.Config
	self   wire.NodeID
	mapped *netmap.Map
	guards func() []wire.NodeID
	build  circuit.Builder
	onward *onward
	log    *slog.Logger
	wish   chan bool       // capacity 1: up or down
	relock chan chan error // the lock was turned; answered when that has its effect
	beat   chan struct{}   // taken by the loop, which shows that it runs
	hold   *hold           // of the goroutine of run
	stay   atomic.Bool     // the next end leaves the machine closed
	proof  proof           // that traffic leaves at the exit
	keeper *systemd.Supervisor
	limits *spending // nil: none

	mu      sync.Mutex // guards the fields below
	state   control.State
	since   time.Time
	problem error
	pool    *circuit.Pool
	wished  route

	rngMu sync.Mutex // guards rng
	rng   *rand.Rand
}

func newClient(cfg *config.Config, self wire.NodeID, m *netmap.Map, nb *neighborhood, log *slog.Logger) (*client, error) {
	h := newHold(cfg, nb.known, log)
	var seed [32]byte
	_, _ = crand.Read(seed[:])              // never fails
	exits, _ := exitWishes(cfg.Client.Exit) // New has read it
	c := &client{
		wished: route{cfg.Client.Hops, exits, cfg.Client.Exit},
		relock: make(chan chan error), beat: make(chan struct{}), hold: h,
		cfg: cfg, self: self, mapped: m, guards: nb.up, build: circuit.Builder{Links: nb.lookup},
		onward: newOnward(cfg.Client, memoryShare(cfg.Relay.Memory, machineMemory())), log: log, wish: make(chan bool, 1), state: control.StateOff, since: time.Now(),
		rng: rand.New(rand.NewChaCha8(seed)),
	}
	c.onward.other, c.onward.silent, c.onward.device = c.other, c.proof.shunned, h.wishOf
	return c, nil
}

// want asks for a state; the newest wish counts.
func (c *client) want(up bool) {
	for {
		select {
		case c.wish <- up:
			return
		default:
		}
		select {
		case <-c.wish:
		default:
		}
	}
}

func (c *client) set(s control.State, problem error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != c.state {
		c.state, c.since = s, time.Now()
	}
	c.problem = problem
}

// snapshot returns the state for people.
func (c *client) snapshot() (state control.State, since time.Time, circuits []circuit.Status, problem error) {
	c.mu.Lock()
	state, since, problem = c.state, c.since, c.problem
	pool := c.pool
	c.mu.Unlock()
	if pool == nil {
		return state, since, nil, problem
	}
	circuits = pool.Circuits()
	if state == control.StateConnecting {
		if slices.ContainsFunc(circuits, func(s circuit.Status) bool { return s.Open && !s.Retiring && !s.Wished }) {
			state, since, problem = c.proof.state(circuits, since)
		} else {
			problem = pool.Failure()
		}
	}
	return state, since, circuits, problem
}

// begin closes the machine before anything else is started, if it is to be
// captured or the lock is on, and otherwise undoes what an earlier run left. An
// error means that nothing was or could be done.
func (c *client) begin() error {
	resume := c.hold.resumes()
	if resume {
		c.want(true)
	}
	if !resume {
		c.dropTUN()
	}
	if !resume && !c.hold.locked() {
		_, err := hostnet.Recover(c.cfg.Node.State)
		return err
	}
	if err := c.hold.block(); err != nil {
		if c.hold.applied == nil {
			return err
		}
		c.failed(err)
	}
	return nil
}

// failed notes why traffic is not carried, and whether it is kept in. Nothing is
// looked after meanwhile.
func (c *client) failed(err error) {
	state := control.StateBlocked
	if !c.hold.closed() {
		state, err = control.StateOff, fmt.Errorf("this machine is NOT closed: %w", err)
	}
	c.mu.Lock()
	known := c.state == state && c.problem != nil && c.problem.Error() == err.Error()
	c.mu.Unlock()
	if !known {
		c.log.Error("traffic is not carried", "closed", state == control.StateBlocked, "err", err)
	}
	c.set(state, err)
}

// run follows wishes until ctx ends. Then the machine is opened if released
// says that an operator wants so; otherwise it stays closed.
func (c *client) run(ctx context.Context, released func() bool) error {
	for {
		up := c.idle(ctx)
		switch {
		case ctx.Err() != nil:
			if released() && !c.stay.Load() && !c.hold.locked() {
				return c.hold.open()
			}
			return c.hold.leave()
		case up:
			if err := c.capture(ctx); err != nil {
				c.failed(err)
				continue
			}
		}
		if ctx.Err() != nil {
			continue // and idle sees to the end
		}
		c.set(control.StateDraining, nil)
		if c.rest() == nil {
			c.log.Info("traffic released")
		}
	}
}

// rest puts the host in the state off: open, or closed if the lock is on. With an
// error not everything is as it was, or not closed.
func (c *client) rest() error {
	if c.hold.locked() {
		err := c.hold.block()
		if err != nil {
			c.failed(err)
			return err
		}
		c.set(control.StateOff, nil)
		return nil
	}
	err := c.hold.open()
	if err != nil {
		c.log.Error("this machine is open, but not as it was", "err", err)
	}
	c.set(control.StateOff, err)
	return err
}

// idle waits for a wish or the end of ctx and looks after the block meanwhile,
// if one is in force.
func (c *client) idle(ctx context.Context) (up bool) {
	for ctx.Err() == nil {
		watching, stop := context.WithCancel(ctx)
		watched := make(chan struct{})
		var broken error
		go func() { // ends with stop
			defer close(watched)
			broken = c.hold.watch(watching)
		}()
		var turned chan error
		select {
		case <-ctx.Done():
		case up = <-c.wish:
			stop()
			<-watched // the wish will change what is watched
			return up
		case turned = <-c.relock:
		case <-c.beat:
		case <-watched:
			if broken == nil {
				break // the end of ctx
			}
			c.failed(broken)
			select { // somebody takes away what cannot be mended: not all the time
			case <-time.After(mendPause):
			case <-ctx.Done():
			}
			if err := c.hold.block(); err != nil {
				broken = err
			}
			c.failed(broken)
		}
		stop()
		<-watched
		if turned == nil {
			continue
		}
		var err error
		if state, _, _, _ := c.snapshot(); state == control.StateOff || c.hold.applied == nil {
			err = c.rest()
		}
		turned <- err
	}
	return false
}

// mendPause is between attempts to put a block in force again.
const mendPause = time.Second

// capture is the time from up to down (nil), the end of ctx (nil) or a failure,
// after which the machine is still closed.
func (c *client) capture(ctx context.Context) error {
	if err := c.hold.block(); err != nil {
		return err
	}
	c.set(control.StateConnecting, nil) // only now, since it promises that nothing gets out
	dev, err := c.openTUN()
	if err != nil {
		return err
	}
	defer c.dropTUN()
	if err := c.hold.capture(); err != nil {
		return errors.Join(err, dev.Close(), c.hold.block())
	}
	c.log.Info("capturing traffic", "device", dev.Name())
	err = c.carry(ctx, dev)
	if err != nil && ctx.Err() == nil {
		return errors.Join(err, c.hold.block())
	}
	return nil
}

func (c *client) mtu() int { return tunMTU(c.cfg) }

// carry runs the pool and the stack until a wish for down (nil), the end of ctx
// (nil), or a failure.
func (c *client) carry(ctx context.Context, dev tun.Device) error {
	pool, err := c.newPool()
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	st, err := stack.New(stack.Config{Device: dev, Dialer: c.onward, Log: c.log, Peers: !c.onward.isolation.destination})
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	c.mu.Lock()
	c.pool = pool
	c.mu.Unlock()
	c.onward.pool.Store(pool)
	defer func() {
		c.onward.pool.Store(nil)
		c.onward.ending.Wait()
		c.onward.names.Clear()
		c.mu.Lock()
		c.pool = nil
		c.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() { // ends with the wish for down, or when this returns
		defer cancel()
		c.waitDown(ctx)
	})
	return runParts(ctx, []part{{"spending", c.spend}, {"circuits", ignoreEnd(pool.Run)}, {"sessions", c.sessions}, {"proof of the exit", c.prove}, {"netstack", st.Run}, {"capture", c.hold.watch}, {"lan", c.hold.serveLAN}})
}

// sessions tells the exits, when the client goes off, that nobody will come back.
func (c *client) sessions(ctx context.Context) error {
	<-ctx.Done()
	c.onward.end()
	return nil
}

func (c *client) newPool() (*circuit.Pool, error) {
	return circuit.NewPool(circuit.PoolConfig{
		Build: c.buildCounted, Probe: c.probeCounted, Choose: c.choose, ChooseTo: c.chooseTo, ChooseFor: c.chooseFor, ChooseElse: c.chooseElse, Retire: c.onward.retire, Ready: c.cfg.Client.Pool,
	})
}

// buildCounted builds a circuit whose cells count as spent.
func (c *client) buildCounted(ctx context.Context, path []*netmap.Record) (*circuit.Circuit, error) {
	return c.counted(c.build.Build(ctx, path))
}

func (c *client) probeCounted(ctx context.Context, path []*netmap.Record) (*circuit.Circuit, error) {
	return c.counted(c.build.Probe(ctx, path))
}

func (c *client) counted(made *circuit.Circuit, err error) (*circuit.Circuit, error) {
	if err == nil {
		c.limits.opened(made)
	}
	return made, err
}

// spend counts what is spent; at a limit it ends all flows, once: new ones are refused.
func (c *client) spend(ctx context.Context) error { return c.limits.run(ctx, c.guards, c.onward.end) }

func (c *client) waitDown(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case up := <-c.wish:
			if !up {
				return
			}
		case turned := <-c.relock:
			turned <- nil // it is closed, and down will look
		case <-c.beat:
		}
	}
}

// choose finds a path for a new circuit.
func (c *client) choose(avoid []wire.NodeID) ([]*netmap.Record, error) {
	return c.chooseFor(circuit.Want{}, avoid)
}

// chooseTo finds a path to one exit, for a session that is there.
func (c *client) chooseTo(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
	return c.choosePath(c.route(), []netmap.ExitWish{{ID: exit}}, netmap.Constraints{Avoid: avoid})
}

func (c *client) choosePath(r route, exits []netmap.ExitWish, want netmap.Constraints) ([]*netmap.Record, error) {
	c.rngMu.Lock()
	defer c.rngMu.Unlock()
	want.Now, want.Hops, want.Self, want.Guards, want.Exits = time.Now(), r.hops, c.self, c.limits.guards(c.guards()), exits
	want.MaxTier = wire.Tier(c.cfg.Client.MaxTier)
	if c.limits != nil {
		want.MaxTier = c.limits.maxTier
	}
	return netmap.Choose(c.rng, c.mapped, want)
}

// exitWishes reads the configuration's list: country codes or node addresses.
func exitWishes(list []string) ([]netmap.ExitWish, error) {
	wishes := make([]netmap.ExitWish, 0, len(list))
	for _, s := range list {
		if len(s) == 2 {
			wishes = append(wishes, netmap.ExitWish{Country: s})
			continue
		}
		id, err := wire.ParseNodeID(s)
		if err != nil {
			return nil, fmt.Errorf("client.exit: %w, or a country of two capital letters", err)
		}
		wishes = append(wishes, netmap.ExitWish{ID: id})
	}
	return wishes, nil
}

// retry lets the pool look again at once, since a link came up.
func (c *client) retry() {
	c.mu.Lock()
	pool := c.pool
	c.mu.Unlock()
	if pool != nil {
		pool.Retry()
		c.onward.retry()
	}
}

// ignoreEnd turns the end of a context, which is how parts are stopped, into nil.
func ignoreEnd(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := run(ctx)
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		return obfs.Scrub(err)
	}
}
