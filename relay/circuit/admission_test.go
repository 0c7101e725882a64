package circuit

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// newDoor is a relay, node 0, whose workers do not run yet, and neighbors of it,
// nodes 1 and 2.
func newDoor(t *testing.T) *testNet {
	t.Helper()
	tn := newNet(t, 3, nil)
	synctest.Wait() // until the workers of newNet have their switch
	var err error
	if tn.nodes[0].sw, err = NewSwitch(tn.nodes[0].sw.cfg); err != nil {
		t.Fatal(err)
	}
	tn.connect(1, 0, nil, nil)
	tn.connect(2, 0, nil, nil)
	return tn
}

// admit has the relay's workers begin.
func (tn *testNet) admit() {
	n := tn.nodes[0]
	n.wg.Go(func() { _ = n.sw.Run(n.ctx) }) // ends with the node
}

// answer is a circuit that asks to be let in, and in words what it was told; ""
// while it was told nothing.
type answer struct{ got string }

func (a *answer) Created([]byte)             { a.got = "created" }
func (a *answer) Refused(reason wire.Reason) { a.got = reason.String() }
func (a *answer) Cells(cells []*wire.Cell)   { wire.ReleaseCells(cells) }
func (a *answer) Closed()                    {}

// hello is a first message to the relay.
func (tn *testNet) hello() []byte {
	tn.t.Helper()
	relay := tn.nodes[0].cfg
	_, msg1, err := onion.StartHop(relay.ID, relay.Key.Public(), onion.DefaultSuites())
	if err != nil {
		tn.t.Fatal(err)
	}
	return msg1
}

// ask sends a neighbor's CREATE to the relay and waits until nobody can go on. No
// time passes meanwhile.
func (tn *testNet) ask(neighbor int, msg1 []byte) *answer {
	tn.t.Helper()
	a := new(answer)
	if _, err := tn.nodes[neighbor].link(tn.nodes[0].cfg.ID).Open(9, msg1, a); err != nil {
		tn.t.Fatal(err)
	}
	synctest.Wait()
	return a
}

// TestNeighborsCreateWithinTheirRate: a neighbor may create so many circuits at once
// and is refused then, while another is not; each moment earns it one more.
func TestNeighborsCreateWithinTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newDoor(t)
		tn.admit()
		for i := range createBurst {
			if a := tn.ask(1, tn.hello()); a.got != "created" {
				t.Fatalf("CREATE %d of a neighbor: %q, want created", i+1, a.got)
			}
		}
		if a := tn.ask(1, tn.hello()); a.got != "busy" {
			t.Errorf("CREATE %d of a neighbor: %q, want busy", createBurst+1, a.got)
		}
		if a := tn.ask(2, tn.hello()); a.got != "created" {
			t.Errorf("CREATE of another neighbor: %q, want created", a.got)
		}
		time.Sleep(time.Second / createRate)
		for _, want := range []string{"created", "busy"} {
			if a := tn.ask(1, tn.hello()); a.got != want {
				t.Errorf("CREATE of the first one a moment later: %q, want %s", a.got, want)
			}
		}
	})
}

// TestFullQueueIsBusyAtOnce: while no worker is free, so many CREATEs of all
// neighbors wait, and who comes then is refused at once; those that wait are served.
func TestFullQueueIsBusyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newDoor(t)
		var waiting [handshakeQueue]*answer
		for i := range waiting {
			waiting[i] = tn.ask(1, tn.hello())
		}
		late := tn.ask(2, tn.hello())
		for i, a := range waiting {
			if a.got != "" {
				t.Fatalf("CREATE %d: %q, want no answer while no worker is free", i+1, a.got)
			}
		}
		if late.got != "busy" {
			t.Errorf("CREATE behind a full queue: %q, want busy", late.got)
		}
		tn.admit()
		synctest.Wait()
		for i, a := range waiting {
			if a.got != "created" {
				t.Errorf("CREATE %d that waited: %q, want created", i+1, a.got)
			}
		}
		if a := tn.ask(2, tn.hello()); a.got != "created" {
			t.Errorf("CREATE when the queue is empty again: %q, want created", a.got)
		}
	})
}

// TestStaleCreateIsRefused: a CREATE that has waited longer than it may costs no
// handshake: its first message, sent again, is no replay. One that has waited just as
// long as it may is served.
func TestStaleCreateIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newDoor(t)
		msg1 := tn.hello()
		stale := tn.ask(1, msg1)
		time.Sleep(time.Nanosecond)
		fresh := tn.ask(1, tn.hello())
		time.Sleep(handshakeTime)
		tn.admit()
		synctest.Wait()
		if stale.got != "busy" {
			t.Errorf("CREATE that waited longer than %v: %q, want busy", handshakeTime, stale.got)
		}
		if fresh.got != "created" {
			t.Errorf("CREATE that waited %v: %q, want created", handshakeTime, fresh.got)
		}
		if a := tn.ask(1, msg1); a.got != "created" {
			t.Errorf("the first one's message again: %q, want created", a.got)
		}
	})
}

// TestBudgetsOfNeighborsAreForgotten: wave after wave of neighbors comes and goes, and
// no more budgets are kept than there may be; that of one who has used it up is.
func TestBudgetsOfNeighborsAreForgotten(t *testing.T) {
	s := newNet(t, 1, nil).nodes[0].sw
	now := time.Now()
	greedy, stranger := wire.NodeID{1}, wire.NodeID{2}
	for range createBurst {
		s.mayCreate(greedy, now)
	}
	for wave := range 3 {
		for i := range maxNeighbors - 1 {
			binary.BigEndian.PutUint32(stranger[1:], uint32(wave*maxNeighbors+i))
			if !s.mayCreate(stranger, now) {
				t.Fatalf("the first CREATE of neighbor %d of wave %d is refused", i, wave)
			}
		}
		if n := len(s.shares); n > maxNeighbors {
			t.Errorf("budgets kept after wave %d: %d, want %d at most", wave, n, maxNeighbors)
		}
		if s.mayCreate(greedy, now) {
			t.Errorf("a neighbor that has used up its budget may create in wave %d", wave)
		}
		now = now.Add(time.Second / createRate) // a wave's budgets are full again
		s.mayCreate(greedy, now)                // and this one is as empty as before
	}
	for i := range 2 * maxNeighbors { // all at once
		binary.BigEndian.PutUint32(stranger[1:], uint32(i))
		s.mayCreate(stranger, now)
	}
	if n := len(s.shares); n > maxNeighbors {
		t.Errorf("budgets kept of neighbors that came at once: %d, want %d at most", n, maxNeighbors)
	}
}
