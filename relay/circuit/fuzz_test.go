package circuit

import (
	"bytes"
	"net"
	"testing"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// FuzzSwitch plays the client and the next hop of one circuit at a relay that may
// also be its exit. Each two bytes of the script are something that either says, in
// any order; a model of the phases (transit.go) says what must come of it: an answer,
// the packet at the other side, or the end of the circuit, seen from both sides. In
// the end nothing is left at the relay.
func FuzzSwitch(f *testing.F) {
	for _, script := range []string{
		"\x00\x00\x08\x00\x0d\x05\x0c\x00\x0a\x00",         // extend, created, through, back, the next hop closes
		"\x00\x00\x09\x02\x00\x00\x0a\x00\x00\x00\x07\x00", // refused, closed meanwhile, the client closes
		"\x02\x05\x0e\x07\x03\x01\x0f\x00",                 // a session, and its end
		"\x01\x00\x01\x01\x01\x02\x01\x03\x02\x01\x00\x00", // refusals, then extending behind a session
		"\x00\x00\x00\x00", "\x00\x00\x02\x00", "\x00\x00\x0b\x00", "\x00\x00\x08\x00\x0c\x01", "\x00\x00\x08\x00\x00\x00",
		"\x04\x01\x00\x00", "\x04\x01\x02\x01\x0f\x00", "\x05\x03", "\x05\x81", "\x06\x00", "\x02\x42", "\x05\x42\x04\x02",
	} {
		f.Add([]byte(script))
	}
	n := newFuzzNet(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		p := n.begin(t)
		for i := 0; i+1 < len(script) && i < 64 && p.phase != over; i += 2 {
			p.step(script[i], script[i+1])
		}
		p.finish()
	})
}

// over is what follows all phases.
const over phase = -1

// fuzzNet is the relay, its neighbors by hand, and what they hear.
type fuzzNet struct {
	relay    *testNode
	toRelay  *link.Link // the client's
	next     *link.Link // the next hop's
	keys     [2]*onion.StaticKey
	ids      [2]wire.NodeID // the relay and the next hop
	lanes    chan *link.Lane
	asked    chan []byte    // msg1 of lanes
	packets  chan []byte    // at the exit
	terminal chan *Terminal // of a circuit that began to be served
	seen     *onion.ReplayCache
}

func newFuzzNet(f *testing.F) *fuzzNet {
	n := &fuzzNet{lanes: make(chan *link.Lane, 4), asked: make(chan []byte, 4), packets: make(chan []byte, 64), terminal: make(chan *Terminal, 4),
		seen: onion.NewReplayCache(1 << 12)}
	tn := newNet(f, 3, func(_ int, cfg *SwitchConfig) { cfg.Serve = n.serve })
	n.relay = tn.nodes[1]
	for i := range 2 {
		n.keys[i], n.ids[i] = tn.nodes[i+1].cfg.Key, tn.nodes[i+1].cfg.ID
	}
	n.toRelay, n.next = n.join(f, tn.nodes[0], tn.nodes[1]), n.join(f, tn.nodes[2], tn.nodes[1])
	return n
}

// join links a node that this test plays with the relay.
func (n *fuzzNet) join(f *testing.F, self, relay *testNode) *link.Link {
	ci, cj := net.Pipe()
	accepted := make(chan *link.Link, 1)
	go func() { // ends with the handshake
		l, err := link.Accept(relay.ctx, cj, relay.cfg)
		if err != nil {
			f.Error(err)
		}
		accepted <- l
	}()
	l, err := link.Dial(self.ctx, ci, self.cfg, link.Peer{ID: relay.cfg.ID, KEM: relay.cfg.Key.Public()})
	if err != nil {
		f.Fatal(err)
	}
	relay.run(<-accepted)
	self.wg.Go(func() { _ = l.Run(self.ctx, n) }) // ends with the node
	return l
}

// Create makes the next hop: it takes every circuit and answers when told. The lane
// comes last, so that who has it finds the message, and finish leaves none behind.
func (n *fuzzNet) Create(lane *link.Lane, msg1 []byte) {
	n.asked <- bytes.Clone(msg1)
	n.lanes <- lane
}

// serve makes the relay an exit that refuses packets that begin with 'B'.
func (n *fuzzNet) serve(x *Terminal) (Handler, error) {
	n.terminal <- x
	return func(_ byte, _ wire.Class, p []byte) error {
		if p[0] == 'B' {
			return errPacket
		}
		n.packets <- bytes.Clone(p)
		return nil
	}, nil
}

// side is a receiver by hand: what came out of a lane.
type side struct {
	lane   *link.Lane
	taken  bool        // the next hop's: it was answered, so that its end is told
	events chan []byte // payloads; nil: a cell that does not verify
	open   func(c *wire.Cell) []byte
	ended  chan struct{}
}

func newSide(open func(*wire.Cell) []byte) *side {
	return &side{events: make(chan []byte, 64), open: open, ended: make(chan struct{})}
}

func (s *side) Created(msg2 []byte)        { s.events <- wire.AppendExtended(nil, msg2) }
func (s *side) Refused(reason wire.Reason) { s.events <- wire.AppendExtendRefused(nil, reason) }
func (s *side) Closed()                    { close(s.ended) }
func (s *side) Cells(cells []*wire.Cell) {
	for _, c := range cells {
		s.events <- s.open(c)
	}
	wire.ReleaseCells(cells)
}

// play is one circuit and the model of it.
type play struct {
	*fuzzNet
	t       *testing.T
	phase   phase
	partial bool // half a message was sent
	path    onion.Path
	client  *side
	hop     *onion.Hop // the next hop's
	far     *side      // the next hop's lane, nil: none
	first   *onion.HopInitiator
	exit    *Terminal
}

func (n *fuzzNet) begin(t *testing.T) *play {
	n.relay.sw.afford() // this test creates faster than a neighbor may
	p := &play{fuzzNet: n, t: t, phase: end}
	p.client = newSide(func(c *wire.Cell) []byte {
		_, payload, err := p.path.Open(c)
		if err != nil {
			return nil
		}
		return bytes.Clone(payload)
	})
	h, msg1, err := onion.StartHop(n.ids[0], n.keys[0].Public(), onion.DefaultSuites())
	if err != nil {
		t.Fatal(err)
	}
	lane, err := n.toRelay.Open(9, msg1, p.client)
	if err != nil {
		t.Fatal(err)
	}
	p.client.lane = lane
	m, err := wire.ParseMessage(p.hear("the relay's answer"))
	if err != nil || m.Type != wire.MessageExtended {
		t.Fatalf("the relay answers %v, %v", m.Type, err)
	}
	p.add(h, m.Handshake)
	return p
}

func (p *play) add(h *onion.HopInitiator, msg2 []byte) {
	p.t.Helper()
	keys, err := h.Finish(msg2)
	if err == nil {
		err = p.path.Add(keys)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// hear is what the client hears next.
func (p *play) hear(what string) []byte {
	p.t.Helper()
	select {
	case e := <-p.client.events:
		return e
	case <-p.client.ended:
		p.t.Fatalf("the circuit has ended instead of %s", what)
	case <-time.After(30 * time.Second):
		p.t.Fatalf("no %s", what)
	}
	return nil
}

// told wants a circuit message.
func (p *play) told(typ wire.MessageType, reason wire.Reason) wire.Message {
	p.t.Helper()
	var all wire.Assembler
	for {
		msg, err := all.Add(p.hear("a message"))
		if err != nil {
			p.t.Fatal(err)
		}
		if msg == nil {
			continue
		}
		m, err := wire.ParseMessage(bytes.Clone(msg))
		if err != nil || m.Type != typ || m.Reason != reason {
			p.t.Fatalf("the client is told %v %v, %v; want %v %v", m.Type, m.Reason, err, typ, reason)
		}
		return m
	}
}

// dead wants both sides to see the end.
func (p *play) dead() {
	p.t.Helper()
	wait(p.t, p.client.ended, "end at the client")
	p.bereft()
	p.phase = over
}

func (p *play) bereft() {
	p.t.Helper()
	if p.far != nil && p.far.taken {
		wait(p.t, p.far.ended, "end at the next hop")
	}
	p.far = nil
}

// only goes on if the phase is the one in which this may be said; otherwise it
// wants the circuit's end.
func (p *play) only(in phase) bool {
	p.t.Helper()
	if p.phase == in {
		return true
	}
	p.dead()
	return false
}

// send seals a payload for a hop and sends it.
func (p *play) send(hop int, class wire.Class, payload []byte) {
	c := wire.NewCell(class)
	p.path.Seal(c, hop, copy(p.path.Payload(c), payload))
	p.client.lane.Send(c)
}

func (p *play) say(msg []byte) {
	for len(msg) > 0 {
		var b [wire.PayloadSize]byte
		var n int
		n, msg = wire.PutFragment(b[:], msg)
		p.send(0, wire.Reliable, b[:n])
	}
}

func (p *play) step(op, arg byte) {
	p.t.Helper()
	switch op % 16 {
	case 0:
		p.extend()
	case 1:
		p.extendWrongly(arg)
	case 2, 3:
		p.session(0, []byte{wire.PayloadSession + op%16 - 2, arg})
	case 4:
		if arg&1 == 1 {
			p.half()
			return
		}
		p.say([]byte{arg, arg})
		p.dead()
	case 5:
		p.raw(arg)
	case 6:
		c := wire.NewCell(wire.Class(arg & 1))
		clear(c.Body())
		p.client.lane.Send(c)
		p.dead()
	case 7:
		p.client.lane.Close()
		p.bereft()
		p.phase = over
	case 8, 11:
		p.created(op%16 == 8)
	case 9:
		if p.phase == extending {
			reason := wire.Reason(arg%6 + 1)
			p.far.lane.Refuse(reason)
			p.refused(reason)
		}
	case 10:
		p.closeFar()
	case 12:
		p.back(arg)
	case 13:
		if p.phase == extended {
			p.session(1, []byte{wire.PayloadSession, arg})
		}
	case 14:
		p.answer(arg)
	case 15:
		if p.phase == serving {
			p.exit.Close()
			p.dead()
		}
	}
}

func (p *play) extend() {
	h, msg1, err := onion.StartHop(p.ids[1], p.keys[1].Public(), onion.DefaultSuites())
	if err != nil {
		p.t.Fatal(err)
	}
	p.say(wire.AppendExtend(nil, p.ids[1], 1, msg1))
	if p.partial || !p.only(end) {
		p.mustBeDead()
		return
	}
	p.first, p.phase = h, extending
	p.far = newSide(func(c *wire.Cell) []byte {
		if _, err := p.hop.Peel(c); err != nil {
			return nil
		}
		return bytes.Clone(p.hop.Payload(c)[:2])
	})
	p.far.lane = wait(p.t, p.lanes, "CREATE at the next hop")
}

// mustBeDead is for what ends a circuit in every phase.
func (p *play) mustBeDead() {
	p.t.Helper()
	if p.phase != over {
		p.dead()
	}
}

func (p *play) extendWrongly(arg byte) {
	next, tier, reason := wire.NodeID{0xee}, wire.Tier(1), wire.ReasonNotConnected
	switch arg % 4 {
	case 1:
		next, reason = p.ids[0], wire.ReasonNotServed // to itself
	case 2:
		next, reason = wire.NodeID{1}, wire.ReasonNotServed // back
	case 3:
		next, tier, reason = p.ids[1], 9, wire.ReasonTierTooLow
	}
	p.say(wire.AppendExtend(nil, next, tier, make([]byte, wire.HopMsg1Size)))
	if p.partial || !p.only(end) {
		p.mustBeDead()
		return
	}
	p.told(wire.MessageExtendRefused, reason)
	p.phase = refused
}

// session sends a packet that the last hop may get, from the phases end and serving
// or, to the next hop, from extended.
func (p *play) session(hop int, payload []byte) {
	p.send(hop, wire.Reliable, payload)
	if hop == 1 {
		select {
		case got := <-p.far.events:
			if !bytes.Equal(got, payload) {
				p.t.Fatalf("the next hop got %x, want %x", got, payload)
			}
		case <-time.After(30 * time.Second):
			p.t.Fatal("the next hop got nothing")
		}
		return
	}
	switch {
	case p.phase == end:
		p.exit = wait(p.t, p.terminal, "circuit at the exit")
		p.phase = serving
	case !p.only(serving):
		return
	}
	if payload[1] == 'B' {
		p.dead()
		return
	}
	if got := wait(p.t, p.packets, "packet at the exit"); !bytes.Equal(got, payload[1:]) {
		p.t.Fatalf("the exit got %x, want %x", got, payload[1:])
	}
}

// half sends a fragment that is not the last one.
func (p *play) half() {
	p.send(0, wire.Reliable, []byte{wire.PayloadControl, 0, 7})
	if p.only(end) {
		p.partial = true
	}
}

func (p *play) raw(arg byte) {
	kind, class := arg&0x7f, wire.Class(arg>>7)
	if class == wire.Reliable && (kind == wire.PayloadSession || kind == wire.PayloadAttach) {
		p.session(0, []byte{kind, 'x'})
		return
	}
	if kind == wire.PayloadSession || kind == wire.PayloadAttach {
		kind = 0
	}
	p.send(0, class, []byte{kind, 0xff, 0})
	p.dead()
}

func (p *play) created(real bool) {
	if p.phase != extending {
		return
	}
	msg2 := make([]byte, wire.HopMsg2Size)
	if real {
		var keys *onion.HopKeys
		var err error
		if msg2, keys, err = onion.AcceptHop(p.ids[1], p.keys[1], p.seen, onion.DefaultSuites(), wait(p.t, p.asked, "first message")); err != nil {
			p.t.Fatal(err)
		}
		if p.hop, err = onion.NewHop(keys); err != nil {
			p.t.Fatal(err)
		}
	} else {
		<-p.asked
	}
	if err := p.far.lane.Created(msg2, p.far); err != nil {
		p.t.Fatal(err)
	}
	p.far.taken = true
	m := p.told(wire.MessageExtended, 0)
	p.phase = extended
	if real {
		p.add(p.first, m.Handshake)
		return
	}
	if _, err := p.first.Finish(m.Handshake); err == nil {
		p.t.Fatal("the client takes an answer that is nobody's")
	}
	p.client.lane.Close()
	p.bereft()
	p.phase = over
}

func (p *play) refused(reason wire.Reason) {
	<-p.asked
	p.told(wire.MessageExtendRefused, reason)
	p.far, p.phase = nil, refused
}

func (p *play) closeFar() {
	switch p.phase {
	case extending:
		p.far.lane.Close()
		p.refused(wire.ReasonNotConnected)
	case extended:
		p.far.lane.Close()
		p.far = nil
		p.dead()
	}
}

// back sends a cell from the next hop: a true one, or one that nobody made.
func (p *play) back(arg byte) {
	if p.phase != extended {
		return
	}
	c := wire.NewCell(wire.Class(arg >> 7))
	if arg&1 == 1 {
		clear(c.Body())
		p.far.lane.Send(c)
		if got := p.hear("a cell"); got != nil {
			p.t.Fatalf("the client reads %x in a cell that nobody made", got)
		}
		p.client.lane.Close()
		p.bereft()
		p.phase = over
		return
	}
	payload := []byte{wire.PayloadSession, arg}
	p.hop.Originate(c, copy(p.hop.Payload(c), payload))
	p.far.lane.Send(c)
	if got := p.hear("a cell"); !bytes.Equal(got, payload) {
		p.t.Fatalf("the client gets %x, want %x", got, payload)
	}
}

func (p *play) answer(arg byte) {
	if p.phase != serving {
		return
	}
	if err := p.exit.Send(wire.PayloadSession, wire.Class(arg&1), []byte{arg}); err != nil {
		p.t.Fatal(err)
	}
	if got := p.hear("a packet"); !bytes.Equal(got, []byte{wire.PayloadSession, arg}) {
		p.t.Fatalf("the client gets %x, want %x", got, arg)
	}
}

// finish ends the circuit and waits until nothing of it is left.
func (p *play) finish() {
	p.t.Helper()
	p.client.lane.Close()
	p.bereft()
	for len(p.asked) > 0 {
		<-p.asked
	}
	waitClosed(p.t, p.relay.sw)
	budget := p.relay.cfg.Budget
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Microsecond) { // polling what goroutines of links do
		lanes := p.toRelay.Status().Lanes + p.next.Status().Lanes
		for _, id := range []wire.NodeID{{1}, {3}} {
			l := p.relay.link(id)
			if l == nil {
				p.t.Fatal("a link has ended")
			}
			lanes += l.Status().Lanes
		}
		if lanes == 0 && budget.Queued() == 0 && budget.Granted() == 0 {
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("after the end: %d lanes, %d bytes queued, %d granted", lanes, budget.Queued(), budget.Granted())
		}
	}
	if p.exit != nil {
		wait(p.t, p.exit.Done(), "end at the exit") // it is told last
	}
	if len(p.packets)+len(p.lanes)+len(p.terminal) > 0 {
		p.t.Fatal("something came that nobody sent")
	}
}

var _ link.Switch = (*fuzzNet)(nil)
