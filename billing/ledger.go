package billing

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

//go:embed schema.sql
var schema string

const (
	maxJobs = 1024 // jobs that wait for the writer; then whoever adds one waits too
)

// ledger is the money file: SQLite with a write-ahead log, synchronous=FULL,
// one writer. Every change is a job, one transaction each, run by one goroutine
// in the order of arrival.
type ledger struct {
	path  string
	now   func() time.Time
	ages  *ages         // by which debts age
	span  time.Duration // charges within it share a lot
	write *sql.DB       // one connection, used by the writer goroutine only
	read  *sql.DB       // read-only connections, for reports

	peers sync.Map // int64 (neighbor.id) -> *peer: whose balances to refresh

	jobs    chan job
	closing chan struct{} // closed by close: no new jobs
	ended   chan struct{} // closed by the writer goroutine
	once    sync.Once
	closed  error
	commits atomic.Uint64
	broken  atomic.Pointer[error] // the last job's error, if it was the file's

	lock    *os.File // held while it is open
	reserve reserve
	full    atomic.Bool // no space: nothing new begins
}

type job struct {
	do   func(*tx) error // once more if there was no space: it begins anew
	done func(error)     // called by the writer goroutine after commit or failure; must not block
}

// tx is one write transaction.
type tx struct {
	*sql.Tx
	ctx   context.Context //nolint:containedctx // lives as long as the transaction
	l     *ledger
	wrote bool
	// The generation that this transaction begins, 0: none.
	renewed uint64
	// What refresh has read, for the rest of the program once it is durable; with,
	// if set, publishes it together with something else.
	balances map[*peer]balances
	made     map[*peer]Amount // payments credited, likewise
	with     func(publish func())
}

func openLedger(path string, now func() time.Time, span time.Duration) (*ledger, error) {
	if !slices.Contains(sql.Drivers(), "sqlite") {
		return nil, errors.New("this build has no ledger, since SQLite has no port to this processor: set billing.mode to \"none\"")
	}
	lock, err := lockLedger(path, true)
	if err != nil {
		return nil, err
	}
	l, err := connect(path, now, span)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l.lock, l.reserve.path = lock, path+reserveSuffix
	if err = l.prepare(); err != nil && l.relieve(err) {
		err = l.prepare()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: %w", path, err), l.disconnect())
	}
	if !l.full.Load() {
		l.full.Store(l.reserve.hold() != nil)
	}
	go l.run() // ends with close
	return l, nil
}

// connect opens the file, a new one if there is none, and looks whether it is
// sound before anything could write to it.
func connect(path string, now func() time.Time, span time.Duration) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite would make it world-readable
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = sound(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	dsn := func(extra string) string {
		return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}).String() +
			"?_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_pragma=synchronous(FULL)" + extra
	}
	l := &ledger{path: path, now: now, ages: newAges(now), span: span, jobs: make(chan job, maxJobs), closing: make(chan struct{}), ended: make(chan struct{})}
	if l.write, err = sql.Open("sqlite", dsn("&_pragma=journal_mode(WAL)&_txlock=immediate")); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	l.write.SetMaxOpenConns(1)
	if l.read, err = sql.Open("sqlite", dsn("&_pragma=query_only(1)")); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: %w", path, err), l.write.Close())
	}
	l.read.SetMaxOpenConns(2)
	return l, nil
}

// disconnect closes the file and gives back its lock.
func (l *ledger) disconnect() error {
	return errors.Join(l.read.Close(), l.write.Close(), l.lock.Close())
}

// prepare makes the tables of a new file and checks an old one.
func (l *ledger) prepare() error {
	ctx := context.Background()
	var tables int
	if err := l.write.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		return l.transact(ctx, func(tx *tx) error {
			if err := tx.exec(schema); err != nil {
				return err
			}
			if err := tx.exec("INSERT INTO meta VALUES ('schema', '1')"); err != nil {
				return err
			}
			if err := tx.migrate("1"); err != nil {
				return err
			}
			return tx.newest()
		})
	}
	var version string
	if err := l.write.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'schema'").Scan(&version); err != nil {
		return fmt.Errorf("not a ledger: %w", err)
	}
	return l.transact(ctx, func(tx *tx) error {
		if err := tx.migrate(version); err != nil {
			return err
		}
		if err := tx.check(); err != nil {
			return err
		}
		return tx.newest()
	})
}

// pin refuses a ledger that belongs to another chain or token and marks a new
// one.
func (l *ledger) pin(key, what, want string) error {
	return l.update(context.Background(), func(tx *tx) error {
		set, err := tx.pinned(key, what, want)
		if err != nil || set {
			return err
		}
		return tx.exec("INSERT INTO meta VALUES (?, ?)", key, want)
	})
}

// pinned refuses another value than the one that is set, if there is one.
func (x *tx) pinned(key, what, want string) (set bool, err error) {
	var have string
	set, err = x.one("SELECT value FROM meta WHERE key = ?", []any{key}, &have)
	if err == nil && set && have != want {
		err = fmt.Errorf("ledger %s is for %s %s, configured is %s: use another file, or correct the configuration", x.l.path, what, have, want)
	}
	return set, err
}

func (l *ledger) run() {
	defer close(l.ended)
	for {
		select {
		case j := <-l.jobs:
			l.work(j)
		case <-l.closing:
			for {
				select {
				case j := <-l.jobs:
					l.work(j)
				default:
					return
				}
			}
		}
	}
}

func (l *ledger) work(j job) {
	l.regain()
	err := l.transact(context.Background(), j.do)
	if l.relieve(err) {
		err = l.transact(context.Background(), j.do)
	}
	j.done(err)
}

func (l *ledger) transact(ctx context.Context, do func(*tx) error) error {
	t, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return l.fault(err)
	}
	x := &tx{Tx: t, ctx: ctx, l: l, balances: map[*peer]balances{}, made: map[*peer]Amount{}}
	if err := do(x); err != nil {
		return errors.Join(l.fault(err), ignoreDone(t.Rollback()))
	}
	if err := t.Commit(); err != nil {
		return errors.Join(l.fault(err), ignoreDone(t.Rollback()))
	}
	if x.wrote {
		l.commits.Add(1)
		l.broken.Store(nil)
	}
	if x.with != nil {
		x.with(x.publish)
	} else {
		x.publish()
	}
	if x.renewed > 0 {
		err := writeGeneration(l.path, x.renewed)
		if l.relieve(err) { // not the transaction again: it is durable
			err = writeGeneration(l.path, x.renewed)
		}
		return l.fault(err)
	}
	return nil
}

// balances are what refresh has read of one neighbor.
type balances struct {
	payable, receivable, repaid, pardoned Amount
	oldest                                int64 // birth of the oldest part of receivable; 0: none
}

func (x *tx) publish() {
	for p, b := range x.balances {
		p.receivable.Store(int64(b.receivable))
		p.payable.Store(int64(b.payable))
		p.repaid.Store(int64(b.repaid))
		p.pardoned.Store(int64(b.pardoned))
		p.oldest.Store(b.oldest)
	}
	for p, a := range x.made {
		p.lost.Store(max(0, p.lost.Load()-int64(a)))
	}
}

// fault remembers errors of the file itself, so that Report can tell: a full
// disk, an I/O error, a corrupt page.
func (l *ledger) fault(err error) error {
	var code interface{ Code() int }
	if errors.As(err, &code) {
		err = fmt.Errorf("ledger %s: %w", l.path, err)
		switch code.Code() & 0xff {
		case 13: // SQLITE_FULL
			err = fmt.Errorf("%w: no space; credit and payments stop until there is some", err)
		case 19: // SQLITE_CONSTRAINT is a mistake of ours, the file is fine
			return err
		}
		l.broken.Store(&err)
	}
	return err
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// enqueue runs do in a transaction of the writer goroutine and then done. It
// waits while the queue is full; after close it calls done with ErrClosed.
func (l *ledger) enqueue(do func(*tx) error, done func(error)) {
	select {
	case <-l.closing:
		done(ErrClosed)
		return
	default:
	}
	select {
	case l.jobs <- job{do, done}:
	case <-l.ended:
		done(ErrClosed)
	}
}

// update runs do as enqueue does and waits for it. A ctx that ends first leaves
// the outcome open.
func (l *ledger) update(ctx context.Context, do func(*tx) error) error {
	result := make(chan error, 1)
	l.enqueue(do, func(err error) { result <- err })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ended: // it may have been added just as the writer ended
		select {
		case err := <-result:
			return err
		default:
			return ErrClosed
		}
	}
}

func (l *ledger) close() error {
	l.once.Do(func() {
		close(l.closing)
		<-l.ended
		l.closed = errors.Join(l.transact(context.Background(), (*tx).renew), l.disconnect())
	})
	return l.closed
}

func (x *tx) exec(query string, args ...any) error {
	x.wrote = true
	_, err := x.ExecContext(x.ctx, query, args...)
	return err
}

// one runs a query for one row; found is false if there is none.
func (x *tx) one(query string, args []any, dest ...any) (found bool, err error) {
	err = x.QueryRowContext(x.ctx, query, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// peer calls f with a neighbor, if it is known.
func (l *ledger) peer(row int64, f func(*peer)) {
	if p, ok := l.peers.Load(row); ok {
		f(p.(*peer))
	}
}

func (x *tx) addPeer(p *peer) error {
	if err := x.exec("INSERT INTO neighbor (node) VALUES (?)", p.id[:]); err != nil {
		return err
	}
	_, err := x.one("SELECT id FROM neighbor WHERE node = ?", []any{p.id[:]}, &p.row)
	return err
}

func (l *ledger) loadPeers(ctx context.Context) (peers []*peer, err error) {
	err = l.update(ctx, func(tx *tx) error {
		peers = nil
		rows, err := tx.QueryContext(tx.ctx, "SELECT id, node, strikes, dispute FROM neighbor")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			p := &peer{state: Active}
			var node []byte
			if err := rows.Scan(&p.row, &node, &p.strikes, &p.dispute); err != nil {
				return err
			}
			p.id = wire.NodeID(node)
			if p.strikes >= maxStrikes {
				p.state, p.reason = Disputed, ReasonCounts
			}
			peers = append(peers, p)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		for _, p := range peers {
			l.peers.Store(p.row, p)
			if err := tx.refresh(p); err != nil {
				return err
			}
		}
		return nil
	})
	return peers, err
}
