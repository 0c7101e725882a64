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
		var pn *poolNet
		pn = newPoolNet(t, func(cfg *PoolConfig) {
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
