package onion

import (
	"fmt"
	"testing"

	"cuttle/relay/wire"
)

// Each benchmark moves one cell by one step per iteration. To verify a cell
// twice, the layer that opens it is put back to the counter it had.

func forEachSuite(b *testing.B, f func(b *testing.B, suite Suite)) {
	for _, suite := range both {
		b.Run(suite.String(), func(b *testing.B) {
			b.SetBytes(wire.BodySize)
			b.ReportAllocs()
			f(b, suite)
		})
	}
}

// stay undoes one advance that did not replace the key.
func (l *layer) stay() {
	l.counter -= 2
	l.advance()
}

func BenchmarkPeel(b *testing.B) {
	forEachSuite(b, func(b *testing.B, suite Suite) {
		c := newCircuit(b, 3, suite)
		c.hops[0].forward.skipTo(1)
		c.path.hops[0].forward.skipTo(1)
		cell := wire.NewCell(wire.Reliable)
		c.path.Seal(cell, 2, wire.PayloadSize)
		sealed := *cell
		work := wire.NewCell(wire.Reliable)
		for b.Loop() {
			*work = sealed
			if _, err := c.hops[0].Peel(work); err != nil {
				b.Fatal(err)
			}
			c.hops[0].forward.stay()
		}
	})
}

func BenchmarkWrap(b *testing.B) {
	forEachSuite(b, func(b *testing.B, suite Suite) {
		c := newCircuit(b, 1, suite)
		cell := wire.NewCell(wire.Reliable)
		for b.Loop() {
			c.hops[0].Wrap(cell)
			cell.Move(wire.SlotSize)
		}
	})
}

func BenchmarkOriginate(b *testing.B) {
	forEachSuite(b, func(b *testing.B, suite Suite) {
		c := newCircuit(b, 1, suite)
		cell := wire.NewCell(wire.Reliable)
		for b.Loop() {
			c.hops[0].Originate(cell, wire.PayloadSize)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, hops := range []int{1, 3, 6} {
		b.Run(fmt.Sprintf("hops=%d", hops), func(b *testing.B) {
			forEachSuite(b, func(b *testing.B, suite Suite) {
				c := newCircuit(b, hops, suite)
				cell := wire.NewCell(wire.Reliable)
				for b.Loop() {
					c.path.Seal(cell, hops-1, wire.PayloadSize)
					cell.Move((hops - 1) * wire.SlotSize)
				}
			})
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, hops := range []int{1, 3, 6} {
		b.Run(fmt.Sprintf("hops=%d", hops), func(b *testing.B) {
			forEachSuite(b, func(b *testing.B, suite Suite) {
				c := newCircuit(b, hops, suite)
				for i := range c.hops {
					c.hops[i].backward.skipTo(1)
					c.path.hops[i].backward.skipTo(1)
				}
				sealed := *cellOf(wire.Reliable, c.back(wire.Reliable, make([]byte, wire.PayloadSize))[0])
				work := wire.NewCell(wire.Reliable)
				for b.Loop() {
					*work = sealed
					if _, _, err := c.path.Open(work); err != nil {
						b.Fatal(err)
					}
					for i := range c.hops {
						c.path.hops[i].backward.stay()
					}
				}
			})
		})
	}
}
