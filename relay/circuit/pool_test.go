package circuit

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// poolNet is a client (0), guards 1 and 2, relays 3 and 4, exits 5 and 6; each
// layer is connected with the next in full.
type poolNet struct {
	*testNet
	pool   *Pool
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	builds int
	asked  [][]wire.NodeID
}

func newPoolNet(t *testing.T, change func(*poolNet, *PoolConfig)) *poolNet {
	t.Helper()
	pn := &poolNet{testNet: newNet(t, 7, func(_ int, cfg *SwitchConfig) { cfg.Serve = sinkServe })}
	for _, e := range [][2]int{{0, 1}, {0, 2}, {1, 3}, {1, 4}, {2, 3}, {2, 4}, {3, 5}, {3, 6}, {4, 5}, {4, 6}} {
		pn.connect(e[0], e[1], nil, nil)
	}
	b := Builder{Links: pn.nodes[0].link}
	cfg := PoolConfig{
		Choose: pn.choose,
		Build: func(ctx context.Context, path []*netmap.Record) (*Circuit, error) {
			pn.mu.Lock()
			pn.builds++
			pn.mu.Unlock()
			return b.Build(ctx, path)
		},
	}
	if change != nil {
		change(pn, &cfg)
	}
	var err error
	if pn.pool, err = NewPool(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	pn.cancel = cancel
	pn.done.Go(func() { _ = pn.pool.Run(ctx) })
	t.Cleanup(pn.stop)
	return pn
}

// stop ends the pool first, then every node.
func (pn *poolNet) stop() {
	pn.cancel()
	pn.done.Wait()
	for _, n := range pn.nodes {
		n.kill()
	}
}

// choose takes the first of each layer that is not to be avoided.
func (pn *poolNet) choose(avoid []wire.NodeID) ([]*netmap.Record, error) {
	pn.mu.Lock()
	pn.asked = append(pn.asked, avoid)
	pn.mu.Unlock()
	var path []*netmap.Record
	for _, layer := range [][2]int{{1, 2}, {3, 4}, {5, 6}} {
		r := pn.nodes[layer[0]].record()
		if slices.Contains(avoid, r.ID) {
			r = pn.nodes[layer[1]].record()
		}
		if slices.Contains(avoid, r.ID) {
			return nil, netmap.ErrTooFewRelays
		}
		path = append(path, r)
	}
	return path, nil
}

func (pn *poolNet) built() int {
	pn.mu.Lock()
	defer pn.mu.Unlock()
	return pn.builds
}

func mustGet(t *testing.T, p *Pool) *Circuit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := p.Get(ctx, Want{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(p *Pool) (n, retiring int) {
	for _, s := range p.Circuits() {
		if s.Open && s.Retiring {
			retiring++
		} else if s.Open {
			n++
		}
	}
	return n, retiring
}

func TestPoolBuildsAheadAndRetires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		pn := newPoolNet(t, func(_ *poolNet, cfg *PoolConfig) { cfg.Ready = 2; cfg.Opened = func(*Circuit) { opened++ } })
		synctest.Wait()
		if n, _ := open(pn.pool); n != 2 || opened != 2 {
			t.Fatalf("%d circuits ready, %d announced, want 2 and 2", n, opened)
		}
		start := time.Now()
		first, again := mustGet(t, pn.pool), mustGet(t, pn.pool)
		if first != again || time.Since(start) != 0 {
			t.Error("two uses in a row did not get the same ready circuit at once")
		}
		again.Release()
		time.Sleep(defaultLifetime - time.Second)
		if c := mustGet(t, pn.pool); c != first {
			t.Error("the circuit was changed before its time")
		} else {
			c.Release()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n, retiring := open(pn.pool); n != 2 || retiring != 1 {
			t.Errorf("%d circuits ready and %d retiring, want 2 and 1", n, retiring)
		}
		second := mustGet(t, pn.pool)
		if second == first {
			t.Error("a retired circuit was given out")
		}
		select {
		case <-first.Done():
			t.Error("a circuit in use was closed")
		default:
		}
		first.Release()
		synctest.Wait()
		select {
		case <-first.Done():
		default:
			t.Error("a retired circuit stays open without use")
		}
		if n := pn.built(); n != 3 {
			t.Errorf("%d circuits were built, want 3", n)
		}
		second.Release()
		pn.stop()
		if _, err := pn.pool.Get(t.Context(), Want{}); !errors.Is(err, ErrClosed) {
			t.Errorf("Get after the end: %v, want ErrClosed", err)
		}
	})
}

func TestPoolAvoidsAKilledRelay(t *testing.T) {
	for hop := range 3 {
		synctest.Test(t, func(t *testing.T) {
			pn := newPoolNet(t, nil)
			synctest.Wait()
			c := mustGet(t, pn.pool)
			victim := slices.IndexFunc(pn.nodes, func(n *testNode) bool { return n.cfg.ID == c.hops[hop] })
			pn.nodes[victim].kill()
			<-c.Done()
			c.Release()
			synctest.Wait() // the news reaches every circuit
			next := mustGet(t, pn.pool)
			if slices.Contains(next.Status().Hops, pn.nodes[victim].cfg.ID) {
				t.Error("the next circuit uses the killed node")
			}
			next.Release()
			time.Sleep(30 * time.Second)
			if n, _ := open(pn.pool); n != defaultReady {
				t.Errorf("%d circuits ready, want %d", n, defaultReady)
			}
			if n := pn.built(); n > 2*defaultReady+3 {
				t.Errorf("%d builds for one killed node", n)
			}
		})
	}
}

func TestPoolSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pn := newPoolNet(t, func(_ *poolNet, cfg *PoolConfig) {
			cfg.Choose = func([]wire.NodeID) ([]*netmap.Record, error) { return nil, netmap.ErrNoExit }
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := pn.pool.Get(ctx, Want{})
		if !errors.Is(err, netmap.ErrNoExit) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get: %v, want no exit and deadline exceeded", err)
		}
	})
}

// TestPoolBacksOff counts what ten minutes without success cost.
func TestPoolBacksOff(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*poolNet, *PoolConfig)
		most   int // attempts in ten minutes
	}{
		"no path": {func(_ *poolNet, cfg *PoolConfig) {
			choose := cfg.Choose
			cfg.Choose = func(avoid []wire.NodeID) ([]*netmap.Record, error) {
				_, _ = choose(avoid)
				return nil, netmap.ErrNoRoute
			}
		}, 60},
		"circuits that close at once": {func(_ *poolNet, cfg *PoolConfig) { cfg.Opened = (*Circuit).Close }, 600*buildRate + defaultReady + buildSpare},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pn := newPoolNet(t, test.change)
				time.Sleep(10 * time.Minute)
				pn.mu.Lock()
				n := len(pn.asked)
				pn.mu.Unlock()
				if n < 15 || n > test.most {
					t.Errorf("%d attempts in ten minutes, want 15 to %d", n, test.most)
				}
			})
		})
	}
}

// Circuits kept ready and those in use go over different middle relays where there are
// some, also those to another exit, and over the same where not.
func TestPoolSpreads(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*poolNet, *PoolConfig)
	}{
		{"one exit", func(*poolNet, *PoolConfig) {}},
		{"two exits", func(pn *poolNet, cfg *PoolConfig) {
			cfg.ChooseElse = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
				return pn.choose(append(slices.Clone(avoid), exit))
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) {
					cfg.Ready = 2
					cfg.ChooseTo = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) { return pn.choose(avoid) }
					tt.change(pn, cfg)
				})
				synctest.Wait()
				over := map[wire.NodeID]int{}
				for _, s := range pn.pool.Circuits() {
					over[s.Hops[1]]++
				}
				if len(over) != 2 {
					t.Fatalf("the circuits kept ready go over %d middle relays, want 2", len(over))
				}
				for i := range 2 {
					defer getFor(t, pn.pool, Want{Key: key(i + 1)}).Release()
				}
				synctest.Wait()
				if n, _ := open(pn.pool); n != 3 {
					t.Errorf("%d circuits, want 3, though there are two middle relays only", n)
				}
			})
		})
	}
}
