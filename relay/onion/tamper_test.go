package onion

import (
	"bytes"
	"crypto/cipher"
	"fmt"
	"math/rand/v2"
	"testing"

	"cuttle/relay/wire"
)

// snapshot copies both ends, so that a test may try many wrong cells on one state.
func (c *circuit) snapshot() *circuit {
	out := &circuit{path: &Path{hops: c.path.hops, pad: c.path.pad, sealed: c.path.sealed, openFailed: c.path.openFailed}}
	out.path.n.Store(c.path.n.Load())
	for _, h := range c.hops {
		hop := *h
		out.hops = append(out.hops, &hop)
	}
	return out
}

func cellOf(class wire.Class, body []byte) *wire.Cell {
	c := wire.NewCell(class)
	copy(c.Body(), body)
	return c
}

// out seals a cell for the last hop and returns the bodies on links 0 (from the
// client) to n-1; no layer of c moves on except the client's forward ones.
func (c *circuit) out(t testing.TB, class wire.Class, payload []byte) (bodies [][]byte) {
	t.Helper()
	relays := c.snapshot().hops
	cell := wire.NewCell(class)
	copy(c.path.Payload(cell), payload)
	c.path.Seal(cell, len(c.hops)-1, len(payload))
	for _, h := range relays {
		bodies = append(bodies, bytes.Clone(cell.Body()))
		if _, err := h.Peel(cell); err != nil {
			t.Fatal(err)
		}
	}
	return bodies
}

// back originates a cell and returns the bodies on links 0 (to the client) to
// n-1. The hops' backward layers move on.
func (c *circuit) back(class wire.Class, payload []byte) [][]byte {
	n := len(c.hops)
	bodies := make([][]byte, n)
	cell := wire.NewCell(class)
	copy(c.hops[n-1].Payload(cell), payload)
	c.hops[n-1].Originate(cell, len(payload))
	for i := n - 1; ; i-- {
		bodies[i] = bytes.Clone(cell.Body())
		if i == 0 {
			return bodies
		}
		c.hops[i-1].Wrap(cell)
	}
}

// forEachCircuit runs f for both suites and some path lengths, with a cell sent
// on each class already.
func forEachCircuit(t *testing.T, f func(t *testing.T, c *circuit)) {
	for _, suite := range both {
		for _, n := range []int{1, 3, 6} {
			t.Run(fmt.Sprintf("%v/%d", suite, n), func(t *testing.T) {
				c := newCircuit(t, n, suite)
				for _, class := range []wire.Class{wire.Reliable, wire.Datagram} {
					for i, b := range c.out(t, class, []byte("first")) {
						if _, err := c.hops[i].Peel(cellOf(class, b)); err != nil {
							t.Fatal(err)
						}
					}
					if _, _, err := c.path.Open(cellOf(class, c.back(class, []byte("first"))[0])); err != nil {
						t.Fatal(err)
					}
				}
				f(t, c)
			})
		}
	}
}

// positions returns the bytes of a body to change on a path of n hops: all of
// them on a path of up to three; on longer ones the slot in front, all slots' worth
// at the end, and some between.
func positions(n int) (out []int) {
	for i := range wire.BodySize {
		if n <= 3 || i < 2*wire.SlotSize || i >= wire.PayloadSize || i%61 == 0 {
			out = append(out, i)
		}
	}
	return out
}

// TestFlipOut: whatever byte of a cell is changed on whatever link going out, the
// next hop errors, and goes on doing so.
func TestFlipOut(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	forEachCircuit(t, func(t *testing.T, c *circuit) {
		for link, body := range c.out(t, wire.Reliable, pattern(300, 1)) {
			for _, i := range positions(len(c.hops)) {
				bad := bytes.Clone(body)
				bad[i] ^= 1 << rng.IntN(8)
				hop := *c.hops[link]
				if _, err := hop.Peel(cellOf(wire.Reliable, bad)); err == nil {
					t.Fatalf("link %d: a change of byte %d passes hop %d", link, i, link)
				}
				if _, err := hop.Peel(cellOf(wire.Reliable, body)); err == nil {
					t.Fatalf("link %d: hop works on after a wrong cell", link)
				}
			}
		}
	})
}

// TestFlipBack: whatever byte is changed on whatever link coming back, the client
// errors. The last slot's length of what one relay sends another is dropped
// there, so a change of it does nothing at all.
func TestFlipBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	payload := pattern(300, 1)
	forEachCircuit(t, func(t *testing.T, c *circuit) {
		before := c.snapshot()
		for link, body := range c.back(wire.Reliable, payload) {
			for _, i := range positions(len(c.hops)) {
				bad := bytes.Clone(body)
				bad[i] ^= 1 << rng.IntN(8)
				s := before.snapshot()
				cell := cellOf(wire.Reliable, bad)
				for hop := link - 1; hop >= 0; hop-- {
					s.hops[hop].Wrap(cell)
				}
				_, got, err := s.path.Open(cell)
				if dropped := link > 0 && i >= wire.BodySize-wire.SlotSize; dropped {
					if err != nil || !bytes.Equal(got, payload) {
						t.Fatalf("link %d: a change of dropped byte %d has an effect: %v", link, i, err)
					}
					continue
				}
				if err == nil {
					t.Fatalf("link %d: a change of byte %d reaches the client unnoticed", link, i)
				}
				if _, _, err := s.path.Open(cellOf(wire.Reliable, body)); err == nil {
					t.Fatal("the client works on after a wrong cell")
				}
			}
		}
	})
}

// TestOrder: replayed, dropped, reflected cells, cells of the wrong class and those that
// have overtaken one of the other class are refused.
func TestOrder(t *testing.T) {
	forEachCircuit(t, func(t *testing.T, c *circuit) {
		before := c.snapshot()
		bodies := c.out(t, wire.Reliable, []byte("one"))
		for i, b := range bodies {
			if _, err := c.hops[i].Peel(cellOf(wire.Reliable, b)); err != nil {
				t.Fatal(err)
			}
		}
		first, next := bodies[0], c.out(t, wire.Reliable, []byte("two"))[0]
		datagram := wire.NewCell(wire.Datagram)
		c.path.Seal(datagram, len(c.hops)-1, 1)
		back := c.back(wire.Reliable, []byte("one"))[0]
		nextBack := c.back(wire.Reliable, []byte("two"))[0]
		datagramBack := c.back(wire.Datagram, []byte("three"))[0]
		for name, cells := range map[string][]*wire.Cell{
			"replayed":    {cellOf(wire.Reliable, first), cellOf(wire.Reliable, first)},
			"dropped":     {cellOf(wire.Reliable, next)},
			"other class": {cellOf(wire.Datagram, first)},
			"overtaken":   {cellOf(wire.Reliable, first), cellOf(wire.Datagram, datagram.Body())},
			"reflected":   {cellOf(wire.Reliable, back)},
		} {
			hop := before.snapshot().hops[0]
			for i, cell := range cells {
				if _, err := hop.Peel(cell); (err == nil) != (i < len(cells)-1) {
					t.Errorf("%s going out: cell %d: %v", name, i, err)
				}
			}
		}
		for name, cells := range map[string][]*wire.Cell{
			"replayed":    {cellOf(wire.Reliable, back), cellOf(wire.Reliable, back)},
			"dropped":     {cellOf(wire.Reliable, nextBack)},
			"other class": {cellOf(wire.Datagram, back)},
			"overtaken":   {cellOf(wire.Reliable, back), cellOf(wire.Datagram, datagramBack)},
			"reflected":   {cellOf(wire.Reliable, first)},
		} {
			path := before.snapshot().path
			for i, cell := range cells {
				if _, _, err := path.Open(cell); (err == nil) != (i < len(cells)-1) {
					t.Errorf("%s coming back: cell %d: %v", name, i, err)
				}
			}
		}
	})
}

// TestHeaders: what a client or hop with the right keys may not say.
func TestHeaders(t *testing.T) {
	wrong := map[string][]byte{
		"kind 2":             {2, 0, 0, 1},
		"second byte":        {1, 1, 0, 1},
		"pass on, length":    {0, 0, 0, 1},
		"empty":              {1, 0, 0, 0},
		"too long":           {1, 0, wire.PayloadSize >> 8, wire.PayloadSize&0xff + 1},
		"longer than a body": {1, 0, 0xff, 0xff},
		"unused not zero":    {1, 0, 0, 5},
	}
	body := cat([]byte("hello"), []byte{0, 0, 1}, make([]byte, 1376-8)) // a payload of 8, or of 5 and a stray byte
	for _, n := range []int{1, 3} {
		ref, c := vectorCircuit(t, 1, n, 0)
		for name, header := range wrong {
			s := c.snapshot()
			cell := cellOf(wire.Reliable, nil)
			copy(cell.Body(), refSwap(ref[0].seal(ref[0].forward, 0, 0, cat(header, body[:1356]))))
			if h, err := s.hops[0].Peel(cell); err == nil {
				t.Errorf("%s going out is accepted as %v", name, h)
			}
			b := ref[n-1].wrap(0, 0, header, body)
			for i := n - 2; i >= 0; i-- {
				b = ref[i].wrap(0, 0, refHeader(0, 0), b)
			}
			if _, _, err := s.path.Open(cellOf(wire.Reliable, b)); err == nil {
				t.Errorf("%s coming back over %d hops is accepted", name, n)
			}
		}
		s := c.snapshot()
		if h, err := s.hops[0].Peel(cellOf(wire.Reliable, refSwap(ref[0].seal(ref[0].forward, 0, 0, cat(refHeader(1, 8), body[:1356]))))); err != nil || h.Length != 8 {
			t.Errorf("right header: %v, %v", h, err)
		}
	}
	// A relay on the way pretends that a cell is its own; the last hop that it is not.
	ref, c := vectorCircuit(t, 1, 3, 0)
	for name, kinds := range map[string][3]byte{"first": {1, 0, 1}, "middle": {0, 1, 1}, "last": {0, 0, 0}} {
		b := make([]byte, 1376)
		for i := 2; i >= 0; i-- {
			b = ref[i].wrap(0, 0, refHeader(kinds[i], int(kinds[i])), b)
		}
		if _, _, err := c.snapshot().path.Open(cellOf(wire.Reliable, b)); err == nil {
			t.Errorf("wrong kind in the header of the %s hop is accepted", name)
		}
	}
	// Bytes in the part that only zeros may fill.
	b := ref[2].wrap(0, 0, refHeader(1, 1), cat(make([]byte, 1290), []byte{1}, make([]byte, 85)))
	b = ref[0].wrap(0, 0, refHeader(0, 0), ref[1].wrap(0, 0, refHeader(0, 0), b))
	if _, _, err := c.snapshot().path.Open(cellOf(wire.Reliable, b)); err == nil {
		t.Error("bytes behind the payload area are accepted")
	}
}

// refSwap puts the tag in front.
func refSwap(sealed []byte) []byte { return cat(sealed[1360:], sealed[:1360]) }

// TestUnlinkable: what goes into a hop and what comes out share no 8 bytes, and
// neither do cells with the same payload.
func TestUnlinkable(t *testing.T) {
	const window = 8
	forEachCircuit(t, func(t *testing.T, c *circuit) {
		seen := map[string]string{}
		check := func(name string, body []byte) {
			t.Helper()
			own := map[string]bool{}
			for i := range len(body) - window + 1 {
				s := string(body[i : i+window])
				if where, ok := seen[s]; ok && !own[s] {
					t.Fatalf("%s at byte %d has bytes of %s", name, i, where)
				}
				seen[s], own[s] = name, true
			}
		}
		for round := range 3 {
			for i, b := range c.out(t, wire.Reliable, make([]byte, 600)) {
				check(fmt.Sprintf("out, round %d, link %d", round, i), b)
				if _, err := c.hops[i].Peel(cellOf(wire.Reliable, b)); err != nil {
					t.Fatal(err)
				}
			}
			for i, b := range c.back(wire.Reliable, make([]byte, 600)) {
				check(fmt.Sprintf("back, round %d, link %d", round, i), b)
			}
		}
	})
}

// noncer records which nonces an AEAD seals with.
type noncer struct {
	cipher.AEAD
	t    *testing.T
	used map[string]bool
}

func (n noncer) Seal(dst, nonce, plaintext, data []byte) []byte {
	if n.used[string(nonce)] {
		n.t.Errorf("nonce %x is used twice with one key", nonce)
	}
	n.used[string(nonce)] = true
	return n.AEAD.Seal(dst, nonce, plaintext, data)
}

// TestNonces: mixed classes, targets and directions never repeat a nonce.
func TestNonces(t *testing.T) {
	forEachCircuit(t, func(t *testing.T, c *circuit) {
		watch := func(l *layer) { l.aead = noncer{l.aead, t, map[string]bool{}} }
		for i := range c.hops {
			watch(&c.path.hops[i].forward)
			watch(&c.hops[i].backward)
		}
		rng := rand.New(rand.NewPCG(5, 6))
		for range 200 {
			class := wire.Class(rng.IntN(2))
			c.path.Seal(wire.NewCell(class), rng.IntN(len(c.hops)), 1)
			c.back(class, []byte{1})
		}
	})
}

func TestMisuse(t *testing.T) {
	c := newCircuit(t, 2, AES256GCM)
	for name, f := range map[string]func(){
		"seal for hop 2":         func() { c.path.Seal(wire.NewCell(0), 2, 1) },
		"seal for hop -1":        func() { c.path.Seal(wire.NewCell(0), -1, 1) },
		"seal nothing":           func() { c.path.Seal(wire.NewCell(0), 0, 0) },
		"seal too much":          func() { c.path.Seal(wire.NewCell(0), 0, wire.PayloadSize+1) },
		"originate nothing":      func() { c.hops[1].Originate(wire.NewCell(0), 0) },
		"class 2 is sealed":      func() { c.path.Seal(wire.NewCell(2), 0, 1) },
		"class 2 is originated":  func() { c.hops[1].Originate(wire.NewCell(2), 1) },
		"class 2 is wrapped":     func() { c.hops[1].Wrap(wire.NewCell(2)) },
		"AEAD of no known suite": func() { newAEAD(3, &secret{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	if _, _, err := new(Path).Open(wire.NewCell(0)); err == nil {
		t.Error("a path without hops opens cells")
	}
	six := newCircuit(t, wire.MaxHops, AES256GCM)
	if err := six.path.Add(&HopKeys{suite: AES256GCM}); err == nil || six.path.Len() != wire.MaxHops {
		t.Error("a seventh hop is added")
	}
	if s := Suite(9).String(); s != "suite 9" {
		t.Errorf("Suite(9) is called %q", s)
	}
}

// TestDirections runs both directions of a circuit at once, for the race detector.
func TestDirections(t *testing.T) {
	c := newCircuit(t, 3, AES256GCM)
	done := make(chan error, 1)
	go func() { // ends after its cells
		for range 200 {
			cell := wire.NewCell(wire.Reliable)
			c.path.Seal(cell, 2, 5)
			for _, h := range c.hops {
				if _, err := h.Peel(cell); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	for range 200 {
		if _, _, err := c.path.Open(cellOf(wire.Reliable, c.back(wire.Reliable, []byte{1})[0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
