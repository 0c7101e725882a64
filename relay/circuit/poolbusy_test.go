package circuit

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// bulk sends as much as counts as bulk over c, and lets the pool look at it.
func bulk(t *testing.T, c *Circuit) {
	t.Helper()
	p := make([]byte, wire.SessionPacketSize)
	for range 4 {
		for range busyRate {
			if err := c.Send(wire.PayloadSession, wire.Reliable, p); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(sampleTime)
		synctest.Wait()
	}
}

func busyPool(t *testing.T, change func(*PoolConfig)) *poolNet {
	return newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
		cfg.Ready = 1
		cfg.ChooseTo = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
			path, err := pn.choose(avoid)
			if err == nil && path[2].ID != exit {
				path[2] = pn.nodes[6].record()
			}
			return path, err
		}
		if change != nil {
			change(cfg)
		}
	})
}

func TestPoolKeepsNewStreamsFromBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := busyPool(t, nil)
		first := mustGet(t, pn.pool)
		if again := mustGet(t, pn.pool); again != first {
			t.Error("two quiet streams are on two circuits")
		}
		bulk(t, first)
		mustGet(t, pn.pool) // asks for another
		synctest.Wait()
		second := mustGet(t, pn.pool)
		if second == first || second.Exit() != first.Exit() {
			t.Errorf("a stream beside bulk: same circuit %v, same exit %v; want another circuit to the same exit", second == first, second.Exit() == first.Exit())
		}
		if second.hops[1] == first.hops[1] {
			t.Error("it goes over the same middle relay, though there is another")
		}
		time.Sleep(2 * sampleTime) // the bulk is over
		synctest.Wait()
		bulk(t, second)
		if third := mustGet(t, pn.pool); third != first {
			t.Error("the circuit that is quiet again is not used")
		}
	})
}

func TestPoolBoundsCircuitsBesideBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := busyPool(t, nil)
		seen := map[*Circuit]bool{}
		for range 2 * mostToExit {
			c := mustGet(t, pn.pool)
			seen[c] = true
			for c := range seen {
				bulk(t, c)
			}
			for c := range seen { // all of them in one look
				p := make([]byte, wire.SessionPacketSize)
				for range busyRate {
					if err := c.Send(wire.PayloadSession, wire.Reliable, p); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(sampleTime)
			synctest.Wait()
		}
		if n, _ := open(pn.pool); n > mostToExit {
			t.Errorf("%d circuits to one exit, want at most %d", n, mostToExit)
		}
	})
}

// When all that there may be carry bulk, a new stream goes where it waits least.
func TestPoolGivesTheLeastBusyOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := busyPool(t, nil)
		var used []*Circuit
		load := func(times ...int) {
			p := make([]byte, wire.SessionPacketSize)
			for i, c := range used {
				for range times[i] * busyRate {
					if err := c.Send(wire.PayloadSession, wire.Reliable, p); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(sampleTime)
			synctest.Wait()
		}
		for range 4 * mostToExit {
			c := mustGet(t, pn.pool)
			if !slices.Contains(used, c) {
				used = append(used, c)
			}
			load(1, 1, 1)
		}
		if len(used) != mostToExit {
			t.Fatalf("%d circuits to one exit, want %d", len(used), mostToExit)
		}
		for least := range used {
			times := []int{3, 3, 3}
			times[least] = 1
			load(times...)
			if c := mustGet(t, pn.pool); c != used[least] {
				t.Errorf("a new stream is on circuit %d of %d, want the one that carries least, %d", slices.Index(used, c), len(used), least)
			}
		}
	})
}

func TestPoolWithoutAnotherPathUsesTheBusyCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := busyPool(t, func(cfg *PoolConfig) { cfg.ChooseTo = nil })
		first := mustGet(t, pn.pool)
		bulk(t, first)
		mustGet(t, pn.pool)
		synctest.Wait()
		if c := mustGet(t, pn.pool); c != first {
			t.Error("another circuit, though there is no path for one")
		}
	})
}

// However many downloads there are, brief flows have a circuit of their own to the
// same exit, which no download gets.
func TestPoolKeepsBriefFlowsFromBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := busyPool(t, nil)
		brief := func() *Circuit { return getFor(t, pn.pool, Want{Brief: true}) }
		first := mustGet(t, pn.pool)
		if brief() != first {
			t.Error("a brief flow beside quiet ones is on a circuit of its own")
		}
		downloads := map[*Circuit]bool{first: true}
		load := func() {
			for c := range downloads { // all of them in one look
				p := make([]byte, wire.SessionPacketSize)
				for range busyRate {
					if err := c.Send(wire.PayloadSession, wire.Reliable, p); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(sampleTime)
			synctest.Wait()
		}
		bulk(t, first)
		brief() // asks for one
		synctest.Wait()
		own := brief()
		if own == first || own.Exit() != first.Exit() {
			t.Errorf("beside bulk: same circuit %v, same exit %v; want another circuit to the same exit", own == first, own.Exit() == first.Exit())
		}
		for range 3 * mostToExit {
			load()
			downloads[mustGet(t, pn.pool)] = true
			synctest.Wait()
		}
		if downloads[own] || len(downloads) != mostToExit {
			t.Errorf("downloads use %d circuits, that of brief flows among them: %v; want %d others", len(downloads), downloads[own], mostToExit)
		}
		load()
		if brief() != own {
			t.Error("the brief flow has left its circuit")
		}
	})
}
