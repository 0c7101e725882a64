package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	crand "crypto/rand"

	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/obfs"
	"cuttle/relay/circuit"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
	"cuttle/stack"
	"cuttle/tun"
	"cuttle/tun/hostnet"
)

// client captures this machine's traffic. Its states are those of
// control.State:
//
//	off -> connecting -> up -> draining -> off
//	           any failure of the capture -> blocked -> (down) -> off
//
// connecting and up differ only in whether a circuit is ready, so that is looked
// up when asked. In blocked everything unmarked stays unreachable: routes and
// rules remain as they are.
type client struct {
	cfg    *config.Config
	self   wire.NodeID
	mapped *netmap.Map
	guards func() []wire.NodeID
	build  circuit.Builder
	onward *onward
	log    *slog.Logger
	wish   chan bool // capacity 1: up or down

	mu      sync.Mutex // guards the fields below
	state   control.State
	since   time.Time
	problem error
	pool    *circuit.Pool

	rngMu sync.Mutex // guards rng
	rng   *rand.Rand
}

func newClient(cfg *config.Config, self wire.NodeID, m *netmap.Map, nb *neighborhood, log *slog.Logger) *client {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails
	return &client{
		cfg: cfg, self: self, mapped: m, guards: nb.up, build: circuit.Builder{Links: nb.lookup},
		onward: newOnward(), log: log, wish: make(chan bool, 1), state: control.StateOff, since: time.Now(),
		rng: rand.New(rand.NewChaCha8(seed)),
	}
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
		for _, s := range circuits {
			if s.Open && !s.Retiring {
				return control.StateUp, since, circuits, nil
			}
		}
		problem = pool.Failure()
	}
	return state, since, circuits, problem
}

// run follows wishes until ctx ends, and leaves the host as it was.
func (c *client) run(ctx context.Context) error {
	if c.cfg.Client.Up {
		c.want(true)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case up := <-c.wish:
			if !up {
				continue
			}
		}
		if err := c.capture(ctx); err != nil {
			return err
		}
	}
}

// capture is the time from up to down. It returns an error only when the host
// could not be put back.
func (c *client) capture(ctx context.Context) error {
	c.set(control.StateConnecting, nil)
	dev, applied, err := c.takeOver()
	if err != nil {
		c.log.Error("cannot capture traffic", "err", err)
		c.set(control.StateOff, err)
		return nil
	}
	c.log.Info("capturing traffic", "device", dev.Name())
	err = c.carry(ctx, dev)
	if err != nil && ctx.Err() == nil {
		c.log.Error("traffic is blocked", "err", err)
		c.set(control.StateBlocked, err)
		c.waitDown(ctx)
	}
	c.set(control.StateDraining, nil)
	if err := applied.Revert(); err != nil {
		return fmt.Errorf("put the host's routes back: %w; they are undone at the next start", err)
	}
	c.log.Info("traffic released")
	c.set(control.StateOff, nil)
	return nil
}

// takeOver opens the TUN and points the host at it.
func (c *client) takeOver() (tun.Device, *hostnet.Applied, error) {
	host, err := hostnet.Inspect()
	if err != nil {
		return nil, nil, err
	}
	plan, err := hostnet.NewPlan(hostnet.Config{
		Device: c.cfg.Tun.Name, MTU: c.mtu(), Mark: c.cfg.Tun.Mark, Table: c.cfg.Tun.Table, ResolvConf: c.cfg.Tun.ResolvConf,
	}, host)
	if err != nil {
		return nil, nil, err
	}
	dev, err := tun.Open(c.cfg.Tun.Name, c.mtu())
	if err != nil {
		return nil, nil, err
	}
	applied, err := hostnet.Apply(c.cfg.Node.State, plan)
	if err != nil {
		return nil, nil, errors.Join(err, dev.Close())
	}
	return dev, applied, nil
}

func (c *client) mtu() int {
	if c.cfg.Tun.MTU != 0 {
		return c.cfg.Tun.MTU
	}
	return stack.DefaultMTU
}

// carry runs the pool and the stack until a wish for down (nil), the end of ctx
// (nil), or a failure.
func (c *client) carry(ctx context.Context, dev tun.Device) error {
	pool, err := c.newPool()
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	st, err := stack.New(stack.Config{Device: dev, Dialer: c.onward, Log: c.log})
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
	return runParts(ctx, []part{{"circuits", ignoreEnd(pool.Run)}, {"sessions", c.sessions}, {"netstack", st.Run}})
}

// sessions tells the exits, when the client goes off, that nobody will come back.
func (c *client) sessions(ctx context.Context) error {
	<-ctx.Done()
	c.onward.end()
	return nil
}

func (c *client) newPool() (*circuit.Pool, error) {
	return circuit.NewPool(circuit.PoolConfig{
		Build: c.build.Build, Choose: c.choose, ChooseTo: c.chooseTo, Retire: c.onward.retire, Ready: c.cfg.Client.Pool,
	})
}

func (c *client) waitDown(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case up := <-c.wish:
			if !up {
				return
			}
		}
	}
}

// choose finds a path for a new circuit.
func (c *client) choose(avoid []wire.NodeID) ([]*netmap.Record, error) {
	exits, err := exitWishes(c.cfg.Client.Exit)
	if err != nil {
		return nil, err
	}
	return c.path(exits, avoid)
}

// chooseTo finds a path to one exit, for a session that is there.
func (c *client) chooseTo(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
	return c.path([]netmap.ExitWish{{ID: exit}}, avoid)
}

func (c *client) path(exits []netmap.ExitWish, avoid []wire.NodeID) ([]*netmap.Record, error) {
	c.rngMu.Lock()
	defer c.rngMu.Unlock()
	return netmap.Choose(c.rng, c.mapped, netmap.Constraints{
		Now: time.Now(), Hops: c.cfg.Client.Hops, Self: c.self, Guards: c.guards(), Exits: exits,
		Avoid: avoid, MaxTier: wire.Tier(c.cfg.Client.MaxTier),
	})
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
