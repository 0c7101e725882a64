package circuit

import (
	"context"
	"errors"
	"net"
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

// mutable is a connection of which nothing arrives once it is mute.
type mutable struct {
	net.Conn
	mute *atomic.Bool
}

func (m mutable) Write(p []byte) (int, error) {
	if m.mute.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// An exit that has gone silent is found out over another path, soon, and is not taken
// for one that merely has lost a circuit, nor for gone when it is the path before it
// that is silent.
func TestGetToMute(t *testing.T) {
	for _, tt := range []struct {
		name  string
		quiet [][2]int // of the links that exist
		mute  bool
		err   bool
	}{
		{"exit", [][2]int{{1, 2}, {3, 2}}, true, true},
		{"first path", [][2]int{{0, 1}}, false, false},
		{"both paths", [][2]int{{0, 1}, {0, 3}}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tn := newNet(t, 4, func(_ int, cfg *SwitchConfig) { cfg.Serve = sinkServe }) // a client, two relays, and between them the exit
				mutes := map[[2]int]*atomic.Bool{}
				for _, e := range [][2]int{{0, 1}, {0, 3}, {1, 2}, {3, 2}} {
					a, b := net.Pipe()
					m := new(atomic.Bool)
					mutes[e] = m
					tn.connect(e[0], e[1], mutable{a, m}, mutable{b, m})
				}
				b := Builder{Links: tn.nodes[0].link}
				choose := func(avoid []wire.NodeID) ([]*netmap.Record, error) {
					for _, relay := range []int{1, 3} {
						if r := tn.nodes[relay].record(); !slices.Contains(avoid, r.ID) {
							return records(r, tn.nodes[2].record()), nil
						}
					}
					return nil, netmap.ErrTooFewRelays
				}
				p, err := NewPool(PoolConfig{Build: b.Build, Probe: b.Probe, Choose: choose,
					ChooseTo: func(_ wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) { return choose(avoid) }})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { p.stop(); p.watchers.Wait() }()
				lost := tn.mustBuild(1, 2)
				defer lost.Close()
				for _, e := range tt.quiet {
					mutes[e].Store(true)
				}
				start := time.Now()
				c, err := p.GetTo(t.Context(), lost, true)
				took := time.Since(start)
				if errors.Is(err, ErrExitMute) != tt.mute || (err != nil) != tt.err {
					t.Fatalf("%v", err)
				}
				if limit := map[bool]time.Duration{true: probeTime, false: buildTime}[tt.mute || !tt.err]; took > limit {
					t.Errorf("took %v, want at most %v", took, limit)
				}
				if c != nil && c.Hops()[0] != tn.nodes[3].record().ID {
					t.Error("not over the other relay")
				}
				if failed := p.avoided(time.Now()); tt.mute && !slices.Contains(failed, lost.Exit()) {
					t.Error("the next circuits kept ready may end at the silent exit")
				}
				for _, n := range tn.nodes {
					n.kill()
				}
			})
		})
	}
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

// All circuits kept ready end at one exit, since the relays had no links to the other
// when they were built. As soon as nobody who could help is avoided for that any more,
// it is tried again, and soon once more when that failed, too.
func TestPoolTriesAnotherExitAgain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		known  time.Duration // when there are paths to the other exit
		linked time.Duration // when the relays have links to it
		silent bool          // one relay answers never, instead of all refusing until then
		want   time.Duration // until there is a circuit
	}{
		{"at the second look", 0, time.Second, false, apartTime},
		{"at the third", 0, apartTime + time.Second, false, apartTime + avoidTime},
		{"over the other relay", time.Second, time.Hour, true, avoidTime + apartTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				pn := newPoolNet(t, func(pn *poolNet, cfg *PoolConfig) { // which prefers exit 5
					build := cfg.Build
					cfg.Build = func(ctx context.Context, path []*netmap.Record) (*Circuit, error) {
						if path[2].ID == pn.nodes[6].cfg.ID && time.Since(start) < tt.linked {
							if !tt.silent {
								return nil, &BuildError{Hop: 2, Reason: wire.ReasonNotConnected}
							}
							if path[1].ID == pn.nodes[3].cfg.ID {
								return nil, &BuildError{Hop: 1, Err: context.DeadlineExceeded}
							}
						}
						return build(ctx, path)
					}
					cfg.ChooseElse = func(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
						if time.Since(start) < tt.known {
							return nil, netmap.ErrNoExit
						}
						return pn.choose(append(slices.Clone(avoid), exit))
					}
				})
				both := func() bool {
					return slices.ContainsFunc(pn.pool.Circuits(), func(s Status) bool { return s.Hops[2] == pn.nodes[6].cfg.ID })
				}
				for !both() && time.Since(start) < time.Hour {
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
				}
				if took := time.Since(start); took < tt.want || took > tt.want+time.Second {
					t.Errorf("a circuit to the other exit after %v, want one after %v", took, tt.want)
				}
			})
		})
	}
}
