package billing

import (
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cuttle/relay/wire"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	goleak.VerifyTestMain(m)
}

// memLink joins two Books as a link does: ordered, reliable, each end with one
// writer and one reader.
type memLink struct {
	ends [2]*memEnd
	wg   sync.WaitGroup
	stop chan struct{}
	once sync.Once
}

type memEnd struct {
	link  *memLink
	n     *Neighbor
	in    chan memFrame
	wakes chan struct{}
	rate  atomic.Int64    // what Throttle was told
	twist func(*memFrame) // changes what is sent, to lie

	mu    sync.Mutex
	bills [][]byte
	cells []memFrame
	err   error // of the reader
}

type memFrame struct {
	bill  []byte
	payer Payer // as the sender names it
	tier  wire.Tier
	cells wire.Cells
}

var errMemClosed = errors.New("link is closed")

func (e *memEnd) Bill(msg []byte) error {
	select {
	case <-e.link.stop:
		return errMemClosed
	default:
	}
	e.mu.Lock()
	e.bills = append(e.bills, append([]byte(nil), msg...))
	e.mu.Unlock()
	e.Wake()
	return nil
}

func (e *memEnd) Wake() {
	select {
	case e.wakes <- struct{}{}:
	default:
	}
}

func (e *memEnd) Throttle(cells int) { e.rate.Store(int64(cells)) }

func (e *memEnd) Close() { e.link.once.Do(func() { close(e.link.stop) }) }

// send queues cells that payer (as this end names it) pays.
func (e *memEnd) send(payer Payer, tier wire.Tier, n wire.Cells) {
	e.mu.Lock()
	e.cells = append(e.cells, memFrame{payer: payer, tier: tier, cells: n})
	e.mu.Unlock()
	e.Wake()
}

func (e *memEnd) write() {
	other := e.link.ends[0]
	if other == e {
		other = e.link.ends[1]
	}
	put := func(f memFrame) bool {
		if e.twist != nil {
			e.twist(&f)
		}
		select {
		case other.in <- f:
			return true
		case <-e.link.stop:
			return false
		}
	}
	for {
		e.mu.Lock()
		bills := e.bills
		e.bills = nil
		e.mu.Unlock()
		for _, b := range bills {
			if !put(memFrame{bill: b}) {
				return
			}
		}
		m := e.n.Marker()
		if m != nil && !put(memFrame{bill: m}) {
			return
		}
		e.mu.Lock()
		var f *memFrame
		if len(e.cells) > 0 {
			f = &e.cells[0]
			e.cells = e.cells[1:]
		}
		e.mu.Unlock()
		switch {
		case f != nil:
			e.n.Add(Sent, f.payer, f.tier, f.cells)
			if !put(*f) {
				return
			}
		case m == nil && len(bills) == 0:
			select {
			case <-e.wakes:
			case <-e.link.stop:
				return
			}
		}
	}
}

func (e *memEnd) read() {
	for {
		select {
		case <-e.link.stop:
			return
		case f := <-e.in:
			if f.bill == nil {
				e.n.Add(Received, 1-f.payer, f.tier, f.cells)
				continue
			}
			if err := e.n.Message(f.bill); err != nil {
				e.mu.Lock()
				e.err = err
				e.mu.Unlock()
				e.Close()
				return
			}
		}
	}
}

// join links two Books; a's end comes first.
func join(tb testing.TB, a, b *Book) *memLink {
	tb.Helper()
	l := &memLink{stop: make(chan struct{})}
	for i := range l.ends {
		l.ends[i] = &memEnd{link: l, in: make(chan memFrame, 64), wakes: make(chan struct{}, 1)}
	}
	var err error
	if l.ends[0].n, err = a.Neighbor(b.cfg.Self, l.ends[0]); err != nil {
		tb.Fatal(err)
	}
	if l.ends[1].n, err = b.Neighbor(a.cfg.Self, l.ends[1]); err != nil {
		tb.Fatal(err)
	}
	return l
}

func (l *memLink) run() {
	for _, e := range l.ends {
		l.wg.Go(e.write) // ends with cut
		l.wg.Go(e.read)  // ends with cut
	}
}

// cut ends the link as a broken connection does: what is under way is lost.
func (l *memLink) cut() {
	l.ends[0].Close()
	l.wg.Wait()
	for _, e := range l.ends {
		e.n.Down()
	}
}

func (e *memEnd) error() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func testID(n byte) (id wire.NodeID) {
	id[0], id[31] = n, 1
	return id
}

func openBook(tb testing.TB, self byte, change func(*Config)) *Book {
	tb.Helper()
	cfg := Config{Path: filepath.Join(tb.TempDir(), "ledger.db"), Self: testID(self), MarkerCells: 100}
	if change != nil {
		change(&cfg)
	}
	b, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// eventually waits for a condition that other goroutines bring about.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// drained tells whether everything queued has been received and counted.
func (l *memLink) drained() bool {
	for i, e := range l.ends {
		e.mu.Lock()
		queued := len(e.cells) + len(e.bills)
		e.mu.Unlock()
		if queued > 0 || e.n.meters[Sent].total.Load() != l.ends[1-i].n.meters[Received].total.Load() {
			return false
		}
	}
	return true
}
