package circuit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cuttle/relay/link"
	"cuttle/relay/netmap"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNet is a small network in memory: real switches and links over pipes.
type testNet struct {
	t     testing.TB
	nodes []*testNode
}

type testNode struct {
	cfg    link.Config
	sw     *Switch
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ctx    context.Context //nolint:containedctx // the lifetime of one test's node

	mu        sync.Mutex // guards the fields below
	links     map[wire.NodeID]*link.Link
	terminals []*Terminal
}

func (n *testNode) record() *netmap.Record {
	return &netmap.Record{ID: n.cfg.ID, KEM: n.cfg.Key.Public(), RelayPrice: n.sw.cfg.RelayPrice, ExitPrice: n.sw.cfg.ExitPrice}
}

func (n *testNode) link(id wire.NodeID) *link.Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[id]
}

// kill ends a node and all its links.
func (n *testNode) kill() { n.cancel(); n.wg.Wait() }

// afford lets each neighbor create a circuit and have one extended, beyond the rate.
func (s *Switch) afford() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.shares {
		x.creates.give()
		x.extends.give()
	}
}

// newNet makes count nodes; change may alter the switch's configuration of each.
func newNet(t testing.TB, count int, change func(i int, cfg *SwitchConfig)) *testNet {
	t.Helper()
	tn := &testNet{t: t}
	for i := range count {
		key, err := onion.NewStaticKey([32]byte{byte(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		n := &testNode{links: map[wire.NodeID]*link.Link{}}
		id := wire.NodeID{byte(i + 1)}
		n.cfg = link.Config{ID: id, Key: key, Record: append(id[:], key.Public()...), Budget: link.NewBudget(0),
			Check: func(r []byte) (link.Peer, error) {
				if len(r) != wire.NodeIDSize+wire.KEMPublicSize {
					return link.Peer{}, errors.New("not a test record")
				}
				return link.Peer{ID: wire.NodeID(r), KEM: r[wire.NodeIDSize:]}, nil
			}}
		cfg := SwitchConfig{ID: id, Key: key, Links: n.link, Relay: true, RelayPrice: 1, ExitPrice: 2}
		if change != nil {
			change(i, &cfg)
		}
		if serve := cfg.Serve; serve != nil {
			cfg.Serve = func(x *Terminal) (Handler, error) {
				n.mu.Lock()
				n.terminals = append(n.terminals, x)
				n.mu.Unlock()
				return serve(x)
			}
		}
		if n.sw, err = NewSwitch(cfg); err != nil {
			t.Fatal(err)
		}
		n.ctx, n.cancel = context.WithCancel(context.Background())
		n.wg.Go(func() { _ = n.sw.Run(n.ctx) })
		t.Cleanup(n.kill)
		tn.nodes = append(tn.nodes, n)
	}
	return tn
}

// connect joins two nodes; nil conns stand for a pipe.
func (tn *testNet) connect(i, j int, ci, cj net.Conn) {
	tn.t.Helper()
	if ci == nil {
		ci, cj = net.Pipe()
	}
	a, b := tn.nodes[i], tn.nodes[j]
	var lb *link.Link
	var accept error
	var wg sync.WaitGroup
	wg.Go(func() { lb, accept = link.Accept(b.ctx, cj, b.cfg) })
	la, err := link.Dial(a.ctx, ci, a.cfg, link.Peer{ID: b.cfg.ID, KEM: b.cfg.Key.Public()})
	wg.Wait()
	if err != nil || accept != nil {
		tn.t.Fatalf("connect %d and %d: %v, %v", i, j, err, accept)
	}
	a.run(la)
	b.run(lb)
}

func (n *testNode) run(l *link.Link) {
	n.mu.Lock()
	n.links[l.Peer().ID] = l
	n.mu.Unlock()
	n.wg.Go(func() {
		_ = l.Run(n.ctx, n.sw)
		n.mu.Lock()
		delete(n.links, l.Peer().ID)
		n.mu.Unlock()
	})
}

// chain connects each node with the next over pipes.
func (tn *testNet) chain() {
	for i := range len(tn.nodes) - 1 {
		tn.connect(i, i+1, nil, nil)
	}
}

// build makes a circuit from node 0 along the nodes with these indices.
func (tn *testNet) build(hops ...int) (*Circuit, error) { return tn.buildFrom(0, hops...) }

func (tn *testNet) buildFrom(client int, hops ...int) (*Circuit, error) {
	var path []*netmap.Record
	for _, h := range hops {
		path = append(path, tn.nodes[h].record())
	}
	b := Builder{Links: tn.nodes[client].link}
	return b.Build(tn.t.Context(), path)
}

func (tn *testNet) mustBuild(hops ...int) *Circuit {
	tn.t.Helper()
	c, err := tn.build(hops...)
	if err != nil {
		tn.t.Fatal(err)
	}
	return c
}

func upTo(n int) []int {
	hops := make([]int, n)
	for i := range hops {
		hops[i] = i + 1
	}
	return hops
}

// packet is the k-th packet of a test's transfer; its length varies with k.
func packet(buf []byte, k int) []byte {
	n := 8 + (k*37)%(wire.SessionPacketSize-7)
	buf = buf[:n]
	for i := range buf {
		buf[i] = byte(k + i*7)
	}
	binary.BigEndian.PutUint64(buf, uint64(k))
	return buf
}

// verifier is a Handler that wants packets 0 to total-1 in order, byte by byte.
type verifier struct {
	total int
	next  int
	buf   [wire.SessionPacketSize]byte
	done  chan error
}

func newVerifier(total int) *verifier { return &verifier{total: total, done: make(chan error, 1)} }

func (v *verifier) handle(_ byte, class wire.Class, p []byte) error {
	want := packet(v.buf[:], v.next)
	if string(p) != string(want) || class != wire.Class(v.next%2) {
		err := fmt.Errorf("packet %d: %d bytes of class %d are not what was sent", v.next, len(p), class)
		v.done <- err
		return err
	}
	if v.next++; v.next == v.total {
		v.done <- nil
	}
	return nil
}

type carrier interface {
	Send(kind byte, class wire.Class, p []byte) error
}

func sendPackets(c carrier, n int) error {
	var buf [wire.SessionPacketSize]byte
	for k := range n {
		if err := c.Send(wire.PayloadSession, wire.Class(k%2), packet(buf[:], k)); err != nil {
			return fmt.Errorf("packet %d: %w", k, err)
		}
	}
	return nil
}

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("no %s within 30 s", what)
		panic("unreachable")
	}
}

func records(r ...*netmap.Record) []*netmap.Record { return r }

// waitClosed waits until no circuit is left at a switch.
func waitClosed(t testing.TB, s *Switch) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.Open() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d circuits are still open after 20 s", s.Open())
		}
		time.Sleep(time.Millisecond) // polling a counter of other goroutines
	}
}
