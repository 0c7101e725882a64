package circuit

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// One relay is known to be dead and another dies: the session that loses its
// circuit finds the one path that is left although it shares a relay with the lost
// one, at once and without going to the dead relay again and again.
func TestGetToGoesAroundTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pn *poolNet
		var spares atomic.Bool
		spares.Store(true)
		pn = newPoolNet(t, func(cfg *PoolConfig) {
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
