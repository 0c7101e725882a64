package link

import (
	"net"
	"sync/atomic"
	"testing"

	"cuttle/relay/wire"
)

// BenchmarkLink moves cells over a link on loopback TCP: queue, schedule, seal,
// write, read, open, copy, credit. One operation is one cell.
func BenchmarkLink(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ca, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	cb, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	j := join(b, newTestNode(b, 1), newTestNode(b, 2), ca, cb)
	var lane *Lane
	var got atomic.Int64
	arrived := make(chan struct{}, 1)
	ra, rb := newSink(0), newSink(0)
	rb.onCell = func(c *wire.Cell) {
		c.Release()
		lane.Grant(1)
		got.Add(1)
		select {
		case arrived <- struct{}{}:
		default:
		}
	}
	a, lane := openLane(b, j.a, j.swB, 1, ra, rb)
	room := make(chan struct{}, 1)
	a.OnSent(func(int) {
		if a.Queued() > 32 {
			return
		}
		select {
		case room <- struct{}{}:
		default:
		}
	})
	b.SetBytes(wire.BodySize)
	b.ReportAllocs()
	n := int64(0)
	for b.Loop() {
		for a.Queued() >= 64 {
			<-room
		}
		a.Send(wire.NewCell(wire.Reliable))
		n++
	}
	for got.Load() < n {
		<-arrived
	}
}

// BenchmarkSchedule measures queueing and taking one cell by the scheduler, with
// eight lanes that all have some, into a batch.
func BenchmarkSchedule(b *testing.B) {
	p := newPair(b, Config{}, Config{})
	var lanes [8]*Lane
	for i := range lanes {
		r := newSink(0)
		lanes[i], _ = p.open(r, newSink(0))
		lanes[i].credit = 1 << 60
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		lanes[n%8].Send(wire.NewCell(wire.Reliable))
		if n++; n%47 == 0 {
			p.a.fillCells(p.batch)
		}
	}
}
