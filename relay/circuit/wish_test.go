package circuit

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// newWishNet is a poolNet whose ready circuits go to exit 5, while wants may ask for 6.
func newWishNet(t *testing.T) (pn *poolNet, x5, x6 netmap.ExitWish) {
	t.Helper()
	pn = newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
		path := func(exit int, avoid []wire.NodeID) ([]*netmap.Record, error) {
			path, err := pn.choose(slices.DeleteFunc(slices.Clone(avoid), func(id wire.NodeID) bool { return id == pn.nodes[5].cfg.ID || id == pn.nodes[6].cfg.ID }))
			if err != nil || slices.Contains(avoid, pn.nodes[exit].cfg.ID) {
				return nil, errors.Join(err, netmap.ErrNoExit)
			}
			return append(path[:2:2], pn.nodes[exit].record()), nil
		}
		cfg.Choose = func(avoid []wire.NodeID) ([]*netmap.Record, error) { return path(5, avoid) }
		cfg.ChooseTo = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
			if exit == pn.nodes[6].cfg.ID {
				return path(6, avoid)
			}
			return path(5, avoid)
		}
		cfg.ChooseFor = func(w Want, avoid []wire.NodeID) ([]*netmap.Record, error) {
			for _, e := range w.Exits {
				for _, x := range []int{5, 6} {
					if e.ID == pn.nodes[x].cfg.ID {
						if p, err := path(x, avoid); err == nil {
							return p, nil
						}
					}
				}
			}
			return nil, netmap.ErrNoExit
		}
	})
	synctest.Wait()
	return pn, netmap.ExitWish{ID: pn.nodes[5].cfg.ID}, netmap.ExitWish{ID: pn.nodes[6].cfg.ID}
}

// Flows that wish for an exit get circuits to it that nobody else is given, others
// keep to those of the pool, and whose wish cannot be met is told at once.
func TestWishesHaveCircuitsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn, x5, x6 := newWishNet(t)
		var given []*Circuit
		for i, exits := range [][]netmap.ExitWish{{x6}, {x6}, {x5}, {x6, x5}} {
			w := Want{Key: key(i), Exits: exits}
			c := getFor(t, pn.pool, w)
			if c.Exit() != exits[0].ID {
				t.Errorf("device %d leaves at another exit than the first it wished for", i)
			}
			if again := getFor(t, pn.pool, w); again != c {
				t.Errorf("device %d got another circuit for its next flow", i)
			}
			if slices.Contains(given, c) {
				t.Errorf("device %d shares a circuit", i)
			}
			given = append(given, c)
		}
		for i := range 6 {
			if c := getFor(t, pn.pool, Want{Key: key(100 + i)}); c.Exit() != x5.ID || slices.Contains(given, c) {
				t.Errorf("flow %d without a wish was given a circuit of one with a wish, or to its exit", i)
			}
		}
		begun := time.Now()
		if _, err := pn.pool.Get(t.Context(), Want{Key: key(200), Exits: []netmap.ExitWish{{Country: "QQ"}}}); !errors.Is(err, netmap.ErrNoExit) || time.Since(begun) > time.Second {
			t.Errorf("an exit that is not there: %v after %v, want the reason at once", err, time.Since(begun))
		}
	})
}

// A circuit that was built for a wish and not taken, since its flow was given up,
// waits for that key: nobody else gets it, and it does not count as ready.
func TestWishedCircuitWaitsForItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn, x5, x6 := newWishNet(t)
		for i := range 5 {
			pn.pool.mu.Lock()
			pn.pool.demands++
			pn.pool.mu.Unlock()
			if err := pn.pool.buildFor(t.Context(), Want{Key: key(i), Exits: []netmap.ExitWish{x6}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 {
			if c := getFor(t, pn.pool, Want{Key: key(50 + i)}); c.Exit() != x5.ID {
				t.Error("a circuit that waits for another key was given away")
			}
		}
		lost := getFor(t, pn.pool, Want{Key: key(60), Exits: []netmap.ExitWish{x6}})
		moved, err := pn.pool.GetTo(t.Context(), lost, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			before := pn.built()
			c := getFor(t, pn.pool, Want{Key: key(i), Exits: []netmap.ExitWish{x6, x5}})
			if c == moved || c.Exit() != x6.ID || pn.built() != before {
				t.Errorf("key %d did not get the circuit that waits for it", i)
			}
		}
	})
}

// The exit that is wished for first is avoided only briefly when a neighbor had no link
// to it, e.g. since both have just started, and for longer when it did not answer.
func TestFirstWishComesBack(t *testing.T) {
	for name, test := range map[string]struct {
		err  BuildError
		span time.Duration
	}{
		"not connected": {BuildError{Hop: 2, Reason: wire.ReasonNotConnected}, 10 * time.Second},
		"no answer":     {BuildError{Hop: 2, Err: errMute}, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pn, x5, x6 := newWishNet(t)
				wish := []netmap.ExitWish{x6, x5}
				path := []*netmap.Record{pn.nodes[1].record(), pn.nodes[3].record(), pn.nodes[6].record()}
				pn.pool.blame(path, &test.err, time.Now())
				for i, want := range []netmap.ExitWish{x5, x5, x6} { // at once, just before the time is over, and after it
					time.Sleep([]time.Duration{0, test.span - time.Second, 2 * time.Second}[i])
					if c := getFor(t, pn.pool, Want{Key: key(i), Exits: wish}); c.Exit() != want.ID {
						t.Errorf("flow %d leaves at the other exit", i)
					}
				}
			})
		})
	}
}

// A node that is said again to have no link is avoided as long as one that does not
// answer, and being told so shortens no longer time; the last to fail is given up last.
func TestAvoidedFor(t *testing.T) {
	p, err := NewPool(PoolConfig{
		Build:  func(context.Context, []*netmap.Record) (*Circuit, error) { return nil, errMute },
		Choose: func([]wire.NodeID) ([]*netmap.Record, error) { return nil, netmap.ErrNoExit },
	})
	if err != nil {
		t.Fatal(err)
	}
	x, y := wire.NodeID{1}, wire.NodeID{2}
	begun := time.Now()
	for _, step := range []struct {
		at    time.Duration
		node  wire.NodeID // zero: none fails
		apart bool
		want  []wire.NodeID
	}{
		{0, x, false, []wire.NodeID{x}},
		{1 * time.Second, y, true, []wire.NodeID{y, x}},
		{2 * time.Second, x, true, []wire.NodeID{x, y}},
		{3 * time.Second, y, true, []wire.NodeID{y, x}},
		{14 * time.Second, wire.NodeID{}, false, []wire.NodeID{x}},
		{15 * time.Second, y, true, []wire.NodeID{y, x}},
		{119 * time.Second, wire.NodeID{}, false, []wire.NodeID{y, x}},
		{121 * time.Second, wire.NodeID{}, false, []wire.NodeID{y}},
		{136 * time.Second, wire.NodeID{}, false, nil},
		{300 * time.Second, y, true, []wire.NodeID{y}},
		{311 * time.Second, wire.NodeID{}, false, nil},
	} {
		now := begun.Add(step.at)
		if step.node != (wire.NodeID{}) {
			p.avoidLocked(step.node, step.apart, now)
		}
		if got := p.avoided(now); !slices.Equal(got, step.want) {
			t.Errorf("after %v %v are avoided, want %v", step.at, got, step.want)
		}
	}
}
