package circuit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// Tunables of the switch.
const (
	handshakeQueue  = 64              // CREATEs that wait for a worker
	handshakeTime   = 5 * time.Second // that a CREATE may wait; the client gives up soon after
	createRate      = 100             // circuits a neighbor may open per second, lasting
	createBurst     = 200             // and at once
	extendShare     = 4               // and have extended, a part of so many, since a neighbor of ours takes what we ask for all of them as ours
	replayedEntries = 1 << 17         // first messages remembered
	maxNeighbors    = 4096            // of whom more is kept than what circuits they have
	maxCircuits     = 1 << 15         // of all neighbors; an idle one costs a few kB for as long as it likes
)

// SwitchConfig is what a relay offers.
type SwitchConfig struct {
	ID     wire.NodeID
	Key    *onion.StaticKey
	Suites []onion.Suite // nil: onion's own choice
	Links  Links

	Relay      bool      // extend circuits to our neighbors
	RelayPrice wire.Tier // added per cell for that
	ExitPrice  wire.Tier // asked per cell as the last hop

	// Serve is called at the first payload of a session on a circuit that pays our exit
	// price, by a link's reader; it must not block. nil: this node is no exit.
	Serve func(*Terminal) (Handler, error)
}

// Switch is the relay's end of others' circuits. It implements link.Switch.
type Switch struct {
	cfg     SwitchConfig
	seen    *onion.ReplayCache
	jobs    chan job
	stopped chan struct{}
	open    atomic.Int64

	mu     sync.Mutex // guards shares
	shares map[wire.NodeID]*share
}

var _ link.Switch = (*Switch)(nil)

type job struct {
	lane *link.Lane
	msg1 []byte
	at   time.Time
}

// NewSwitch checks the configuration; Run starts the work.
func NewSwitch(cfg SwitchConfig) (*Switch, error) {
	if cfg.Key == nil || cfg.ID.IsZero() || cfg.Links == nil {
		return nil, errors.New("switch: identity, key and links are needed")
	}
	if len(cfg.Suites) == 0 {
		cfg.Suites = onion.DefaultSuites()
	}
	return &Switch{
		cfg: cfg, seen: onion.NewReplayCache(replayedEntries),
		jobs: make(chan job, handshakeQueue), stopped: make(chan struct{}),
		shares: make(map[wire.NodeID]*share),
	}, nil
}

// Open returns how many circuits pass through or end here now.
func (s *Switch) Open() int { return int(s.open.Load()) }

// Run answers CREATEs, by as many workers as there are processors, until ctx
// ends. Call it once.
func (s *Switch) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() { s.work(ctx) }) // ends with ctx
	}
	wg.Wait()
	close(s.stopped)
	for {
		select {
		case j := <-s.jobs:
			j.lane.Refuse(wire.ReasonBusy)
		default:
			return fmt.Errorf("switch: %w", ctx.Err())
		}
	}
}

func (s *Switch) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-s.jobs:
			s.answer(j)
		}
	}
}

// Create takes a neighbor's CREATE: it is refused at once, or answered by a
// worker.
func (s *Switch) Create(lane *link.Lane, msg1 []byte) {
	if !s.cfg.Relay && s.cfg.Serve == nil {
		lane.Refuse(wire.ReasonNotServed)
		return
	}
	switch err := lane.Link().Admit(lane.Tier()); {
	case errors.Is(err, link.ErrBusy):
		lane.Refuse(wire.ReasonBusy)
		return
	case err != nil:
		lane.Refuse(wire.ReasonPaymentDue)
		return
	}
	now := time.Now()
	if !s.mayCreate(lane.Link().Peer().ID, now) {
		lane.Refuse(wire.ReasonBusy)
		return
	}
	select {
	case <-s.stopped:
		lane.Refuse(wire.ReasonBusy)
		return
	default:
	}
	select {
	case s.jobs <- job{lane, append([]byte(nil), msg1...), now}:
	default:
		lane.Refuse(wire.ReasonBusy)
	}
}

func (s *Switch) answer(j job) {
	if time.Since(j.at) > handshakeTime {
		j.lane.Refuse(wire.ReasonBusy)
		return
	}
	msg2, keys, err := onion.AcceptHop(s.cfg.ID, s.cfg.Key, s.seen, s.cfg.Suites, j.msg1)
	if err != nil { // the peer's bad bytes: it is told, and nobody else
		j.lane.Refuse(wire.ReasonProtocol)
		return
	}
	hop, err := onion.NewHop(keys)
	if err != nil {
		j.lane.Refuse(wire.ReasonProtocol)
		return
	}
	t := &transit{sw: s, hop: hop, prev: j.lane}
	s.opened(t)
	if err := j.lane.Created(msg2, t); err != nil { // it was closed meanwhile
		t.close()
	}
}
