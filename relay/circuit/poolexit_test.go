package circuit

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// One relay was dead already, another dies, and a third has failed a while ago but
// lives: the session that loses its circuit finds the one path that is left at once,
// although it shares a relay with the lost one and goes over the third.
func TestGetToGoesAroundTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var spares atomic.Bool
		spares.Store(true)
		pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
			cfg.Choose = func(avoid []wire.NodeID) ([]*netmap.Record, error) {
				if !spares.Load() {
					return nil, netmap.ErrTooFewRelays
				}
				return pn.choose(avoid)
			}
			cfg.ChooseTo = func(_ wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) { return pn.choose(avoid) }
		})
		synctest.Wait()
		lost := getFor(t, pn.pool, Want{Key: key(7)})
		spares.Store(false)
		pn.pool.blame([]*netmap.Record{pn.nodes[2].record()}, &BuildError{Reason: wire.ReasonNotConnected}, time.Now())
		time.Sleep(time.Second)
		pn.nodes[4].kill()
		pn.nodes[1].kill()
		synctest.Wait()
		c, err := pn.pool.GetTo(t.Context(), lost, false)
		if err != nil {
			t.Fatal(err)
		}
		want := []wire.NodeID{pn.nodes[2].record().ID, pn.nodes[3].record().ID, pn.nodes[5].record().ID}
		if !slices.Equal(c.hops, want) {
			t.Error("the circuit does not take the path that is left")
		}
	})
}

// When a circuit went silent, a node that has failed a while ago is tried before the
// relays of that circuit, over which a build would hang.
func TestGetToLeavesTheSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
			cfg.Ready = 1
			cfg.ChooseTo = func(_ wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) { return pn.choose(avoid) }
		})
		synctest.Wait()
		lost := getFor(t, pn.pool, Want{Key: key(7)})
		pn.pool.blame([]*netmap.Record{pn.nodes[2].record()}, &BuildError{Reason: wire.ReasonNotConnected}, time.Now())
		path, err := pn.pool.chooseTo(lost.Exit(), lost.hops[:2], true)
		if err != nil || path[0].ID != pn.nodes[2].record().ID || path[1].ID != pn.nodes[4].record().ID {
			t.Errorf("the path goes over relays of the silent circuit, %v", err)
		}
	})
}

// Of the circuits kept ready one ends at another exit, where there is one.
func TestAnotherExitIsReady(t *testing.T) {
	for _, tt := range []struct {
		name   string
		others bool
		want   int
	}{{"two exits", true, 2}, {"one exit", false, 1}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) { // which prefers exit 5
					cfg.ChooseElse = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
						if !tt.others {
							return nil, netmap.ErrNoExit
						}
						return pn.choose(append(slices.Clone(avoid), exit))
					}
				})
				synctest.Wait()
				exits := map[wire.NodeID]bool{}
				for _, s := range pn.pool.Circuits() {
					exits[s.Hops[2]] = true
				}
				if n, _ := open(pn.pool); len(exits) != tt.want || n != defaultReady {
					t.Errorf("%d circuits ready, to %d exits; want %d, to %d", n, len(exits), defaultReady, tt.want)
				}
			})
		})
	}
}

// Where no other exit could be reached at first, one is looked for later.
func TestAnotherExitComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var there atomic.Bool
		pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
			cfg.ChooseElse = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
				if !there.Load() {
					return nil, netmap.ErrNoExit
				}
				return pn.choose(append(slices.Clone(avoid), exit))
			}
		})
		exits := func() int {
			ids := map[wire.NodeID]bool{}
			for _, s := range pn.pool.Circuits() {
				ids[s.Hops[2]] = true
			}
			return len(ids)
		}
		time.Sleep(time.Minute)
		if n := exits(); n != 1 || pn.built() != defaultReady {
			t.Fatalf("%d builds, to %d exits; want %d, to one", pn.built(), n, defaultReady)
		}
		there.Store(true)
		time.Sleep(avoidTime)
		if n := exits(); n != 2 || pn.built() != defaultReady+1 {
			t.Errorf("later %d builds, to %d exits; want one more, to the other", pn.built(), n)
		}
		time.Sleep(time.Hour)
		if pn.built() != defaultReady+1 {
			t.Errorf("%d builds after an hour, want %d", pn.built(), defaultReady+1)
		}
	})
}
