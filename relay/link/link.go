// Package link speaks to one neighbor: it authenticates both ends, carries the
// cells of many circuits over one reliable connection, and counts them
// (docs/protocol.md sections 3.2 and 5).
//
// A link is pulled, not pushed: circuits queue cells on their lanes, and one
// writer goroutine takes what is there whenever the connection can take more,
// by a fair scheduler that serves short queues first. One reader goroutine
// opens records in place and hands cells to the owners of the lanes. Each lane
// has credit in both directions, so no queue grows beyond what was granted, and
// nothing is ever dropped on an open lane. There is no timer in the data path.
//
// The package knows neither onion layers of circuits nor prices nor addresses:
// the connection comes from a mask, the neighbor's record is judged by
// Config.Check, money by an Account. It keeps no state after a link has ended.
// It is called by internal/node (Dial, Accept, Run) and relay/circuit (lanes).
//
// Locks: Lane.mu guards one lane's queue and state, Link.mu the table of lanes,
// the scheduler's lists and the control queue. A Lane.mu may be held while
// Link.mu is taken, never the other way round; no callback runs under either.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// Tunables.
const (
	handshakeTime   = 10 * time.Second
	keepaliveTick   = 5 * time.Second
	pingAfter       = 10 * time.Second // docs/protocol.md section 5
	deadAfter       = 30 * time.Second // docs/protocol.md section 5
	deafAfter       = 60 * time.Second // docs/protocol.md section 5
	defaultMaxLanes = 8192
	spareLanes      = 1024      // beyond the maximum, while refusals are on their way
	maxControl      = 1024      // frames that wait, the last words on lanes aside
	maxControlBytes = 2 << 20   // and their bytes
	maxCredit       = 1 << 24   // cells a neighbor may have granted on one lane
	maxRTTSamples   = 4         // the smallest of the last ones counts
	readBuffer      = 256 << 10 // bytes; one read brings several records
)

// Ways in which a neighbor ends a link by what it sends.
var (
	errDead     = errors.New("nothing arrived for 30 s")
	errDeaf     = errors.New("no answer to a ping for 60 s")
	errOverflow = errors.New("control queue overflow")
	errCircuit  = errors.New("frame for an unknown circuit")
	errState    = errors.New("frame out of place")
	errNumber   = errors.New("circuit number out of order")
	errOverrun  = errors.New("more cells than credit")
	errLanes    = errors.New("too many circuits")
)

// ErrTooMany is returned by Open when the link carries as many circuits as it
// may, or as many wait to be opened.
var ErrTooMany = errors.New("too many circuits on this link")

// Peer is a neighbor as its record describes it.
type Peer struct {
	ID  wire.NodeID
	KEM []byte // its public handshake key, wire.KEMPublicSize bytes
}

// Config is what all links of a node share.
type Config struct {
	ID     wire.NodeID
	Key    *onion.StaticKey
	Record []byte        // our own signed record, shown to neighbors we dial
	Suites []onion.Suite // in order of preference; nil: onion's own choice

	// Check judges the record of a neighbor that dialled us: signature, validity,
	// whether we want it. It is called before we answer.
	Check func(record []byte) (Peer, error)
	// Seen remembers first messages, so that a recorded one is left unanswered;
	// shared by all links of a node. nil: a memory of this process's own.
	Seen *onion.ReplayCache
	// Accounts gives a new link its account; nil: a Counter.
	Accounts func(*Link) Account
	// Budget is shared by all links of a node; nil: one of its own for each link.
	Budget *Budget

	MaxWindow int // cells granted at most per lane; 0: 4096 to 16384, by the budget
	MaxLanes  int // circuits of the neighbor's, and of ours, at most; 0: 8192
}

// Switch takes circuits that the neighbor opens. relay/circuit implements it.
type Switch interface {
	// Create is called by the reader and must not block. msg1 is valid during the
	// call. The lane is to be answered with Created or Refuse, or closed.
	Create(lane *Lane, msg1 []byte)
}

// Link is one authenticated connection to a neighbor. Dial and Accept make it;
// Run must be called once.
type Link struct {
	conn      net.Conn
	peer      Peer
	initiator bool
	account   Account
	counter   Counter
	budget    *Budget
	maxWindow int64
	maxLanes  int
	start     time.Time

	sealer *onion.Sealer // the writer's
	pacer  pacer         // the writer's
	recv   receiver

	mu       sync.Mutex // guards the fields up to slow
	ended    bool
	lanes    map[wire.CircuitID]*Lane
	nextOurs wire.CircuitID
	theirs   int // lanes in the table that the neighbor opened
	frames   [][]byte
	bytes    int // in frames
	partings int // of frames, those that are last words
	grants   []*Lane
	fresh    laneList
	old      laneList
	bereft   []Receiver // of lanes that were evicted, to be told by watch
	slow     throttle

	queued  atomic.Int64  // cells in all lanes
	arrived atomic.Int64  // when something arrived last, on the link's clock
	wakeup  chan struct{} // capacity 1: there is something to send
	tell    chan struct{} // capacity 1: somebody is bereft
	pace    chan struct{} // capacity 1: the throttle has changed
	once    sync.Once     // guards err and done
	err     error
	done    chan struct{}
	ping    pinger
}

func newLink(conn net.Conn, cfg Config, peer Peer, initiator bool, s *onion.Sealer, o *onion.Opener) *Link {
	l := &Link{
		conn: conn, peer: peer, initiator: initiator, budget: cfg.Budget,
		maxWindow: int64(cfg.MaxWindow), maxLanes: cfg.MaxLanes, start: time.Now(),
		lanes: make(map[wire.CircuitID]*Lane), nextOurs: 1,
		wakeup: make(chan struct{}, 1), tell: make(chan struct{}, 1), pace: make(chan struct{}, 1), done: make(chan struct{}),
	}
	l.sealer, l.recv.opener, l.pacer.socket = s, o, socketOf(conn)
	l.recv.run, l.recv.spare = make([]*wire.Cell, 0, maxRun), make([]*wire.Cell, 0, maxRun)
	if !initiator {
		l.nextOurs |= acceptorBit
	}
	if l.budget == nil {
		l.budget = NewBudget(0)
	}
	if l.maxWindow <= 0 {
		l.maxWindow = min(max(l.budget.limit/windowParts/cellMemory, leastMaxWindow), defaultMaxWindow)
	}
	l.maxWindow = max(l.maxWindow, wire.InitialCredit)
	if l.maxLanes <= 0 {
		l.maxLanes = defaultMaxLanes
	}
	l.account = &l.counter
	if cfg.Accounts != nil {
		l.account = cfg.Accounts(l)
	}
	return l
}

// acceptorBit is set in the numbers of circuits that the link's acceptor opens.
const acceptorBit wire.CircuitID = 1 << 31

// Peer returns the neighbor, authenticated.
func (l *Link) Peer() Peer { return l.peer }

// LocalAddr is this end of the connection.
func (l *Link) LocalAddr() net.Addr { return l.conn.LocalAddr() }

// Done is closed when the link has failed or ended.
func (l *Link) Done() <-chan struct{} { return l.done }

// Admit asks the account whether the neighbor may open a circuit that it pays.
func (l *Link) Admit(tier wire.Tier) error { return l.account.Admit(tier) }

// Wake asks the writer to call the account's Marker soon.
func (l *Link) Wake() { l.wake() }

// Bill queues a BILL frame with a copy of msg (1 to wire.MaxBill bytes). It
// stands in the stream before cells that are not yet in a batch; messages that
// must agree with counts come from Account.Marker instead.
func (l *Link) Bill(msg []byte) error {
	if len(msg) == 0 || len(msg) > wire.MaxBill {
		return fmt.Errorf("bill message of %d bytes", len(msg))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return ErrClosed
	}
	l.controlLocked(wire.AppendBill(nil, msg))
	return nil
}

// Open opens a circuit to the neighbor; we pay tier for its cells. msg1
// (wire.HopMsg1Size bytes) is copied. The answer comes to r.
func (l *Link) Open(tier wire.Tier, msg1 []byte, r Receiver) (*Lane, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, ErrClosed
	}
	if l.crowded() || len(l.lanes)-l.theirs >= l.maxLanes || l.nextOurs&^acceptorBit == acceptorBit-1 {
		return nil, ErrTooMany
	}
	ln := newLane(l, l.nextOurs, tier, true, r)
	l.nextOurs++
	l.lanes[ln.id] = ln
	l.controlLocked(wire.AppendCreate(nil, ln.id, tier, msg1))
	return ln, nil
}

// Opened tells how many circuits that we opened are on the link, and how many may be.
func (l *Link) Opened() (n, most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lanes) - l.theirs, l.maxLanes
}

// Close ends the link; Run returns soon after.
func (l *Link) Close() { l.fail(ErrClosed) }

// fail ends the link for its first cause.
func (l *Link) fail(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
	})
}

// Run carries the link until ctx ends, the connection breaks or the neighbor
// breaks the protocol, and returns why. All lanes have ended when it returns.
func (l *Link) Run(ctx context.Context, sw Switch) error {
	l.recv.sw = sw
	l.budget.join(l)
	var wg sync.WaitGroup
	wg.Go(func() { l.fail(l.read()) })  // ends when the connection is closed
	wg.Go(func() { l.fail(l.write()) }) // ends when done or the connection is closed
	l.watch(ctx)
	_ = l.conn.Close() // the error that counts is l.err
	wg.Wait()
	l.endLanes()
	l.budget.leave(l)
	l.account.Down()
	return fmt.Errorf("link: %w", l.err)
}

// bereave has a receiver told that its lane is gone.
func (l *Link) bereave(r Receiver) {
	l.mu.Lock()
	ended := l.ended
	if !ended {
		l.bereft = append(l.bereft, r)
	}
	l.mu.Unlock()
	if ended { // watch may have looked for the last time
		go r.Closed() // ends at once
		return
	}
	select {
	case l.tell <- struct{}{}:
	default:
	}
}

// tellBereft calls Closed for the lanes that were evicted.
func (l *Link) tellBereft() {
	l.mu.Lock()
	bereft := l.bereft
	l.bereft = nil
	l.mu.Unlock()
	for _, r := range bereft {
		r.Closed()
	}
}

// watch sees to keepalive and evicted lanes and returns when the link is done.
func (l *Link) watch(ctx context.Context) {
	tick := time.NewTicker(keepaliveTick)
	defer tick.Stop()
	l.sendPing()
	var pace <-chan time.Time // ticks while the link is throttled
	var paced *time.Ticker
	defer func() {
		if paced != nil {
			paced.Stop()
		}
	}()
	for {
		select {
		case <-l.done:
			return
		case <-l.pace:
			switch slow := l.slow.rate.Load() > 0; {
			case slow && paced == nil:
				paced = time.NewTicker(throttleTick)
				pace = paced.C
			case !slow && paced != nil:
				paced.Stop()
				paced, pace = nil, nil
			}
		case <-pace:
			l.refillAndWake()
		case <-ctx.Done():
			l.fail(ctx.Err())
			return
		case <-l.tell:
			l.tellBereft()
		case <-tick.C:
			if l.now()-time.Duration(l.arrived.Load()) >= deadAfter {
				l.fail(errDead)
				return
			}
			if l.unanswered() >= deafAfter {
				l.fail(errDeaf)
				return
			}
			l.sendPing()
		}
	}
}

func (l *Link) endLanes() {
	l.mu.Lock()
	l.ended = true
	lanes := l.lanes
	l.lanes = nil
	l.mu.Unlock()
	for _, ln := range lanes {
		if r, _ := ln.theirClose(); r != nil {
			r.Closed()
		}
	}
	l.tellBereft()
}

// now is the link's clock: time since it was made, never 0.
func (l *Link) now() time.Duration { return max(1, time.Since(l.start)) }
