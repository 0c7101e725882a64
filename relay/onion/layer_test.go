package onion

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"cuttle/relay/wire"
)

// circuit is a client's path and its hops, made by real handshakes.
type circuit struct {
	path *Path
	hops []*Hop
}

func newCircuit(t testing.TB, n int, suite Suite) *circuit {
	t.Helper()
	c := &circuit{path: &Path{}}
	for i := range n {
		key, err := NewStaticKey([32]byte{byte(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		id := wire.NodeID{byte(i + 1)}
		h, msg1, err := StartHop(id, key.Public(), []Suite{suite})
		if err != nil {
			t.Fatal(err)
		}
		msg2, hopKeys, err := AcceptHop(id, key, NewReplayCache(8), []Suite{suite}, msg1)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := h.Finish(msg2)
		if err != nil {
			t.Fatal(err)
		}
		hop, err := NewHop(hopKeys)
		if err != nil {
			t.Fatal(err)
		}
		c.hops = append(c.hops, hop)
		if err := c.path.Add(keys); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// carry moves a cell over a link: what arrives is a fresh cell with the same body.
func carry(c *wire.Cell) *wire.Cell {
	d := wire.NewCell(c.Class)
	copy(d.Body(), c.Body())
	c.Release()
	return d
}

func TestRoundTrip(t *testing.T) {
	for _, suite := range []Suite{AES256GCM, ChaCha20Poly1305} {
		for n := 1; n <= wire.MaxHops; n++ {
			c := newCircuit(t, n, suite)
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			for round := range 40 {
				class := wire.Class(rng.IntN(2))
				target, size := rng.IntN(n), 1+rng.IntN(wire.PayloadSize)
				want := make([]byte, size)
				for i := range want {
					want[i] = byte(rng.Uint32())
				}
				cell := wire.NewCell(class)
				copy(c.path.Payload(cell), want)
				c.path.Seal(cell, target, size)
				for i := range target + 1 {
					cell = carry(cell)
					h, err := c.hops[i].Peel(cell)
					if err != nil || (h.Kind == Here) != (i == target) {
						t.Fatalf("%v, %d hops, round %d: peel at %d for %d: %v, %v", suite, n, round, i, target, h, err)
					}
					if i == target && !bytes.Equal(c.hops[i].Payload(cell)[:h.Length], want) {
						t.Fatalf("%v, %d hops: payload changed on the way out", suite, n)
					}
				}
				// The target may echo only if it is the last hop.
				cell = carry(cell)
				copy(c.hops[n-1].Payload(cell), want)
				c.hops[n-1].Originate(cell, size)
				for i := n - 2; i >= 0; i-- {
					cell = carry(cell)
					c.hops[i].Wrap(cell)
				}
				cell = carry(cell)
				hop, got, err := c.path.Open(cell)
				if err != nil || hop != n-1 || !bytes.Equal(got, want) {
					t.Fatalf("%v, %d hops, round %d: open: hop %d, %v", suite, n, round, hop, err)
				}
			}
		}
	}
}

func TestNoAllocations(t *testing.T) {
	for _, suite := range []Suite{AES256GCM, ChaCha20Poly1305} {
		c := newCircuit(t, 3, suite)
		out, back := wire.NewCell(wire.Reliable), wire.NewCell(wire.Reliable)
		spare := *out
		got := testing.AllocsPerRun(100, func() {
			*out = spare
			c.path.Seal(out, 2, wire.PayloadSize)
			for _, h := range c.hops {
				if _, err := h.Peel(out); err != nil {
					t.Fatal(err)
				}
			}
			*back = spare
			c.hops[2].Originate(back, wire.PayloadSize)
			c.hops[1].Wrap(back)
			c.hops[0].Wrap(back)
			if _, _, err := c.path.Open(back); err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("%v: %v allocations per cell, want 0", suite, got)
		}
	}
}
