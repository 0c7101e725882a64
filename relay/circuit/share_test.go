package circuit

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// TestIdleCircuitsKeepNobodyOut: a client that builds as many circuits over a link as it
// gets, once or several times around on each, and leaves them idle, leaves room there for
// others, who go on building for as long as it stays; and all places are free after it.
func TestIdleCircuitsKeepNobodyOut(t *testing.T) {
	const lanes = 32
	for _, path := range [][]int{{1, 2}, {1, 2, 4, 1, 2}} {
		synctest.Test(t, func(t *testing.T) {
			tn := newNet(t, 5, nil) // the client, relays 1, 2 and 4, and the greedy one, 3
			tn.nodes[1].cfg.MaxLanes = lanes
			for _, e := range [][2]int{{0, 1}, {3, 1}, {1, 2}, {2, 4}, {4, 1}} {
				tn.connect(e[0], e[1], nil, nil)
			}
			var greedy []*Circuit
			for range 2 * lanes {
				c, err := tn.buildFrom(3, path...)
				if err != nil {
					var at *BuildError
					if !errors.As(err, &at) || at.Reason != wire.ReasonBusy {
						t.Fatal(err)
					}
					time.Sleep(time.Second) // it may be the rate
					continue
				}
				greedy = append(greedy, c)
			}
			if len(greedy) < lanes/4 {
				t.Fatalf("%d circuits were built, want many", len(greedy))
			}
			for range 3 {
				c, err := tn.build(1, 2)
				if err != nil {
					t.Fatalf("behind %d idle circuits over %v: %v", len(greedy), path, err)
				}
				defer c.Close()
				time.Sleep(time.Minute)
			}
			for _, c := range greedy {
				c.Close()
			}
			synctest.Wait()
			s := tn.nodes[1].sw
			s.mu.Lock()
			defer s.mu.Unlock()
			if x := s.shares[tn.nodes[3].cfg.ID]; x.open != 0 || len(x.onward) != 0 {
				t.Errorf("after the end %d circuits count, onward %v", x.open, x.onward)
			}
		})
	}
}

// TestPlacesAreShared: of all circuits that there may be, one neighbor gets half, the
// next one half of the rest, and so on.
func TestPlacesAreShared(t *testing.T) {
	s := newNet(t, 1, nil).nodes[0].sw
	now := time.Now()
	left := maxCircuits
	for i := range byte(3) {
		id := wire.NodeID{9, i}
		n := 0
		for s.mayCreate(id, now) {
			s.mu.Lock()
			s.open.Add(1)
			s.shares[id].open++
			s.mu.Unlock()
			s.afford()
			n++
		}
		if n != (left+1)/2 {
			t.Fatalf("neighbor %d gets %d places of %d, want half", i, n, left)
		}
		left -= n
	}
}

// TestExtendingKeepsNobodyOut: who has circuits extended all the time, to no purpose,
// leaves others what this relay may ask of the next one.
func TestExtendingKeepsNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newNet(t, 4, nil)
		tn.connect(0, 1, nil, nil)
		tn.connect(3, 1, nil, nil)
		tn.connect(1, 2, nil, nil)
		stop := make(chan struct{})
		tried := 0
		done := make(chan struct{})
		go func() { // ends with stop
			defer close(done)
			bad := tn.nodes[2].record()
			bad.KEM = tn.nodes[3].record().KEM // nobody has the key: the hop refuses
			b := Builder{Links: tn.nodes[3].link}
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				if _, err := b.Build(t.Context(), records(tn.nodes[1].record(), bad)); err == nil {
					t.Error("a hop took what was not for it")
				}
				tried++
			}
		}()
		for range 4 {
			time.Sleep(time.Second)
			c, err := tn.build(1, 2)
			if err != nil {
				t.Errorf("beside %d attempts: %v", tried, err)
				break
			}
			c.Close()
		}
		close(stop)
		<-done
	})
}

// TestRefusedIsTheEnd: a circuit that could not be extended is of no more use: whoever
// goes on with it is cut off.
func TestRefusedIsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newNet(t, 2, func(_ int, cfg *SwitchConfig) { cfg.Serve = sinkServe })
		tn.chain()
		for _, again := range []func(c *Circuit){
			func(c *Circuit) {
				c.control(0, wire.AppendExtend(nil, wire.NodeID{77}, 1, make([]byte, wire.HopMsg1Size)))
			},
			func(c *Circuit) { _ = c.Send(wire.PayloadSession, wire.Reliable, []byte("session")) },
		} {
			c := tn.mustBuild(1)
			c.waiting.Store(true)
			c.control(0, wire.AppendExtend(nil, wire.NodeID{77}, 1, make([]byte, wire.HopMsg1Size)))
			if m, err := wire.ParseMessage(<-c.answers); err != nil || m.Type != wire.MessageExtendRefused {
				t.Fatalf("the relay says %v, %v", m.Type, err)
			}
			synctest.Wait()
			if !alive(c) {
				t.Fatal("the refusal itself closes the circuit")
			}
			again(c)
			synctest.Wait()
			if alive(c) {
				t.Error("a circuit goes on after a refusal")
			}
		}
	})
}
