package circuit

import (
	"errors"
	"runtime/debug"
	"testing"
	"testing/synctest"

	"cuttle/relay/link"
	"cuttle/relay/wire"
)

func sinkServe(*Terminal) (Handler, error) {
	return func(byte, wire.Class, []byte) error { return nil }, nil
}

// raw sends a cell with this payload to one hop, whatever the protocol says.
func (c *Circuit) raw(class wire.Class, hop int, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cell := wire.NewCell(class)
	n := copy(c.path.Payload(cell), payload)
	c.path.Seal(cell, hop, n)
	c.lane.Load().Send(cell)
}

// TestClientBreaksTheRules has a client with a circuit of two hops (the second
// is an exit) send what it must not: everything closes.
func TestClientBreaksTheRules(t *testing.T) {
	msg1 := make([]byte, wire.HopMsg1Size)
	fragment := func(msg []byte) []byte {
		p := make([]byte, wire.PayloadSize)
		n, _ := wire.PutFragment(p, msg)
		return p[:n]
	}
	for name, abuse := range map[string]func(c *Circuit){
		"a cell that does not verify": func(c *Circuit) {
			cell := wire.NewCell(wire.Reliable)
			clear(cell.Body())
			c.lane.Load().Send(cell)
		},
		"a cell with one bit changed": func(c *Circuit) {
			cell := wire.NewCell(wire.Reliable)
			c.path.Seal(cell, 1, copy(c.path.Payload(cell), []byte{wire.PayloadSession, 'x'}))
			cell.Body()[700] ^= 1
			c.lane.Load().Send(cell)
		},
		"a cell twice": func(c *Circuit) {
			cell, again := wire.NewCell(wire.Reliable), wire.NewCell(wire.Reliable)
			c.path.Seal(cell, 1, copy(c.path.Payload(cell), []byte{wire.PayloadSession, 'x'}))
			copy(again.Body(), cell.Body())
			c.lane.Load().Send(cell)
			c.lane.Load().Send(again)
		},
		"extend in the middle":     func(c *Circuit) { c.control(0, wire.AppendExtend(nil, wire.NodeID{3}, 1, msg1)) },
		"extended from the client": func(c *Circuit) { c.control(1, wire.AppendExtended(nil, make([]byte, wire.HopMsg2Size))) },
		"unknown message":          func(c *Circuit) { c.control(1, []byte{77}) },
		"unknown payload":          func(c *Circuit) { c.raw(wire.Reliable, 1, []byte{9, 9}) },
		"empty session packet":     func(c *Circuit) { c.raw(wire.Reliable, 1, []byte{wire.PayloadSession}) },
		"session in the middle":    func(c *Circuit) { c.raw(wire.Reliable, 0, []byte{wire.PayloadSession, 1}) },
		"control as datagram":      func(c *Circuit) { c.raw(wire.Datagram, 1, fragment(wire.AppendExtendRefused(nil, 1))) },
		"a message without end": func(c *Circuit) {
			for range 5 {
				c.raw(wire.Reliable, 1, append([]byte{wire.PayloadControl, 0}, make([]byte, 1000)...))
			}
		},
		"extend after a session packet": func(c *Circuit) {
			c.raw(wire.Reliable, 1, []byte{wire.PayloadSession, 1})
			c.control(1, wire.AppendExtend(nil, wire.NodeID{4}, 1, msg1))
		},
		"extend without waiting": func(c *Circuit) {
			for range 2 {
				c.control(1, wire.AppendExtend(nil, wire.NodeID{4}, 1, msg1))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tn := newNet(t, 4, func(_ int, cfg *SwitchConfig) { cfg.Serve, cfg.RelayPrice, cfg.ExitPrice = sinkServe, 0, 0 })
			tn.chain()
			r1, r2 := tn.nodes[1].record(), tn.nodes[2].record()
			r2.ExitPrice = 5
			b := Builder{Links: tn.nodes[0].link}
			c, err := b.Build(t.Context(), records(r1, r2))
			if err != nil {
				t.Fatal(err)
			}
			c.Attach(func(byte, wire.Class, []byte) error { return nil })
			abuse(c)
			wait(t, c.Done(), "close of the circuit")
			for _, n := range tn.nodes {
				waitClosed(t, n.sw)
			}
			tn.mustBuild(1, 2) // the links are none the worse
		})
	}
}

// TestHopBreaksTheRules has the last hop send what it must not: the client
// closes.
func TestHopBreaksTheRules(t *testing.T) {
	originate := func(x *Terminal, class wire.Class, payload []byte) {
		c := wire.NewCell(class)
		n := copy(x.t.hop.Payload(c), payload)
		x.t.hop.Originate(c, n)
		x.t.prev.Send(c)
	}
	for name, abuse := range map[string]func(x *Terminal){
		"a cell that does not verify": func(x *Terminal) {
			c := wire.NewCell(wire.Reliable)
			clear(c.Body())
			x.t.prev.Send(c)
		},
		"extended unasked":     func(x *Terminal) { x.t.reply(wire.AppendExtended(nil, make([]byte, wire.HopMsg2Size))) },
		"unknown payload":      func(x *Terminal) { originate(x, wire.Reliable, []byte{9}) },
		"empty session packet": func(x *Terminal) { originate(x, wire.Reliable, []byte{wire.PayloadSession}) },
		"packet nobody wants":  func(x *Terminal) { originate(x, wire.Reliable, []byte{wire.PayloadSession, 66}) },
	} {
		t.Run(name, func(t *testing.T) {
			terminal := make(chan *Terminal, 1)
			tn := newNet(t, 4, func(i int, cfg *SwitchConfig) {
				cfg.Serve = func(x *Terminal) (Handler, error) { terminal <- x; return sinkServe(x) }
			})
			tn.chain()
			c := tn.mustBuild(1, 2, 3)
			c.Attach(func(_ byte, _ wire.Class, p []byte) error {
				if p[0] == 66 {
					return errPacket
				}
				return nil
			})
			if err := c.Send(wire.PayloadSession, wire.Reliable, []byte("x")); err != nil {
				t.Fatal(err)
			}
			abuse(wait(t, terminal, "terminal"))
			wait(t, c.Done(), "close of the circuit")
			for _, n := range tn.nodes {
				waitClosed(t, n.sw)
			}
		})
	}
}

// TestSlowReader downloads to a client whose connection stands still: all wait,
// with bounded queues, and nothing is lost when it moves again.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const packets = 20000
		sent := make(chan error, 1)
		down := newVerifier(packets)
		tn := newNet(t, 4, func(i int, cfg *SwitchConfig) {
			if i == 3 {
				cfg.Serve = func(x *Terminal) (Handler, error) {
					go func() { sent <- sendPackets(x, packets) }() // ends with the packets or the circuit
					return func(byte, wire.Class, []byte) error { return nil }, nil
				}
			}
		})
		gate := newGate()
		ci, cj := gate.pipe()
		tn.connect(0, 1, ci, cj)
		tn.connect(1, 2, nil, nil)
		tn.connect(2, 3, nil, nil)
		c := tn.mustBuild(1, 2, 3)
		c.Attach(down.handle)
		gate.shut()
		if err := c.Send(wire.PayloadSession, wire.Reliable, []byte("go")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until nobody can go on
		select {
		case err := <-sent:
			t.Fatalf("the exit could send everything into a standing connection: %v", err)
		default:
		}
		for i := 1; i <= 3; i++ {
			n := tn.nodes[i]
			for _, l := range n.links {
				if q := l.Status().Queued; q > 4096+sendHigh {
					t.Errorf("node %d holds %d cells, more than a window", i, q)
				}
			}
			if g := n.cfg.Budget.Granted(); g > link.DefaultBudget {
				t.Errorf("node %d has granted %d bytes, more than its budget", i, g)
			}
		}
		gate.open()
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if err := <-down.done; err != nil {
			t.Fatal(err)
		}
		c.Close()
		for _, n := range tn.nodes {
			n.kill()
		}
	})
}

// TestOverBudget has many downloads wait at a relay with little memory: it
// closes the circuits whose queued cells are oldest, tells both sides, and serves the
// rest.
func TestOverBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const circuits, limit = 8, 300 * 1800 // about 300 cells
		tn := newNet(t, 4, func(i int, cfg *SwitchConfig) {
			if i == 3 {
				cfg.Serve = func(x *Terminal) (Handler, error) {
					go func() { // ends with the circuit
						for x.Send(wire.PayloadSession, wire.Reliable, []byte("bulk")) == nil {
						}
					}()
					return func(byte, wire.Class, []byte) error { return nil }, nil
				}
			}
		})
		tn.nodes[1].cfg.Budget = link.NewBudget(limit)
		gate := newGate()
		ci, cj := gate.pipe()
		tn.connect(0, 1, ci, cj)
		tn.connect(1, 2, nil, nil)
		tn.connect(2, 3, nil, nil)
		var all []*Circuit
		for range circuits {
			c := tn.mustBuild(1, 2, 3)
			c.Attach(func(byte, wire.Class, []byte) error { return nil })
			all = append(all, c)
		}
		gate.shut()
		for _, c := range all {
			if err := c.Send(wire.PayloadSession, wire.Reliable, []byte("go")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if q := tn.nodes[1].cfg.Budget.Queued(); q > limit+64*1800 {
			t.Errorf("%d bytes are queued, the budget is %d", q, limit)
		}
		open := tn.nodes[1].sw.Open()
		if open == 0 || open == circuits {
			t.Errorf("%d of %d circuits are left, want some", open, circuits)
		}
		gate.open()
		for _, n := range tn.nodes {
			n.kill()
		}
		for _, c := range all {
			<-c.Done()
		}
	})
}

// TestForwardingAllocatesNothing sends through three hops and counts.
func TestForwardingAllocatesNothing(t *testing.T) {
	const batch = 2000
	arrived := make(chan struct{}, 1)
	n := 0
	tn := newNet(t, 4, func(i int, cfg *SwitchConfig) {
		cfg.Serve = func(*Terminal) (Handler, error) {
			return func(byte, wire.Class, []byte) error {
				if n++; n == batch {
					n = 0
					arrived <- struct{}{}
				}
				return nil
			}, nil
		}
	})
	tn.chain()
	c := tn.mustBuild(1, 2, 3)
	p := make([]byte, wire.SessionPacketSize)
	send := func() {
		for range batch {
			if err := c.Send(wire.PayloadSession, wire.Reliable, p); err != nil {
				t.Error(err)
				return
			}
		}
		<-arrived
	}
	send() // rings and pools grow
	// Garbage collection empties the pools, more often on a busy machine.
	most := float64(batch) / 4
	if raceEnabled { // the race detector empties pools at random
		most = 3 * batch
	}
	if perRun := testing.AllocsPerRun(5, send); perRun > most {
		t.Errorf("%v allocations for %d cells, want next to none", perRun, batch)
	}
	c.Close()
}

// TestRunsOfCellsAllocateNothing sends runs of cells over three hops both ways, one run
// at a time, so that no queue is longer than before: then neither relays (open a record,
// peel or wrap, queue, grant, fill a record, seal and write it) nor the ends allocate.
func TestRunsOfCellsAllocateNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands: no PING is due
		defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection takes what the runtime keeps for goroutines that block
		const runs, readers = 20, 6
		terminal, arrived := make(chan *Terminal, 1), make(chan struct{}, 1)
		n := 0
		count := func(byte, wire.Class, []byte) error {
			if n++; n%sendBatch == 0 {
				arrived <- struct{}{}
			}
			return nil
		}
		tn := newNet(t, 4, func(_ int, cfg *SwitchConfig) {
			cfg.Serve = func(x *Terminal) (Handler, error) { terminal <- x; return count, nil }
		})
		for _, node := range tn.nodes {
			node.cfg.MaxWindow = wire.InitialCredit // so that there is credit to grant all the time
		}
		tn.chain()
		c := tn.mustBuild(1, 2, 3)
		c.Attach(count)
		var run [sendBatch][]byte
		for i := range run {
			run[i] = make([]byte, wire.SessionPacketSize)
		}
		type sender interface {
			SendAll(kind byte, class wire.Class, packets [][]byte) error
		}
		transfer := func(from sender) func() {
			return func() {
				for range runs {
					if err := from.SendAll(wire.PayloadSession, wire.Reliable, run[:]); err != nil {
						t.Error(err)
						return
					}
					<-arrived
				}
			}
		}
		forward := transfer(c)
		forward()
		ways := map[string]func(){"forward": forward, "backward": transfer(<-terminal)}
		// Whatever tests before have left, there are as many spare cells as the links'
		// readers take at most, a record's each, and one run.
		cells := make([]*wire.Cell, 1024)
		wire.NewCells(cells)
		wire.ReleaseCells(cells[:readers*(wire.MaxRecord/wire.CellFrameSize)+sendBatch])
		for way, f := range ways {
			if got := testing.AllocsPerRun(1, f); got != 0 { // which calls it once before
				t.Errorf("allocations for %d cells %s: %v, want 0", runs*sendBatch, way, got)
			}
		}
	})
}

// TestCircuitsAreBounded: a full switch says so, and takes circuits again when
// some have gone.
func TestCircuitsAreBounded(t *testing.T) {
	tn := newNet(t, 2, nil)
	tn.connect(0, 1, nil, nil)
	tn.nodes[1].sw.open.Store(maxCircuits)
	_, err := tn.build(1)
	var refused *BuildError
	if !errors.As(err, &refused) || refused.Reason != wire.ReasonBusy {
		t.Errorf("build through a full node: %v, want refused: busy", err)
	}
	tn.nodes[1].sw.open.Store(maxCircuits - 1)
	tn.mustBuild(1).Close()
}
