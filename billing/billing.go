// Package billing meters the cells a node exchanges with its neighbors, agrees
// with each neighbor on the counts, keeps the ledger and settles what is owed
// (docs/protocol.md section 7).
//
//	link --Add--> Neighbor (atomic counts) --TALLY at markers--> agreed counts
//	     --> ledger (double entry, SQLite) --> accountant --> settler --> chain
//
// Money follows only from counts that both neighbors have agreed on at the same
// position of the link's stream; what is not agreed yet counts against a
// neighbor's credit but is never charged. The package refuses to guess: counts
// that differ by one cell stop credit (disputed), a ledger of another chain or
// token or one whose sums are not zero is not opened, and a payment whose bytes
// are not durable is not sent. It knows nothing of circuits, destinations or
// clients; a payer is a neighbor and nobody else.
//
// internal/node makes one Book, gives each link its Neighbor, and calls Run.
// Locking: counts are atomic. A Neighbor's protocol state has one mutex, which
// is never held while calling a link or waiting for the disk. The ledger has one
// writer goroutine; everything that changes money is a job of that goroutine, in
// one transaction. Book.mu guards the list of neighbors.
//
// What a crash loses: counts since the last agreed marker. A marker is due after
// MarkerCells sent or MarkerEvery and the next one waits for the answer to the
// one before, so at most two intervals' cells of each direction, or what the
// link carries in a round trip and a disk flush if that is more. At the next
// connection both sides take the lower of their two agreed counts; the creditor
// writes the rest off.
package billing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// Defaults of Config.
const (
	DefaultMarkerCells = wire.Cells(1<<20/wire.BodySize + 1) // 1 MiB of cells
	DefaultMarkerEvery = 10 * time.Second
	DefaultCredit      = Amount(100_000_000) // 0.1 token
	DefaultSettleAbove = Amount(50_000_000)
	DefaultSettleAfter = 24 * time.Hour
	DefaultScanEvery   = time.Hour
	DefaultPollEvery   = 15 * time.Second
	DefaultDueAfter    = 48 * time.Hour
	DefaultStrangers   = Amount(100_000_000)
	DefaultThrottle    = 64 // cells a second, some 88 kB
)

// Errors that callers tell apart. Admit returns the first four, and ErrFull.
var (
	ErrDue          = errors.New("payment due")
	ErrDisputed     = errors.New("counts are disputed")
	ErrNoSettlement = errors.New("no common way to settle")
	ErrTier         = errors.New("tier out of range")
	ErrClosed       = errors.New("ledger is closed")
	ErrReplaced     = errors.New("a newer link to this neighbor has taken over")
	ErrMessage      = errors.New("bad billing message")
)

// Outbox is the link as billing uses it; *link.Link has these methods. None of
// them blocks.
type Outbox interface {
	Bill(msg []byte) error // queues a BILL frame with a copy of msg
	Wake()                 // asks the writer to call Marker soon
	Throttle(cells int)    // bounds the neighbor's own cells a second, each way; 0: no bound
	Close()                // ends the link
}

// Config is what a Book needs. Zero values mean the defaults.
type Config struct {
	Path string      // the ledger file; its folder exists
	Self wire.NodeID // our own address

	// Direct settles by ERC-20 transfers. Nil means that counts and debts are
	// kept and nothing is ever paid or asked for.
	Direct *DirectConfig
	// Account settles without a chain: debts are paid by saying so on the link.
	// Not together with Direct.
	Account bool

	Credit Amount // a neighbor that owes more is cut off
	// CreditStart is the credit of a neighbor that has paid nothing yet; it grows by
	// what was paid, up to Credit. 0: Credit, from the start.
	CreditStart Amount
	// CreditStrangers bounds what all neighbors together may owe beyond what each has
	// paid so far.
	CreditStrangers Amount
	// DueAfter is when a debt to us begins to be too old: what its neighbor may owe
	// falls from then on.
	DueAfter      time.Duration
	ThrottleCells int // a second, each way, that a throttled neighbor is carried

	SettleAbove Amount        // we pay a debt above this at once
	SettleAfter time.Duration // and any that has a part of this age; between, the bound falls in a line
	MinPayment  Amount        // a smaller debt waits, however old; default 1
	ScanEvery   time.Duration // how often debts are looked at
	PollEvery   time.Duration // how often the chain is asked while something is under way
	MarkerCells wire.Cells    // cells sent from one marker to the next
	MarkerEvery time.Duration // time from one marker to the next, if anything was sent

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
	// Up is how long the program has run, by a clock that nobody sets; nil: that of
	// the system.
	Up func() time.Duration
}

func (c *Config) setDefaults() error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.SettleAfter, DefaultSettleAfter)
	def(&c.ScanEvery, DefaultScanEvery)
	def(&c.PollEvery, DefaultPollEvery)
	def(&c.MarkerEvery, DefaultMarkerEvery)
	def(&c.DueAfter, DefaultDueAfter)
	if c.Credit == 0 {
		c.Credit = DefaultCredit
	}
	if c.CreditStart == 0 || c.CreditStart > c.Credit {
		c.CreditStart = c.Credit
	}
	if c.SettleAbove == 0 {
		c.SettleAbove = DefaultSettleAbove
	}
	if c.MinPayment == 0 {
		c.MinPayment = 1
	}
	if c.CreditStrangers == 0 {
		c.CreditStrangers = DefaultStrangers
	}
	if c.ThrottleCells == 0 {
		c.ThrottleCells = DefaultThrottle
	}
	if c.MarkerCells == 0 {
		c.MarkerCells = DefaultMarkerCells
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Up == nil {
		start := time.Now()
		c.Up = func() time.Duration { return time.Since(start) }
	}
	if c.Path == "" || c.Self.IsZero() || c.Credit < 0 || c.CreditStart < 0 || c.SettleAbove < 0 || c.MinPayment < 0 ||
		c.CreditStrangers < 0 || c.ThrottleCells < 0 || min(c.SettleAfter, c.ScanEvery, c.PollEvery, c.MarkerEvery, c.DueAfter) < 0 {
		return errors.New("billing: path or own address is missing, or a limit is negative")
	}
	return nil
}

// urgent is the least debt that a warning makes us pay at once: nobody makes us
// pay fees for dust.
func (c *Config) urgent() Amount { return min(c.CreditStart, c.SettleAbove) / 2 }

// Book is a node's ledger and accountant.
type Book struct {
	cfg     Config
	ledger  *ledger
	settler settler
	release func()        // gives back what Config has lent
	ask     chan request  // Settle asks the chain loop; unbuffered
	urged   chan struct{} // a neighbor asks for payment; holds one, more are the same

	strangers *strangers

	mu    sync.Mutex
	peers map[wire.NodeID]*peer

	seen  chainView   // what the last poll saw, for Report
	blind atomic.Bool // the last poll failed

	wanted atomic.Bool // the next urge is our own user's
}

type chainView struct {
	mu      sync.Mutex
	outcome evm.Outcome
	err     error
	at      time.Time
}

// peer is what a Book knows of one neighbor, connected or not.
type peer struct {
	id   wire.NodeID
	row  int64
	live atomic.Pointer[Neighbor] // nil while there is no link

	receivable, payable, repaid atomic.Int64          // durable balances; the writer goroutine sets them
	pardoned                    atomic.Int64          // the part of receivable that an operator has let pass; likewise
	oldest                      atomic.Int64          // birth of the oldest part of receivable by its clock, 0: none; likewise
	lost                        atomic.Int64          // value served on links that ended before it was agreed
	funds                       atomic.Pointer[funds] // nil before its wallet was looked at

	mu      sync.Mutex
	state   Standing
	reason  Reason
	now     state     // how the neighbor is treated, as it was judged last
	since   time.Time // of state, by the wall clock
	dispute string    // in words, with both numbers
	strikes int       // disputes so far
	theirs  *hello    // from the latest link of this run
	told    state     // what the neighbor says of us
	late    late      // what it says of its payments to us
}

// Open opens the ledger, checks it, and makes a Book. It asks nothing of the
// chain. The caller closes the Book after Run has returned.
func Open(cfg Config) (*Book, error) {
	release := func() {}
	if cfg.Direct != nil && cfg.Direct.Release != nil {
		release = cfg.Direct.Release
	}
	b, err := open(cfg)
	if err != nil {
		release()
		return nil, err
	}
	b.release = release
	return b, nil
}

func open(cfg Config) (*Book, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	l, err := openLedger(cfg.Path, cfg.Now, min(max(cfg.SettleAfter/24, time.Second), time.Hour))
	if err != nil {
		return nil, err
	}
	b := &Book{cfg: cfg, ledger: l, ask: make(chan request), urged: make(chan struct{}, 1), strangers: newStrangers(cfg.Up), peers: map[wire.NodeID]*peer{}}
	l.ages.up = cfg.Up
	if cfg.Direct != nil {
		l.ages.patience = 2 * cfg.ScanEvery
	}
	if err = l.update(context.Background(), l.ages.load); err == nil {
		err = b.load()
	}
	if err == nil {
		b.settler, err = newSettler(cfg, l, b.urge)
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return b, nil
}

func (b *Book) load() error {
	peers, err := b.ledger.loadPeers(context.Background())
	if err != nil {
		return err
	}
	for _, p := range peers {
		b.peers[p.id] = p
		b.strangers.share(p, Amount(p.receivable.Load()-p.pardoned.Load()), b.cfg.CreditStrangers)
	}
	return nil
}

// Close ends the writer goroutine after the jobs it has, and closes the file.
func (b *Book) Close() error {
	b.ledger.enqueue(b.ledger.ages.save, func(error) {}) // what cannot be saved ages a minute again
	err := b.ledger.close()
	b.release()
	return err
}

// Run does what time asks for (markers, scans, settlement) until ctx ends; it
// returns nil then.
func (b *Book) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { b.tick(ctx) })   // ends with ctx
	wg.Go(func() { b.settle(ctx) }) // ends with ctx
	wg.Wait()
	return nil
}

// tick looks at every link once a second.
func (b *Book) tick(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			for _, n := range b.live() {
				n.tick(b.cfg.Up())
			}
			if b.ledger.full.Load() {
				b.ledger.enqueue(func(*tx) error { return nil }, func(error) {}) // looks for space
			}
			if b.ledger.ages.stale() {
				b.strangers.lapse()
				b.ledger.enqueue(b.ledger.ages.save, func(error) {}) // tried again in a minute
			}
		}
	}
}

// live lists the neighbors with a link, or those of the ones named.
func (b *Book) live(only ...wire.NodeID) []*Neighbor {
	var out []*Neighbor
	for _, p := range b.known(only...) {
		if n := p.live.Load(); n != nil {
			out = append(out, n)
		}
	}
	return out
}

// Neighbor gives a new link to a neighbor its account and sends the first
// message. An older link to the same neighbor is replaced: its account refuses
// from now on. It waits for the disk for a moment.
func (b *Book) Neighbor(id wire.NodeID, out Outbox) (*Neighbor, error) {
	p, err := b.peer(id)
	if err != nil {
		return nil, err
	}
	n := &Neighbor{book: b, peer: p, out: out, changed: make(chan struct{})}
	if old := p.live.Swap(n); old != nil {
		old.replace()
	}
	// Behind whatever the old link still had in the writer's queue.
	err = b.ledger.update(context.Background(), func(tx *tx) (err error) {
		n.mine, err = tx.totals(p.row)
		return err
	})
	if err != nil {
		p.live.CompareAndSwap(n, nil)
		return nil, fmt.Errorf("read agreed counts: %w", err)
	}
	p.mu.Lock()
	if p.state == Disputed && p.strikes < maxStrikes {
		p.settle(state{standing: Active}, b.cfg.Now())
	}
	p.theirs, p.told, p.late = nil, state{}, late{}
	p.mu.Unlock()
	msg, err := b.hello(n.mine)
	if err != nil {
		p.live.CompareAndSwap(n, nil)
		return nil, err
	}
	n.nextMark = b.cfg.Up() + jitter(b.cfg.MarkerEvery)
	if err := out.Bill(msg); err != nil {
		p.live.CompareAndSwap(n, nil)
		return nil, fmt.Errorf("send billing hello: %w", err)
	}
	n.judge()
	return n, nil
}

func (b *Book) peer(id wire.NodeID) (*peer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.peers[id]; p != nil {
		return p, nil
	}
	if id.IsZero() || id == b.cfg.Self {
		return nil, errors.New("billing: a link needs a neighbor's address")
	}
	p := &peer{id: id, state: Active}
	if err := b.ledger.update(context.Background(), func(tx *tx) error { return tx.addPeer(p) }); err != nil {
		return nil, fmt.Errorf("add neighbor: %w", err)
	}
	b.ledger.peers.Store(p.row, p)
	b.peers[id] = p
	return p, nil
}

// Flush agrees on the counts of every link, or of those to the neighbors named, now and waits until our ledger holds
// them durably; the neighbor's does too when our last answer has reached it. So
// after traffic has stopped both are equal to the cell.
func (b *Book) Flush(ctx context.Context, only ...wire.NodeID) error {
	live := b.live(only...)
	errs := make([]error, len(live))
	var wg sync.WaitGroup
	for i, n := range live {
		wg.Go(func() { errs[i] = n.flush(ctx) }) // ends with ctx at the latest
	}
	wg.Wait()
	return errors.Join(errs...)
}

// jitter spreads d by a quarter either way, so that markers have no beat.
func jitter(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2+1)
}
