package circuit

import (
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"slices"
	"testing"
	"testing/synctest"

	"cuttle/relay/link"
	"cuttle/relay/wire"
)

// meddling is what a malicious relay does to three cells that follow each other, two
// of one class and one of the other: what change returns is passed on in their place.
// old is what the last cell of the first one's class that went before them looked like.
type meddling struct {
	name     string
	change   func(cells []*wire.Cell, old []byte) []*wire.Cell
	harmless int
}

// Where a meddling has no effect, so that all three cells arrive as they were sent.
const (
	nowhere = iota
	backBetweenRelays
	everywhere
)

var meddlings = []meddling{
	flip("first bit of the tag", 0, 0x80, nowhere),
	flip("last bit of the tag", wire.TagSize-1, 1, nowhere),
	flip("kind in the header", wire.TagSize, 1, nowhere),
	flip("zero in the header", wire.TagSize+1, 0x10, nowhere),
	flip("length in the header", wire.SlotSize-1, 8, nowhere),
	flip("first bit behind the slot", wire.SlotSize, 0x80, nowhere),
	flip("middle", wire.BodySize/2, 8, nowhere),
	flip("last bit of the last hop's payload", wire.SlotSize+wire.PayloadSize-1, 1, nowhere),
	flip("last bit that no relay drops", wire.BodySize-wire.SlotSize-1, 1, nowhere),
	flip("first bit that relays drop going back", wire.BodySize-wire.SlotSize, 0x80, backBetweenRelays),
	flip("last bit", wire.BodySize-1, 1, backBetweenRelays),
	{"replayed cell", func(cells []*wire.Cell, old []byte) []*wire.Cell { copy(cells[0].Body(), old); return cells }, nowhere},
	{"dropped cell", func(cells []*wire.Cell, _ []byte) []*wire.Cell { cells[0].Release(); return cells[1:] }, nowhere},
	{"cells out of order", func(cells []*wire.Cell, _ []byte) []*wire.Cell { slices.Reverse(cells[:2]); return cells }, nowhere},
	{"cell before those of the other class", func(cells []*wire.Cell, _ []byte) []*wire.Cell { return []*wire.Cell{cells[2], cells[0], cells[1]} }, nowhere},
	{"cell of the other class", func(cells []*wire.Cell, _ []byte) []*wire.Cell { cells[0].Class ^= 1; return cells }, nowhere},
	{"zeros", func(cells []*wire.Cell, _ []byte) []*wire.Cell { clear(cells[0].Body()); return cells }, nowhere},
	{"garbage", func(cells []*wire.Cell, _ []byte) []*wire.Cell {
		for i := range cells[0].Body() {
			cells[0].Body()[i] = byte(i*i + 7)
		}
		return cells
	}, nowhere},
	{"nothing", func(cells []*wire.Cell, _ []byte) []*wire.Cell { return cells }, everywhere},
}

// flip is the meddling that changes a bit of the first cell.
func flip(name string, at int, bit byte, harmless int) meddling {
	return meddling{name, func(cells []*wire.Cell, _ []byte) []*wire.Cell { cells[0].Body()[at] ^= bit; return cells }, harmless}
}

// TestTamperedCell has a malicious neighbor between any two nodes of a circuit change,
// replace, drop or reorder cells of either class, or of both, and direction. The first honest node
// that can check such a cell, which is the next relay going out and the client going
// back, closes the circuit: neither end gets the cell or one behind it, and all that any
// node then hears from a neighbor is one CLOSE, whatever the cause. Only the bytes that
// the next relay drops going back can be changed, to no effect.
func TestTamperedCell(t *testing.T) {
	for _, hops := range []int{3, wire.MaxHops} {
		every := 1 // of so many cases one is tried at each link, another at the next one: handshakes cost time
		if hops > 3 {
			every = 3
		}
		if raceEnabled {
			every *= 3
		}
		for at := range hops {
			for _, back := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d hops/link %d/back=%v", hops, at, back), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := newTamperNet(t, hops, at, back)
						for i, m := range meddlings {
							for class := range wire.Class(2) {
								if (i+3*int(class)+at)%every == 0 {
									n.try(t, m, class)
								}
							}
						}
					})
				})
			}
		}
	}
}

// tamperNet is a chain of nodes, a client first and an exit last, with a meddler on the
// link between node at and the next one.
type tamperNet struct {
	*testNet
	hops, at int
	meddler  meddler
	said     [2][]*recorder // by node i to i+1, and by i+1 to i
	got      [2]inbox       // by the exit and by the client
	terminal *Terminal      // of the last circuit
}

// recorder notes the sizes of the records that a node writes.
type recorder struct {
	net.Conn
	sizes []int
}

func (r *recorder) Write(b []byte) (int, error) {
	r.sizes = append(r.sizes, len(b))
	return r.Conn.Write(b)
}

// inbox is what the handler of one end of a circuit got.
type inbox []string

func (b *inbox) take(kind byte, class wire.Class, p []byte) error {
	*b = append(*b, fmt.Sprintf("%.6q and so on, %d bytes of kind %d and class %d with sum %08x", p, len(p), kind, class, crc32.ChecksumIEEE(p)))
	return nil
}

func newTamperNet(t *testing.T, hops, at int, back bool) *tamperNet {
	n := &tamperNet{hops: hops, at: at, meddler: meddler{back: back}}
	n.testNet = newNet(t, hops+1, func(i int, cfg *SwitchConfig) {
		if i == hops {
			cfg.Serve = func(x *Terminal) (Handler, error) { n.terminal = x; return n.got[0].take, nil }
		}
	})
	for i := range hops {
		near, far := net.Pipe()
		out, in := &recorder{Conn: near}, &recorder{Conn: far}
		n.said[0], n.said[1] = append(n.said[0], out), append(n.said[1], in)
		if i != at {
			n.connect(i, i+1, out, in)
			continue
		}
		// Each of the two nodes takes the meddler for the other one: it has their keys.
		var right net.Conn
		right, in.Conn = net.Pipe()
		a, b := n.nodes[i], n.nodes[i+1]
		la, toA := n.handshake(a, b, out, far)
		toB, lb := n.handshake(a, b, right, in)
		n.meddler.next = toB
		a.run(la)
		b.run(lb)
		a.wg.Go(func() { _ = toA.Run(a.ctx, &n.meddler) }) // ends with the node
		a.wg.Go(func() { _ = toB.Run(a.ctx, &n.meddler) }) // ends with the node
	}
	return n
}

// handshake makes a link of a with b and returns both ends.
func (n *tamperNet) handshake(a, b *testNode, ca, cb net.Conn) (la, lb *link.Link) {
	accepted := make(chan *link.Link, 1)
	go func() { // ends with the handshake
		l, err := link.Accept(b.ctx, cb, b.cfg)
		if err != nil {
			n.t.Error(err)
		}
		accepted <- l
	}()
	la, err := link.Dial(a.ctx, ca, a.cfg, link.Peer{ID: b.cfg.ID, KEM: b.cfg.Key.Public()})
	if lb = <-accepted; err != nil || lb == nil {
		n.t.Fatalf("handshake: %v", err)
	}
	return la, lb
}

// words returns how many bytes were in each record so far, for each direction of a link on
// which no cell may go after the meddling, sorted by direction and place.
func (n *tamperNet) words() (sizes [][]int) {
	for dir, links := range n.said {
		for i, r := range links {
			if n.meddler.back && dir == 0 || !n.meddler.back && (dir == 1 || i > n.at) {
				sizes = append(sizes, r.sizes)
			}
		}
	}
	return sizes
}

// try does the meddling once, on a new circuit, and looks at what comes of it.
func (n *tamperNet) try(t *testing.T, m meddling, class wire.Class) {
	t.Helper()
	n.got = [2]inbox{}
	c := n.mustBuild(upTo(n.hops)...)
	c.Attach(n.got[1].take)
	want := [2]inbox{}
	// Packets fill their cells, so that a bit of the payload is one of theirs, and end with
	// zeros, so that a shorter length would do.
	packet := func(text string) []byte {
		return append([]byte(text), make([]byte, wire.SessionPacketSize-len(text))...)
	}
	send := func(from carrier, class wire.Class, text string) {
		t.Helper()
		if err := from.Send(wire.PayloadSession, class, packet(text)); err != nil {
			t.Fatalf("%s, class %d: %v", m.name, class, err)
		}
	}
	expect := func(end int, class wire.Class, text string) {
		_ = want[end].take(wire.PayloadSession, class, packet(text))
	}
	from, to := carrier(c), 1
	for end := range want {
		if end == 1 {
			from = n.terminal
		}
		for class := range wire.Class(2) {
			send(from, class, "before")
			expect(end, class, "before")
		}
		synctest.Wait() // until all have come
	}
	if !n.meddler.back {
		from, to = c, 0
	}
	before := n.words()
	harmless := m.harmless == everywhere || m.harmless == backBetweenRelays && n.meddler.back && n.at > 0

	n.meddler.change = m.change
	for i, text := range []string{"first", "second", "third"} {
		class := class ^ wire.Class(i/2)
		send(from, class, text)
		if harmless {
			expect(to, class, text)
		}
	}
	synctest.Wait() // until all that comes of it is over

	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, class %d: %s", m.name, class, fmt.Sprintf(format, args...))
	}
	for end := range want {
		if !slices.Equal(n.got[end], want[end]) {
			fail("end %d got %v, want %v", end, n.got[end], want[end])
		}
	}
	oneClose := []int{wire.RecordHead + len(wire.AppendClose(nil, 1)) + wire.RecordTail}
	for i, sizes := range n.words() {
		if said := sizes[len(before[i]):]; !harmless && !slices.Equal(said, oneClose) {
			fail("direction %d: records of %v bytes, want those of one CLOSE, %v", i, said, oneClose)
		}
	}
	for _, end := range []interface {
		carrier
		Done() <-chan struct{}
	}{c, n.terminal} {
		select {
		case <-end.Done():
			if harmless {
				fail("%T is closed", end)
			}
		default:
			if !harmless {
				fail("%T is open", end)
				continue
			}
		}
		if err := end.Send(wire.PayloadSession, class, []byte("more")); harmless != (err == nil) || err != nil && !errors.Is(err, ErrClosed) {
			fail("%T sends more: %v", end, err)
		}
	}
	c.Close()
	synctest.Wait()
	for i, node := range n.nodes {
		if open := node.sw.Open(); open != 0 {
			fail("node %d has %d circuits after all", i, open)
		}
	}
}

// meddler stands on a link with the keys of both its nodes: it opens what either says
// and passes it on, meddling with three cells of one direction when told.
type meddler struct {
	next   *link.Link
	back   bool                                              // the direction that is meddled with
	change func(cells []*wire.Cell, old []byte) []*wire.Cell // set by the test while nothing moves; nil: pass on
	held   []*wire.Cell
	old    [2][wire.BodySize]byte // the last cells passed on, by class
}

// leg is one lane of a circuit at a meddler, as its receiver.
type leg struct {
	m     *meddler
	back  bool
	other *link.Lane
	mine  chan *link.Lane // of the side towards the exit: its lane, when there is one
}

// Create opens the circuit at the next node, too.
func (m *meddler) Create(lane *link.Lane, msg1 []byte) {
	s := &leg{m: m, back: true, other: lane, mine: make(chan *link.Lane, 1)}
	mine, err := m.next.Open(lane.Tier(), msg1, s)
	if err != nil {
		lane.Close()
		return
	}
	s.mine <- mine
}

// Created waits no longer than for Open to return.
func (s *leg) Created(msg2 []byte)  { _ = s.other.Created(msg2, &leg{m: s.m, other: <-s.mine}) }
func (s *leg) Refused(wire.Reason)  { s.other.Close() }
func (s *leg) Closed()              { s.other.Close() }
func (s *leg) Cells(c []*wire.Cell) { s.other.SendAll(s.m.meddle(s.back, c)) }

// meddle returns what is passed on of cells. It holds three back, so that they go on
// together, whatever comes of the first.
func (m *meddler) meddle(back bool, cells []*wire.Cell) []*wire.Cell {
	if back != m.back {
		return cells
	}
	if m.change == nil {
		for _, c := range cells {
			copy(m.old[c.Class][:], c.Body())
		}
		return cells
	}
	if m.held = append(m.held, cells...); len(m.held) < 3 {
		return nil
	}
	changed := m.change(m.held, m.old[m.held[0].Class][:])
	m.held, m.change = nil, nil
	return changed
}
