package link

import (
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// openBack opens a lane from b to a.
func (p *pair) openBack(ra, rb *sink) (a, b *Lane) {
	p.t.Helper()
	b, err := p.b.Open(1, testMsg1, rb)
	if err != nil {
		p.t.Fatal(err)
	}
	p.shuttle(p.b, p.a)
	a = <-p.swA.lanes
	if err := a.Created(testMsg2, ra); err != nil {
		p.t.Fatal(err)
	}
	p.shuttle(p.a, p.b)
	return a, b
}

// drain carries batches until nothing more comes, and counts the cells.
func (p *pair) drain(from, to *Link) (cells int) {
	for range 1000 {
		n := p.shuttle(from, to)
		if cells += n; n == 0 {
			return cells
		}
	}
	p.t.Fatal("batches have no end")
	return 0
}

// tick is what the watching goroutine does.
func (p *pair) tick() { p.b.refillAndWake() }

func discards() *sink { s := newSink(0); s.onCell = (*wire.Cell).Release; return s }

// TestThrottleSending: of what b sends on circuits that a has opened, a tick lets
// so many cells go; b's own circuits, and what a sends there, are not touched.
func TestThrottleSending(t *testing.T) {
	p := newPair(t, Config{}, Config{})
	_, theirs := p.open(discards(), discards())
	_, other := p.open(discards(), discards())
	_, ours := p.openBack(discards(), discards())
	p.b.Throttle(100) // ten a tick
	sendCells(theirs, 100)
	sendCells(other, 100)
	sendCells(ours, 100)
	if got := p.drain(p.b, p.a); got != 110 {
		t.Errorf("%d cells go over at once, want 100 of our own circuit and 10 of the neighbor's", got)
	}
	sendCells(ours, 20)
	if got := p.drain(p.b, p.a); got != 20 {
		t.Errorf("while the neighbor waits, %d of our 20 cells go over", got)
	}
	for range 5 {
		p.tick()
		if got := p.drain(p.b, p.a); got != 10 {
			t.Errorf("a tick lets %d cells go, want 10", got)
		}
	}
	if a, b := theirs.Taken(), other.Taken(); a == 0 || b == 0 {
		t.Errorf("the neighbor's two circuits have sent %d and %d cells: one starves", a, b)
	}
	theirs.Close() // while it waits for a tick
	p.tick()
	if got := p.drain(p.b, p.a); got != 10 {
		t.Errorf("after a circuit is closed a tick lets %d cells go, want 10 of the other", got)
	}
	p.b.Throttle(0)
	if got := p.drain(p.b, p.a); other.Queued() != 0 || got == 0 {
		t.Errorf("%d cells still wait when the throttle has ended", other.Queued())
	}
}

// TestThrottleReceiving: a throttled neighbor gets new credit no faster than the
// rate, on its own circuits only, and all that is due when it has ended.
func TestThrottleReceiving(t *testing.T) {
	p := newPair(t, Config{}, Config{MaxWindow: wire.InitialCredit})
	a, b := p.open(discards(), discards())
	own, far := p.openBack(discards(), discards())
	p.b.Throttle(100)
	moved := 0
	for range 20 {
		sendCells(a, 100)
		n := p.drain(p.a, p.b)
		b.Grant(n)
		moved += n
		p.tick()
		p.drain(p.b, p.a)
	}
	// The window at first, ten cells a tick, and one grant that may be early.
	if most := 20*10 + 3*wire.InitialCredit; moved > most || moved < 150 {
		t.Errorf("a throttled neighbor has sent %d cells in 20 ticks, want 150 to %d", moved, most)
	}
	sum := 0
	for range 20 {
		sendCells(own, 60)
		n := p.drain(p.a, p.b)
		far.Grant(n)
		sum += n
		p.drain(p.b, p.a)
	}
	if sum < 20*60 {
		t.Errorf("a circuit of our own gets %d of %d cells", sum, 20*60)
	}
	p.b.Throttle(0)
	p.drain(p.b, p.a)
	before := moved
	for range 20 {
		n := p.drain(p.a, p.b)
		b.Grant(n)
		moved += n
		p.drain(p.b, p.a)
	}
	if moved-before < 20*100-before {
		t.Errorf("after the throttle %d cells more have come, %d had", moved-before, before)
	}
}

// TestThrottleClock: the clock of a throttled link lets cells go by itself, and
// stops when it has ended or the link has.
func TestThrottleClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := joinPipe(t)
		ra, rb := newSink(1000), newSink(1000)
		_, b := openLane(t, j.a, j.swB, 1, ra, rb)
		j.b.Throttle(100)
		for i := range 100 {
			b.Send(numbered(i))
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if got := int(b.Taken()); got < 40 || got > 60 {
			t.Errorf("%d cells are sent in half a second at 100 a second", got)
		}
		j.b.Throttle(0)
		synctest.Wait()
		if got := int(b.Taken()); got != 100 {
			t.Errorf("%d cells are sent when the throttle has ended, want all 100", got)
		}
		j.b.Throttle(100)
		j.stop()
		select {
		case <-j.b.Done():
		default:
			t.Error("the link did not end")
		}
	})
}
