package link

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// bare makes a link without connection, reader and writer: the test hands it
// records and pulls batches.
func bare(initiator bool, cfg Config) (*Link, *acceptor) {
	l := newLink(nil, cfg, Peer{}, initiator, nil, nil)
	sw := newAcceptor()
	l.recv.sw = sw
	l.budget.join(l)
	return l, sw
}

// pair is two bare links; shuttle carries one batch from one to the other.
type pair struct {
	t        testing.TB
	a, b     *Link
	swA, swB *acceptor
	batch    []byte
}

func newPair(t testing.TB, ca, cb Config) *pair {
	p := &pair{t: t, batch: make([]byte, 0, wire.MaxRecord)}
	p.a, p.swA = bare(true, ca)
	p.b, p.swB = bare(false, cb)
	return p
}

// shuttle returns how many cells went over.
func (p *pair) shuttle(from, to *Link) int {
	p.t.Helper()
	batch := from.fill(p.batch)
	if len(batch) == 0 {
		return 0
	}
	before := to.counter.Cells(Received, WePay) + to.counter.Cells(Received, TheyPay)
	if err := to.record(batch); err != nil {
		p.t.Fatal(err)
	}
	return int(to.counter.Cells(Received, WePay) + to.counter.Cells(Received, TheyPay) - before)
}

// open opens a lane from a to b.
func (p *pair) open(ra, rb *sink) (a, b *Lane) {
	p.t.Helper()
	a, err := p.a.Open(1, testMsg1, ra)
	if err != nil {
		p.t.Fatal(err)
	}
	p.shuttle(p.a, p.b)
	b = <-p.swB.lanes
	if err := b.Created(testMsg2, rb); err != nil {
		p.t.Fatal(err)
	}
	p.shuttle(p.b, p.a)
	return a, b
}

func sendCells(ln *Lane, n int) {
	for range n {
		c := wire.NewCell(wire.Reliable)
		clear(c.Body())
		ln.Send(c)
	}
}

// order lists the circuits of a batch's cells, in runs.
func order(t *testing.T, batch []byte) (runs []string) {
	t.Helper()
	for len(batch) > 0 {
		f, rest, err := wire.NextFrame(batch)
		if err != nil {
			t.Fatal(err)
		}
		batch = rest
		if f.Type == wire.FrameCell {
			runs = append(runs, string(rune('a'+f.Circuit-1)))
		}
	}
	return slices.Compact(runs)
}

func TestShortQueuesGoFirst(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	discard := func() *sink { s := newSink(0); s.onCell = (*wire.Cell).Release; return s }
	bulkA, _ := p.open(discard(), discard())
	bulkB, _ := p.open(discard(), discard())
	small, _ := p.open(discard(), discard())

	sendCells(bulkA, 100)
	sendCells(bulkB, 100)
	if got, want := order(t, p.a.fill(p.batch)), []string{"a", "b", "a", "b", "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("two bulk lanes are served as %v, want %v", got, want)
	}
	sendCells(small, 2)
	if got := order(t, p.a.fill(p.batch)); len(got) == 0 || got[0] != "c" {
		t.Errorf("a short queue beside bulk: served as %v, want c first", got)
	}
	// A lane that keeps coming back must not starve the others.
	sendCells(small, 100)
	got := order(t, p.a.fill(p.batch))
	if !slices.Contains(got, "a") || !slices.Contains(got, "b") {
		t.Errorf("bulk lanes beside a lane that was short: served as %v, want all of them", got)
	}
}

func TestNoCreditNoCells(t *testing.T) {
	p := newPair(t, Config{}, Config{MaxWindow: wire.InitialCredit})
	rb := newSink(1000)
	a, b := p.open(newSink(0), rb)
	sendCells(a, 300)
	sent := 0
	for n := p.shuttle(p.a, p.b); n > 0; n = p.shuttle(p.a, p.b) {
		sent += n
	}
	if sent != wire.InitialCredit {
		t.Fatalf("sent %d cells on the initial credit, want %d", sent, wire.InitialCredit)
	}
	b.Grant(10) // less than a quarter: not announced
	p.shuttle(p.b, p.a)
	if n := p.shuttle(p.a, p.b); n != 0 {
		t.Fatalf("%d cells after a grant too small to be announced, want 0", n)
	}
	b.Grant(40)
	p.shuttle(p.b, p.a)
	if n := p.shuttle(p.a, p.b) + p.shuttle(p.a, p.b); n != 50 {
		t.Fatalf("%d cells after grants of 10 and 40, want 50", n)
	}
	b.Grant(10000) // more than was received
	p.shuttle(p.b, p.a)
	if left := b.in.left.Load(); left > wire.InitialCredit {
		t.Fatalf("the neighbor may send %d cells, more than the window of %d", left, wire.InitialCredit)
	}
}

// TestWindowShrinks runs a fast lane whose receiver then becomes slow: the
// window comes back, so that the queue does, and nothing is lost on the way.
func TestWindowShrinks(t *testing.T) {
	const rtt = 50 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(1 << 30)
		p := newPair(t, Config{}, Config{Budget: budget})
		fast, held, got := true, 0, 0
		rb := newSink(0)
		a, b := p.open(newSink(0), rb)
		rb.onCell = func(c *wire.Cell) {
			c.Release()
			got++
			if fast {
				b.Grant(1)
				return
			}
			held++
		}
		p.b.ping.rtt.Store(int64(rtt))
		sent := 0
		round := func() {
			n := max(0, 5000-a.Queued())
			sendCells(a, n)
			sent += n
			for p.shuttle(p.a, p.b) > 0 {
			}
			time.Sleep(rtt)
			n = min(held, 200)
			held -= n
			b.Grant(n)
			for range 3 {
				p.shuttle(p.b, p.a)
			}
		}
		for range 40 {
			round()
		}
		if w := b.in.window.Load(); w != defaultMaxWindow {
			t.Fatalf("window of a fast receiver is %d cells, want %d", w, defaultMaxWindow)
		}
		fast = false
		for range 400 {
			round()
		}
		if w := b.in.window.Load(); w > 600 {
			t.Errorf("window is %d cells after the receiver became slow, want at most 600", w)
		}
		if g, w := budget.Granted(), b.in.window.Load()*cellMemory; g != w {
			t.Errorf("budget counts %d bytes granted, windows say %d", g, w)
		}
		fast = true
		for range 200 {
			round()
		}
		if got+a.Queued() < sent {
			t.Errorf("%d cells sent, %d arrived and %d wait", sent, got, a.Queued())
		}
	})
}

// TestWindowFollowsBandwidth runs a lane over a link with a round trip of 50 ms
// for 40 round trips.
func TestWindowFollowsBandwidth(t *testing.T) {
	const rtt = 50 * time.Millisecond
	for name, test := range map[string]struct {
		perRTT   int   // cells that the receiver passes on per round trip
		budget   int64 // cells
		least    int64 // window at the end
		most     int64
		maxCells int // Config.MaxWindow
	}{
		"fast receiver reaches the maximum":              {1 << 20, 1 << 20, defaultMaxWindow, defaultMaxWindow, 0},
		"another maximum":                                {1 << 20, 1 << 20, 1000, 1000, 1000},
		"slow receiver keeps the first window":           {30, 1 << 20, wire.InitialCredit, wire.InitialCredit, 0},
		"medium receiver stops near twice what it takes": {300, 1 << 20, 300, 1200, 0},
		"budget used up":                                 {1 << 20, 600, 512, 600, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := NewBudget(test.budget * cellMemory)
				p := newPair(t, Config{}, Config{Budget: budget, MaxWindow: test.maxCells})
				held, passed := 0, 0
				rb := newSink(0)
				a, b := p.open(newSink(0), rb)
				rb.onCell = func(c *wire.Cell) {
					c.Release()
					if passed < test.perRTT {
						passed++
						b.Grant(1)
						return
					}
					held++
				}
				p.b.ping.rtt.Store(int64(rtt))
				for range 40 {
					sendCells(a, max(0, 5000-a.Queued()))
					for p.shuttle(p.a, p.b) > 0 {
					}
					time.Sleep(rtt)
					passed = min(held, test.perRTT)
					held -= passed
					b.Grant(passed)
					for range 3 {
						p.shuttle(p.b, p.a)
					}
				}
				if w := b.in.window.Load(); w < test.least || w > test.most {
					t.Errorf("window is %d cells at the end, want %d to %d", w, test.least, test.most)
				}
				if g, w := budget.Granted(), b.in.window.Load()*cellMemory; g != w {
					t.Errorf("budget counts %d bytes granted, windows say %d", g, w)
				}
				b.Close()
				if g := budget.Granted(); g != 0 {
					t.Errorf("budget counts %d bytes granted after the close, want 0", g)
				}
			})
		})
	}
}

func TestBudgetClosesTheFullest(t *testing.T) {
	budget := NewBudget(1000 * cellMemory)
	p := newPair(t, Config{Budget: budget}, Config{})
	q := newPair(t, Config{Budget: budget}, Config{})
	bulk, small := newSink(0), newSink(0)
	bulkLane, _ := p.open(bulk, newSink(0))
	smallLane, _ := q.open(small, newSink(0))
	sendCells(smallLane, 100)
	sendCells(bulkLane, 1000)
	p.a.tellBereft()
	select {
	case <-bulk.closed:
	default:
		t.Fatalf("the heaviest lane is open with %d bytes queued, the budget is %d", budget.Queued(), budget.limit)
	}
	if smallLane.Queued() != 100 || small.calls["closed"] != 0 {
		t.Error("the smaller lane was touched")
	}
	if got := budget.Queued(); got != 100*cellMemory {
		t.Errorf("%d bytes queued afterwards, want those of 100 cells", got)
	}
	closed := false
	for batch := p.a.fill(p.batch); len(batch) > 0; {
		f, rest, err := wire.NextFrame(batch)
		if err != nil {
			t.Fatal(err)
		}
		closed = closed || f.Type == wire.FrameClose
		batch = rest
	}
	if !closed {
		t.Error("the neighbor got no CLOSE")
	}
}

func TestQueueHasAnEnd(t *testing.T) {
	p := newPair(t, Config{MaxWindow: 200}, Config{})
	r := newSink(0)
	a, _ := p.open(r, newSink(0))
	sendCells(a, 500)
	p.a.tellBereft()
	select {
	case <-r.closed:
	default:
		t.Errorf("a lane holds %d cells, twice the largest window is 400", a.Queued())
	}
}

func TestControlOverflowEndsTheLink(t *testing.T) {
	l, _ := bare(true, Config{})
	ping := wire.AppendPing(nil, 1)
	for range maxControl + 1 {
		if err := l.record(ping); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-l.Done():
	default:
		t.Fatal("the link lives with a full control queue")
	}
	if !errors.Is(l.err, errOverflow) {
		t.Errorf("ended by %v, want %v", l.err, errOverflow)
	}
}

// ledger is an Account that sends its counts and compares those it gets.
type ledger struct {
	Counter
	mu    sync.Mutex // guards due and seen
	due   bool
	seen  int
	wrong int
}

func (a *ledger) Marker() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.due {
		a.due = true // every other batch
		return nil
	}
	a.due = false
	return binary.BigEndian.AppendUint64(nil, uint64(a.Cells(Sent, WePay)+a.Cells(Sent, TheyPay)))
}

func (a *ledger) Message(b []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen++
	if binary.BigEndian.Uint64(b) != uint64(a.Cells(Received, WePay)+a.Cells(Received, TheyPay)) {
		a.wrong++
	}
	return nil
}

// TestMarkersSeeEqualCounts has both ends compare counts at many positions of
// both streams.
func TestMarkersSeeEqualCounts(t *testing.T) {
	la, lb := &ledger{}, &ledger{}
	p := newPair(t, Config{Accounts: func(*Link) Account { return la }}, Config{Accounts: func(*Link) Account { return lb }})
	ra, rb := newSink(0), newSink(0)
	var a, b [3]*Lane
	ra.onCell, rb.onCell = (*wire.Cell).Release, (*wire.Cell).Release
	for i := range a {
		sa, sb := newSink(0), newSink(0)
		sa.onCell = func(c *wire.Cell) { c.Release(); a[i].Grant(1) }
		sb.onCell = func(c *wire.Cell) { c.Release(); b[i].Grant(1) }
		a[i], b[i] = p.open(sa, sb)
	}
	for round := range 300 {
		sendCells(a[round%3], round%70)
		sendCells(b[round%2], round%50)
		p.shuttle(p.a, p.b)
		p.shuttle(p.b, p.a)
		if round == 200 {
			b[1].Close() // cells that cross the CLOSE count at both ends
		}
	}
	for name, l := range map[string]*ledger{"a": la, "b": lb} {
		if l.seen < 50 || l.wrong > 0 {
			t.Errorf("%s compared %d markers, %d of them wrong; want at least 50 and none", name, l.seen, l.wrong)
		}
	}
}

// TestIdleLanesKeepNoWindowSmall: circuits that carry nothing do not use up what
// the windows of others may grow by.
func TestIdleLanesKeepNoWindowSmall(t *testing.T) {
	budget := NewBudget(1000 * cellMemory)
	p := newPair(t, Config{}, Config{Budget: budget})
	for range 20 { // 2560 cells
		p.open(newSink(0), newSink(0))
	}
	if !budget.reserve(500) {
		t.Error("a window may not grow beside 20 circuits that carry nothing")
	}
	if budget.reserve(600) {
		t.Error("windows grow beyond the budget")
	}
}

// TestBudgetSparesWhoMoves: neighbors that take nothing hold memory for long with
// few cells each; a lane that is served and holds more for a moment is not what
// has to go.
func TestBudgetSparesWhoMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(1000 * cellMemory)
		p := newPair(t, Config{Budget: budget}, Config{})
		q := newPair(t, Config{Budget: budget}, Config{})
		busy, stuck := newSink(0), newSink(0)
		busyLane, _ := p.open(busy, newSink(0))
		stuckLane, _ := q.open(stuck, newSink(0))
		sendCells(stuckLane, 50)
		time.Sleep(time.Minute)
		sendCells(busyLane, 960)
		p.a.tellBereft()
		q.a.tellBereft()
		select {
		case <-stuck.closed:
		default:
			t.Error("the lane that has waited for a minute is open")
		}
		if busy.calls["closed"] != 0 {
			t.Error("the lane that had just filled was closed")
		}
	})
}

// TestBudgetClosesTheOldest: of many lanes those go first whose oldest cell came
// first, one by one and no more than needed. One that takes a cell now and then is
// as old as what it still holds.
func TestBudgetClosesTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(1000 * cellMemory)
		p := newPair(t, Config{Budget: budget}, Config{})
		var sinks [4]*sink
		var lanes [4]*Lane
		for i := range lanes {
			other := newSink(0)
			other.onCell = (*wire.Cell).Release
			sinks[i] = newSink(0)
			lanes[i], _ = p.open(sinks[i], other)
			sendCells(lanes[i], 190-40*i) // the oldest hold the most, so that age is not told by the number
			time.Sleep(10 * time.Second)
		}
		for len(order(t, p.a.fill(p.batch))) > 0 { // all that the first credit allows: 62 of the first and 22 of the second are left
		}
		left := budget.Queued() / cellMemory
		late := newSink(0)
		lateLane, _ := p.open(late, newSink(0))
		time.Sleep(10 * time.Second)
		if left != 62+22 {
			t.Fatalf("%d cells are left, want 84", left)
		}
		for range 2 { // a cell now and then
			lanes[0].addCredit(1)
			p.a.fill(p.batch)
			time.Sleep(time.Second)
		}
		sendCells(lateLane, 1000-int(left)+2+60)
		p.a.tellBereft()
		for i, s := range sinks {
			if got, want := s.calls["closed"] > 0, i == 0; got != want {
				t.Errorf("lane %d closed: %v, want %v", i, got, want)
			}
		}
		if late.calls["closed"] > 0 || budget.Queued() > budget.limit+64*cellMemory {
			t.Errorf("the newest lane was closed, or %d bytes are queued, over the budget", budget.Queued())
		}
	})
}

// TestRecordsFollowThePace: on a link that sends slowly a record has few cells, besides
// all that is said before them, so that the first does not wait for the others.
func TestRecordsFollowThePace(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	discard := func() *sink { s := newSink(0); s.onCell = (*wire.Cell).Release; return s }
	a, _ := p.open(discard(), discard())
	for _, tt := range []struct {
		paced   uint64 // bytes a second
		records []int  // cells in each, of 100
	}{
		{0, append(slices.Repeat([]int{1}, 100), 0)},
		{800_000, append(slices.Repeat([]int{1}, 100), 0)},
		{10_000_000, []int{14, 14, 14, 14, 14, 14, 14, 2, 0}},
		{35_000_000, []int{47, 47, 6, 0}},
		{math.MaxUint64, []int{47, 47, 6, 0}},
	} {
		p.a.pacer.cells = sending{paced: tt.paced}.cells()
		sendCells(a, 100)
		p.a.control(wire.AppendPing(nil, 7))
		a.addCredit(100)
		for i, want := range tt.records {
			cells, pings := 0, 0
			for batch := p.a.fill(p.batch); len(batch) > 0; {
				f, rest, err := wire.NextFrame(batch)
				if err != nil {
					t.Fatal(err)
				}
				switch batch = rest; f.Type { //nolint:exhaustive // no others come
				case wire.FrameCell:
					cells++
				case wire.FramePing:
					pings++
				}
			}
			if cells != want || (pings == 1) != (i == 0) {
				t.Errorf("at %d bytes a second record %d has %d cells and %d PINGs, want %d cells", tt.paced, i, cells, pings, want)
			}
		}
	}
}
