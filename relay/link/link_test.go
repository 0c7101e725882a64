package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNode is one end's configuration. Its record is the identity and the key.
type testNode struct{ cfg Config }

func (n *testNode) peer() Peer { return Peer{ID: n.cfg.ID, KEM: n.cfg.Key.Public()} }

func newTestNode(t testing.TB, b byte) *testNode {
	t.Helper()
	key, err := onion.NewStaticKey([32]byte{b})
	if err != nil {
		t.Fatal(err)
	}
	id := wire.NodeID{b}
	return &testNode{Config{ID: id, Key: key, Record: append(id[:], key.Public()...), Check: checkTestRecord}}
}

func checkTestRecord(record []byte) (Peer, error) {
	if len(record) != wire.NodeIDSize+wire.KEMPublicSize {
		return Peer{}, errors.New("not a test record")
	}
	return Peer{wire.NodeID(record), record[wire.NodeIDSize:]}, nil
}

// handshake joins two nodes over the given ends of one connection.
func handshake(t testing.TB, a, b *testNode, ca, cb net.Conn) (la, lb *Link) {
	t.Helper()
	var accept error
	var wg sync.WaitGroup
	wg.Go(func() { lb, accept = Accept(t.Context(), cb, b.cfg) })
	la, err := Dial(t.Context(), ca, a.cfg, b.peer())
	wg.Wait()
	if err != nil || accept != nil {
		t.Fatalf("handshake: dial %v, accept %v", err, accept)
	}
	return la, lb
}

// joined is a pair of running links; a dialled.
type joined struct {
	a, b       *Link
	swA, swB   *acceptor
	errA, errB error // why they ended; after stop
	cancel     context.CancelFunc
	wg         sync.WaitGroup
}

func join(t testing.TB, a, b *testNode, ca, cb net.Conn) *joined {
	t.Helper()
	j := &joined{swA: newAcceptor(), swB: newAcceptor()}
	j.a, j.b = handshake(t, a, b, ca, cb)
	ctx, cancel := context.WithCancel(context.Background())
	j.cancel = cancel
	j.wg.Go(func() { j.errA = j.a.Run(ctx, j.swA) })
	j.wg.Go(func() { j.errB = j.b.Run(ctx, j.swB) })
	t.Cleanup(j.stop)
	return j
}

func (j *joined) stop() { j.cancel(); j.wg.Wait() }

func joinPipe(t testing.TB) *joined {
	ca, cb := net.Pipe()
	return join(t, newTestNode(t, 1), newTestNode(t, 2), ca, cb)
}

// acceptor is a Switch that accepts with the receivers it is given, or refuses.
type acceptor struct {
	lanes  chan *Lane
	create func(ln *Lane, msg1 []byte) // nil: hand the lane to lanes
}

func newAcceptor() *acceptor { return &acceptor{lanes: make(chan *Lane, 64)} }

func (s *acceptor) Create(ln *Lane, msg1 []byte) {
	if s.create != nil {
		s.create(ln, msg1)
		return
	}
	s.lanes <- ln
}

// sink is a Receiver that remembers what it was told.
type sink struct {
	created chan []byte
	refused chan wire.Reason
	closed  chan struct{}
	cells   chan *wire.Cell    // nil: onCell
	onCell  func(c *wire.Cell) // owns the cell
	mu      sync.Mutex         // guards calls
	calls   map[string]int
}

func newSink(cells int) *sink {
	return &sink{created: make(chan []byte, 1), refused: make(chan wire.Reason, 1), closed: make(chan struct{}),
		cells: make(chan *wire.Cell, cells), calls: map[string]int{}}
}

func (s *sink) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[call]++
}

func (s *sink) Created(msg2 []byte)   { s.note("created"); s.created <- bytes.Clone(msg2) }
func (s *sink) Refused(r wire.Reason) { s.note("refused"); s.refused <- r }
func (s *sink) Closed()               { s.note("closed"); close(s.closed) }
func (s *sink) Cells(cells []*wire.Cell) {
	for _, c := range cells {
		if s.onCell != nil {
			s.onCell(c)
			continue
		}
		s.cells <- c
	}
}

var (
	testMsg1 = bytes.Repeat([]byte{7}, wire.HopMsg1Size)
	testMsg2 = bytes.Repeat([]byte{9}, wire.HopMsg2Size)
)

// openLane opens a lane from one end and accepts it at the other.
func openLane(t testing.TB, from *Link, to *acceptor, tier wire.Tier, ra, rb *sink) (a, b *Lane) {
	t.Helper()
	a, err := from.Open(tier, testMsg1, ra)
	if err != nil {
		t.Fatal(err)
	}
	b = wait(t, to.lanes, "create")
	if err := b.Created(testMsg2, rb); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, ra.created, "created"); !bytes.Equal(got, testMsg2) {
		t.Fatal("CREATED brought another message than was sent")
	}
	return a, b
}

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s within 20 s", what)
		panic("unreachable")
	}
}

func numbered(n int) *wire.Cell {
	c := wire.NewCell(wire.Class(n & 1))
	body := c.Body()
	for i := range body {
		body[i] = byte(n + i)
	}
	copy(body, fmt.Sprintf("%08d", n))
	return c
}

func checkNumbered(c *wire.Cell, n int) error {
	want := numbered(n)
	defer want.Release()
	if c.Class != want.Class || !bytes.Equal(c.Body(), want.Body()) {
		return fmt.Errorf("cell %d came with other bytes or class: starts %q, class %d", n, c.Body()[:8], c.Class)
	}
	return nil
}

func TestLanesCarryCellsBothWays(t *testing.T) {
	for _, open := range []string{"initiator", "acceptor"} {
		t.Run(open+" opens", func(t *testing.T) {
			j := joinPipe(t)
			from, to := j.a, j.swB
			if open == "acceptor" {
				from, to = j.b, j.swA
			}
			ra, rb := newSink(100), newSink(100)
			a, b := openLane(t, from, to, 3, ra, rb)
			if a.Tier() != 3 || b.Tier() != 3 || !a.Ours() || b.Ours() {
				t.Fatalf("tiers %d, %d, ours %v, %v; want 3, 3, true, false", a.Tier(), b.Tier(), a.Ours(), b.Ours())
			}
			for n := range 100 {
				a.Send(numbered(n))
				b.Send(numbered(1000 + n))
			}
			for n := range 100 {
				if err := checkNumbered(wait(t, rb.cells, "cell"), n); err != nil {
					t.Fatal(err)
				}
				if err := checkNumbered(wait(t, ra.cells, "cell"), 1000+n); err != nil {
					t.Fatal(err)
				}
			}
			a.Close()
			wait(t, rb.closed, "close")
			j.stop()
			for _, end := range []struct {
				l     *Link
				payer Payer
			}{{a.Link(), WePay}, {b.Link(), TheyPay}} {
				for _, dir := range []Direction{Sent, Received} {
					if got := end.l.Status().Cells[dir][end.payer]; got != 100 {
						t.Errorf("payer %d, direction %d: counted %d cells, want 100", end.payer, dir, got)
					}
				}
			}
			if ra.calls["closed"] != 0 {
				t.Error("Closed was called at the end that closed")
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	j := joinPipe(t)
	r := newSink(0)
	if _, err := j.a.Open(1, testMsg1, r); err != nil {
		t.Fatal(err)
	}
	b := wait(t, j.swB.lanes, "create")
	b.Refuse(wire.ReasonPaymentDue)
	if got := wait(t, r.refused, "refuse"); got != wire.ReasonPaymentDue {
		t.Fatalf("reason %v, want payment due", got)
	}
	if err := b.Created(testMsg2, newSink(0)); !errors.Is(err, ErrClosed) {
		t.Fatalf("Created after Refuse: %v, want ErrClosed", err)
	}
	// A lane after it: REFUSE and its CLOSE have passed, and the link lives.
	openLane(t, j.a, j.swB, 1, newSink(0), newSink(0))
	if n := j.a.Status().Lanes; n != 1 {
		t.Errorf("initiator keeps %d lanes, want 1", n)
	}
	if n := j.b.Status().Lanes; n != 1 {
		t.Errorf("acceptor keeps %d lanes, want 1", n)
	}
}

func TestCloseBeforeAnswer(t *testing.T) {
	for _, answer := range []string{"created", "refused", "closed"} {
		t.Run(answer, func(t *testing.T) {
			j := joinPipe(t)
			r := newSink(0)
			a, err := j.a.Open(1, testMsg1, r)
			if err != nil {
				t.Fatal(err)
			}
			b := wait(t, j.swB.lanes, "create")
			rb := newSink(0)
			// Both ends act before they hear of each other, as far as they can.
			a.Close()
			switch answer {
			case "created":
				_ = b.Created(testMsg2, rb) // either outcome is right: it may have heard
			case "refused":
				b.Refuse(wire.ReasonBusy)
			case "closed":
				b.Close()
			}
			for range 3 { // the link is still good
				openLane(t, j.a, j.swB, 1, newSink(0), newSink(0))
			}
			if n := j.a.Status().Lanes; n != 3 {
				t.Errorf("initiator keeps %d lanes, want 3", n)
			}
			if n := r.calls["created"] + r.calls["refused"] + r.calls["closed"]; n != 0 {
				t.Errorf("receiver was called %d times after Close", n)
			}
		})
	}
}

func TestLinkEndClosesLanes(t *testing.T) {
	j := joinPipe(t)
	ra, rb := newSink(0), newSink(0)
	a, _ := openLane(t, j.a, j.swB, 1, ra, rb)
	pending := newSink(0)
	if _, err := j.a.Open(1, testMsg1, pending); err != nil {
		t.Fatal(err)
	}
	j.a.Close()
	for name, s := range map[string]*sink{"opener": ra, "acceptor": rb, "pending": pending} {
		wait(t, s.closed, "Closed of "+name)
	}
	j.wg.Wait()
	if !errors.Is(j.errA, ErrClosed) {
		t.Errorf("Run returned %v, want ErrClosed", j.errA)
	}
	a.Send(wire.NewCell(wire.Reliable)) // dropped
	if _, err := j.a.Open(1, testMsg1, newSink(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("Open on an ended link: %v, want ErrClosed", err)
	}
	if g, q := j.a.budget.Granted(), j.a.queued.Load(); g != 0 || q != 0 {
		t.Errorf("after the end %d bytes are granted and %d cells queued, want none", g, q)
	}
}

func TestImpostor(t *testing.T) {
	a, b, evil := newTestNode(t, 1), newTestNode(t, 2), newTestNode(t, 3)
	for name, test := range map[string]struct {
		server Config
		client Config
		peer   Peer
	}{
		"another key behind the address": {evil.cfg, a.cfg, b.peer()},
		"another address with the key":   {b.cfg, a.cfg, Peer{evil.cfg.ID, b.cfg.Key.Public()}},
		"a record that is not its own":   {b.cfg, Config{ID: a.cfg.ID, Key: a.cfg.Key, Record: evil.cfg.Record}, b.peer()},
		"a record that does not verify":  {b.cfg, Config{ID: a.cfg.ID, Key: a.cfg.Key, Record: []byte("x")}, b.peer()},
		"our own record":                 {b.cfg, Config{ID: a.cfg.ID, Key: a.cfg.Key, Record: b.cfg.Record}, b.peer()},
	} {
		t.Run(name, func(t *testing.T) {
			ca, cb := net.Pipe()
			var accept error
			var wg sync.WaitGroup
			wg.Go(func() { _, accept = Accept(t.Context(), cb, test.server) })
			l, err := Dial(t.Context(), ca, test.client, test.peer)
			if err == nil { // the acceptor is who finds out
				l.Close()
				_ = ca.Close()
			}
			wg.Wait()
			if accept == nil {
				t.Fatal("the acceptor took the link")
			}
		})
	}
}

func TestHandshakeEndsWithContext(t *testing.T) {
	ca, cb := net.Pipe()
	defer cb.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, ca, newTestNode(t, 1).cfg, newTestNode(t, 2).peer()); !errors.Is(err, context.Canceled) {
		t.Fatalf("Dial with a cancelled context: %v, want context.Canceled", err)
	}
}
