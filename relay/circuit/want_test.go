package circuit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

func getFor(t *testing.T, p *Pool, w Want) *Circuit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := p.Get(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func key(n int) Key { return Key{byte(n), byte(n >> 8), 1} }

// Flows of different keys share no circuit, those of one key do; at most so many
// circuits are there, and idle ones make room.
func TestKeysShareNoCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, func(_ *poolNet, cfg *PoolConfig) { cfg.Most = 6 })
		owner := map[*Circuit]Key{}
		for i := range 20 {
			k := key(i)
			a, b := getFor(t, pn.pool, Want{Key: k}), getFor(t, pn.pool, Want{Key: k})
			if a != b {
				t.Errorf("key %d got two circuits", i)
			}
			if of, taken := owner[a]; taken {
				t.Errorf("keys %d and %v share a circuit", i, of[0])
			}
			owner[a] = k
			a.Release()
			b.Release()
			synctest.Wait()
			if n, retiring := open(pn.pool); n+retiring > 6 {
				t.Fatalf("%d circuits, want 6 at most", n+retiring)
			}
		}
	})
}

// When all circuits there may be are in use by others, a new key waits, and the
// error says why.
func TestCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, func(_ *poolNet, cfg *PoolConfig) { cfg.Most = 4 })
		for i := range 4 {
			getFor(t, pn.pool, Want{Key: key(i)})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := pn.pool.Get(ctx, Want{Key: key(9)}); !errors.Is(err, ErrCrowded) {
			t.Errorf("fifth key: %v, want ErrCrowded", err)
		}
	})
}

// A want that no ready circuit serves has one built that does; the circuits of its
// key that serve others stay.
func TestWantIsBuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
			cfg.ChooseFor = func(w Want, avoid []wire.NodeID) ([]*netmap.Record, error) { return pn.choose(append(avoid, w.Not...)) }
		})
		synctest.Wait()
		first := getFor(t, pn.pool, Want{})
		other := getFor(t, pn.pool, Want{Not: []wire.NodeID{first.Exit()}})
		if other.Exit() == first.Exit() {
			t.Error("an exit that was not wanted was given")
		}
		if again := getFor(t, pn.pool, Want{}); again != first {
			t.Error("the key has left its circuit for another flow's sake")
		}
		begun := time.Now()
		_, err := pn.pool.Get(t.Context(), Want{Not: []wire.NodeID{pn.nodes[5].cfg.ID, pn.nodes[6].cfg.ID}})
		if !errors.Is(err, netmap.ErrTooFewRelays) || time.Since(begun) > time.Second {
			t.Errorf("no exit left: %v after %v, want the reason at once", err, time.Since(begun))
		}
	})
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, nil)
		synctest.Wait()
		first := getFor(t, pn.pool, Want{})
		pn.pool.Renew(false)
		second := getFor(t, pn.pool, Want{})
		if second == first {
			t.Error("a new flow uses the old circuit")
		}
		synctest.Wait()
		if !alive(first) {
			t.Error("a circuit in use was closed")
		}
		first.Release()
		synctest.Wait()
		if alive(first) {
			t.Error("the old circuit stays without use")
		}
		pn.mu.Lock()
		before := pn.builds
		pn.mu.Unlock()
		pn.pool.Renew(true)
		time.Sleep(time.Minute)
		if n, _ := open(pn.pool); n != defaultReady || pn.built() < before+defaultReady {
			t.Errorf("%d circuits ready, %d built; want all replaced", n, pn.built()-before)
		}
		second.Release()
	})
}

// Faster and more reliable circuits are drawn more often, none never.
func TestDrawIsWeighted(t *testing.T) {
	rs := make(ratings)
	id := func(n byte) wire.NodeID { return wire.NodeID{n} }
	var from []*member
	for i, trip := range []time.Duration{10 * time.Millisecond, 40 * time.Millisecond, 10 * time.Millisecond} {
		c := &Circuit{hops: []wire.NodeID{id(byte(i))}}
		c.Measured(trip)
		from = append(from, &member{c: c})
	}
	for range 8 {
		rs.note(id(2), false)
	}
	late := &Circuit{hops: []wire.NodeID{id(3)}}
	late.Measured(10 * time.Millisecond)
	from = append(from, &member{c: late})
	for range 8 {
		rs.took(late, 60*time.Millisecond)
	}
	count := map[*member]int{}
	for range 4000 {
		count[rs.draw(from)]++
	}
	fast, slow, failing, queued := count[from[0]], count[from[1]], count[from[2]], count[from[3]]
	if fast < 3*slow || fast < 3*failing || fast < 3*queued || slow == 0 || failing == 0 || queued == 0 {
		t.Errorf("drawn: fast %d, slow %d, failing %d, with queues %d times; want the first far most often and each sometimes", fast, slow, failing, queued)
	}
	if rs.draw(nil) != nil {
		t.Error("something was drawn from nothing")
	}
	for n := range 2 * ratedMost {
		rs.of(wire.NodeID{1, byte(n), byte(n >> 8)})
	}
	if len(rs) > ratedMost {
		t.Errorf("%d nodes rated, want %d at most", len(rs), ratedMost)
	}
}

// Round trips of circuits in use tell of those that share hops with them: what takes
// longer than when it was built makes the others less likely, and is forgotten.
func TestTripsInUseAreRated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, nil)
		synctest.Wait()
		used := getFor(t, pn.pool, Want{})
		before := pn.pool.expected(used.hops)
		for range 20 {
			used.Measured(time.Second + used.built)
			time.Sleep(2 * sampleTime)
		}
		synctest.Wait()
		if got := pn.pool.expected(used.hops) - before; got < 800*time.Millisecond || got > time.Second {
			t.Errorf("a path whose trips take a second more is expected to take %v more", got)
		}
		for range 40 {
			used.Measured(used.built)
			time.Sleep(2 * sampleTime)
		}
		synctest.Wait()
		if got := pn.pool.expected(used.hops) - before; got > 10*time.Millisecond {
			t.Errorf("a path that is fast again is expected to take %v more", got)
		}
		used.Release()
	})
}

// expected is what a new circuit over these hops would be expected to take more.
func (p *Pool) expected(hops []wire.NodeID) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ratings.expected(&Circuit{hops: hops})
}

// The spare that takes over shares no middle hop with the circuit that was lost.
// The circuit that a session gets at once when its own has closed, and one that is built
// when it went silent, share no middle relay with that.
func TestSpareIsDisjoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, func(_ *poolNet, cfg *PoolConfig) { cfg.Ready = 2 })
		synctest.Wait()
		lost := getFor(t, pn.pool, Want{Key: key(7)})
		pn.cancel() // nothing is built any more
		built := pn.built()
		c, err := pn.pool.GetTo(t.Context(), lost, false)
		if err != nil {
			t.Fatal(err)
		}
		if c.hops[1] == lost.hops[1] || c.Exit() != lost.Exit() || pn.built() != built {
			t.Error("it goes over the relay of the lost circuit, to another exit, or was built")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
			cfg.ChooseTo = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) { return pn.choose(avoid) }
		})
		synctest.Wait()
		lost := getFor(t, pn.pool, Want{Key: key(7)})
		c, err := pn.pool.GetTo(t.Context(), lost, true)
		if err != nil {
			t.Fatal(err)
		}
		if n := sharedRelays(c, lost); n != 0 || c.Exit() != lost.Exit() {
			t.Errorf("%d relays shared, want none, and the same exit", n)
		}
		pn.pool.Offer(c)
		lost.Close()
		synctest.Wait()
		if got := getFor(t, pn.pool, Want{Key: key(7)}); got != c {
			t.Error("the key does not use the circuit its session has moved to")
		}
		if got := getFor(t, pn.pool, Want{Key: key(8)}); got == c {
			t.Error("another key was given a circuit that a session has moved to")
		}
	})
}

func TestKeyHides(t *testing.T) {
	k := Key{0xde, 0xad, 0xbe, 0xef}
	var text strings.Builder
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "k", k, "w", Want{Key: k})
	j, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %x %d %s", k, k, k, k, k, k), fmt.Sprintf("%v %+v", Want{Key: k}, Want{Key: k}), text.String(), string(j)} {
		if strings.Contains(s, "dead") || strings.Contains(s, "222") || !strings.Contains(s, hiddenKey) {
			t.Errorf("a key shows itself: %s", s)
		}
	}
}
