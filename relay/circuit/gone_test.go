package circuit

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// TestExitGoneLeavesAnother: when an exit has gone, the pool says so twice to the session
// that has lost its circuit, and has a circuit to another one for new flows, within a second.
func TestExitGoneLeavesAnother(t *testing.T) {
	for _, ready := range []bool{true, false} { // a circuit to the other exit is there before
		synctest.Test(t, func(t *testing.T) {
			pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
				cfg.ChooseTo = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
					other := pn.nodes[5].cfg.ID
					if exit == other {
						other = pn.nodes[6].cfg.ID
					}
					return pn.choose(append(slices.Clone(avoid), other))
				}
				if ready {
					cfg.ChooseElse = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
						return pn.choose(append(slices.Clone(avoid), exit))
					}
				}
			})
			synctest.Wait()
			lost := mustGet(t, pn.pool)
			defer lost.Release()
			start := time.Now()
			dead, alive := pn.nodes[5], pn.nodes[6]
			if lost.Exit() == alive.cfg.ID {
				dead, alive = alive, dead
			}
			dead.kill()
			<-lost.Done()
			synctest.Wait() // the news reaches every circuit
			next := mustGet(t, pn.pool)
			defer next.Release()
			if next.Exit() != alive.cfg.ID {
				t.Error("a new flow does not go to the other exit")
			}
			for range 2 {
				if _, err := pn.pool.GetTo(t.Context(), lost, false); !errors.Is(err, ErrExitGone) {
					t.Errorf("another circuit to it: %v, want that it is gone", err)
				}
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("that took %v, want at most a second", took)
			}
		})
	}
}
