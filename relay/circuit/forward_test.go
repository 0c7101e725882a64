package circuit

import (
	"sync"
	"testing"

	"cuttle/relay/link"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// drain is a neighbor that accepts a lane, takes what comes and grants it back.
type drain struct{ lane *link.Lane }

func (d *drain) Create(lane *link.Lane, _ []byte) {
	_ = lane.Created(make([]byte, wire.HopMsg2Size), &drain{lane})
}
func (d *drain) Cells(cells []*wire.Cell) {
	wire.ReleaseCells(cells)
	d.lane.Grant(len(cells))
}
func (d *drain) Created([]byte)      {}
func (d *drain) Refused(wire.Reason) {}
func (d *drain) Closed()             {}

// laneTo opens a lane from a relay to a neighbor that drains it.
func laneTo(b *testing.B, tn *testNet, from, to int) *link.Lane {
	b.Helper()
	ci, cj := tcpPair(b)
	x, y := tn.nodes[from], tn.nodes[to]
	var lx, ly *link.Link
	var accept error
	var wg sync.WaitGroup
	wg.Go(func() { ly, accept = link.Accept(y.ctx, cj, y.cfg) })
	lx, err := link.Dial(x.ctx, ci, x.cfg, link.Peer{ID: y.cfg.ID, KEM: y.cfg.Key.Public()})
	wg.Wait()
	if err != nil || accept != nil {
		b.Fatal(err, accept)
	}
	x.wg.Go(func() { _ = lx.Run(x.ctx, x.sw) })        // ends with the node
	y.wg.Go(func() { _ = ly.Run(y.ctx, &drain{nil}) }) // ends with the node
	lane, err := lx.Open(9, make([]byte, wire.HopMsg1Size), &drain{nil})
	if err != nil {
		b.Fatal(err)
	}
	return lane
}

// BenchmarkForward is what a relay's switch does with one cell: peel or wrap its
// layer and queue it for the next link, which seals and writes it beside.
func BenchmarkForward(b *testing.B) {
	tn := newNet(b, 3, nil)
	t := &transit{sw: tn.nodes[1].sw, prev: laneTo(b, tn, 1, 0)}
	next := laneTo(b, tn, 1, 2)
	t.next.Store(next)
	t.phase.Store(extended)
	path := new(onion.Path)
	for i := range 2 { // the layer of the relay, and of the hop behind it
		key := tn.nodes[i+1].cfg.Key
		id := tn.nodes[i+1].cfg.ID
		start, msg1, err := onion.StartHop(id, key.Public(), onion.DefaultSuites())
		if err != nil {
			b.Fatal(err)
		}
		msg2, keys, err := onion.AcceptHop(id, key, onion.NewReplayCache(4), onion.DefaultSuites(), msg1)
		if err != nil {
			b.Fatal(err)
		}
		if i == 0 {
			if t.hop, err = onion.NewHop(keys); err != nil {
				b.Fatal(err)
			}
		}
		mine, err := start.Finish(msg2)
		if err != nil {
			b.Fatal(err)
		}
		if err := path.Add(mine); err != nil {
			b.Fatal(err)
		}
	}
	const batch = 256
	room := func(l *link.Lane) func() {
		more := make(chan struct{}, 1)
		l.OnSent(func(int) {
			select {
			case more <- struct{}{}:
			default:
			}
		})
		return func() {
			for l.Queued() > 64 {
				<-more
			}
		}
	}
	b.Run("forward", func(b *testing.B) {
		wait := room(next)
		b.SetBytes(wire.BodySize)
		b.ReportAllocs()
		cells := make([]*wire.Cell, 0, batch)
		for i := 0; b.Loop(); i++ {
			if i%batch == 0 {
				b.StopTimer()
				cells = cells[:0]
				for range batch {
					c := wire.NewCell(wire.Reliable)
					path.Seal(c, 1, wire.PayloadSize)
					cells = append(cells, c)
				}
				b.StartTimer()
			}
			wait()
			t.Cells(cells[i%batch:][:1])
		}
		if t.closed.Load() {
			b.Fatal("the relay has closed the circuit")
		}
	})
	b.Run("backward", func(b *testing.B) {
		wait := room(t.prev)
		b.SetBytes(wire.BodySize)
		b.ReportAllocs()
		for b.Loop() {
			wait()
			back{t}.Cells([]*wire.Cell{wire.NewCell(wire.Reliable)})
		}
	})
}
