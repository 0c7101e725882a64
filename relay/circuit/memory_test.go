package circuit

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// Nodes of TestMemory. The relay joins all others.
const (
	atRelay = iota
	atIdle  // a client with many circuits that carry nothing
	atBusy  // a client that reads
	atDeaf  // a client that never reads
	atPush  // a client that sends to the exit that never reads
	atExit  // an exit that reads
	atStuck // an exit that never reads
	atLiar  // takes circuits and sends back more than it may
	memoryNodes
)

// TestMemory has one relay carry a thousand circuits that are idle, 200 that are
// busy, half of which lead to a client or an exit that never reads, and then has a
// neighbor send more than its credit. What the relay holds stays within its budget;
// what reads is served to the last byte; the neighbor is cut off.
func TestMemory(t *testing.T) {
	idle, busy, packets, limit := 1000, 200, 400, int64(8<<20)
	if raceEnabled {
		idle, busy, limit = 100, 60, 4<<20 // the detector costs much for each handshake
	}
	synctest.Test(t, func(t *testing.T) {
		n := newMemoryNet(t, limit)
		build := func(client, exit int) *Circuit {
			t.Helper()
			time.Sleep(10 * time.Millisecond) // a neighbor may open 100 a second, lasting
			n.nodes[atRelay].sw.afford()
			b := Builder{Links: n.nodes[client].link}
			c, err := b.Build(t.Context(), records(n.nodes[atRelay].record(), n.nodes[exit].record()))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		discard := func(byte, wire.Class, []byte) error { return nil }
		for range idle {
			build(atIdle, atExit)
		}
		var downs, ups []*Circuit
		for range busy / 4 {
			c := build(atDeaf, atExit)
			c.Attach(discard)
			downs = append(downs, c)
			c = build(atPush, atStuck)
			c.Attach(discard)
			ups = append(ups, c)
		}
		liar := build(atDeaf, atLiar)
		synctest.Wait()
		before, _ := heap()

		// The half that is never read.
		n.deaf.shut()
		n.stuck.shut()
		var senders atomic.Int64
		for i := range downs {
			if err := downs[i].Send(wire.PayloadSession, wire.Reliable, []byte("bulk")); err != nil {
				t.Fatal(err)
			}
			senders.Add(1)
			go func() { // ends with the circuit
				defer senders.Add(-1)
				for ups[i].Send(wire.PayloadSession, wire.Reliable, []byte("bulk")) == nil {
				}
			}()
		}
		n.within("clients and exits that never read")
		time.Sleep(time.Second) // what is stuck is older than what comes now

		// The half that is.
		var good []*Circuit
		var done []chan error
		for range busy / 4 {
			down, up := newVerifier(packets), build(atBusy, atExit)
			up.Attach(down.handle)
			c := build(atBusy, atExit)
			c.Attach(discard)
			good, done = append(good, up, c), append(done, down.done)
			if err := up.Send(wire.PayloadSession, wire.Reliable, []byte("send")); err != nil {
				t.Fatal(err)
			}
			sent := make(chan error, 1)
			done = append(done, sent)
			go func() { sent <- sendPackets(c, packets) }() // ends with the packets or the circuit
		}
		for _, d := range done {
			if err := wait(t, d, "end of a transfer"); err != nil {
				t.Errorf("a transfer beside those that are stuck: %v", err)
			}
		}
		n.within("transfers beside them")
		if got := n.uploaded.Load(); got != int64(busy/4*packets) {
			t.Errorf("%d packets came up, want %d", got, busy/4*packets)
		}
		for _, c := range good {
			if !alive(c) {
				t.Error("a circuit that is read was closed")
			}
		}
		if got := n.nodes[atRelay].sw.Open(); got < idle+busy/2 || got >= idle+busy {
			t.Errorf("%d circuits are open, want the %d that are idle or read, and some of the stuck ones at most", got, idle+busy/2)
		}

		// The neighbor that overruns its credit.
		if err := liar.Send(wire.PayloadSession, wire.Reliable, []byte("lie")); err != nil {
			t.Fatal(err)
		}
		sent := wait(t, n.overran, "end of the link that was overrun")
		if sent < wire.InitialCredit || sent > wire.InitialCredit+2*wire.MaxRecord/wire.CellFrameSize {
			t.Errorf("the neighbor got rid of %d cells, want the link to end soon after %d", sent, wire.InitialCredit)
		}
		synctest.Wait()
		if n.nodes[atRelay].link(n.nodes[atLiar].cfg.ID) != nil {
			t.Error("the neighbor that sent more than its credit is still there")
		}
		n.within("a neighbor that overruns its credit")

		// The counts are true: what all nodes hold is what the heap has grown by.
		var counted int64
		for _, node := range n.nodes {
			counted += node.cfg.Budget.Queued()
		}
		const slack = 32 << 20 // circuits built since, buffers of links, what transfers left in pools
		after, system := heap()
		if after-before > counted+slack || system > 1<<30 {
			t.Errorf("the heap has grown by %d bytes, %d are counted as queued; %d are taken from the system", after-before, counted, system)
		}
		t.Logf("bytes: relay %d queued at most, budget %d; all nodes %d queued; heap %d; from the system %d", n.peak.Load(), limit, counted, after, system)
		n.deaf.open()
		n.stuck.open()
		for _, node := range n.nodes {
			node.kill()
		}
		for _, node := range n.nodes {
			if q, g := node.cfg.Budget.Queued(), node.cfg.Budget.Granted(); q != 0 || g != 0 {
				t.Errorf("after the end %d bytes are queued and %d granted, want none", q, g)
			}
		}
		synctest.Wait()
		if s := senders.Load(); s != 0 {
			t.Errorf("%d senders still wait", s)
		}
	})
}

type memoryNet struct {
	*testNet
	limit       int64
	deaf, stuck *gate
	peak        atomic.Int64 // bytes queued at the relay
	uploaded    atomic.Int64 // packets that the exit got on circuits of the busy client
	overran     chan int     // cells that the liar sent before its link ended
}

func newMemoryNet(t *testing.T, limit int64) *memoryNet {
	n := &memoryNet{limit: limit, deaf: newGate(), stuck: newGate(), overran: make(chan int, 1)}
	n.testNet = newNet(t, memoryNodes, func(i int, cfg *SwitchConfig) {
		cfg.Serve = n.serve
	})
	n.nodes[atRelay].cfg.Budget = link.NewBudget(limit)
	for _, i := range []int{atIdle, atBusy, atPush, atExit} {
		n.connect(i, atRelay, nil, nil)
	}
	for i, g := range map[int]*gate{atDeaf: n.deaf, atStuck: n.stuck} {
		ci, cj := g.pipe()
		n.connect(i, atRelay, ci, cj)
	}
	n.lie(t)
	return n
}

// serve is an exit: "bulk" is answered with cells without end, "send" with those of
// a verifier, everything else is counted.
func (n *memoryNet) serve(x *Terminal) (Handler, error) {
	return func(_ byte, _ wire.Class, p []byte) error {
		switch string(p) {
		case "bulk":
			go func() { // ends with the circuit
				for x.Send(wire.PayloadSession, wire.Reliable, []byte("bulk")) == nil {
				}
			}()
		case "send":
			go func() { _ = sendPackets(x, 400) }() // ends with the packets or the circuit
		default:
			if n.uploaded.Add(1)%64 == 0 {
				n.note()
			}
		}
		return nil
	}, nil
}

func (n *memoryNet) note() {
	q := n.nodes[atRelay].cfg.Budget.Queued()
	for p := n.peak.Load(); q > p && !n.peak.CompareAndSwap(p, q); p = n.peak.Load() {
	}
}

// within waits until nobody can go on and looks at what the relay holds.
func (n *memoryNet) within(when string) {
	n.t.Helper()
	synctest.Wait()
	n.note()
	// A link looks at the budget with every 64th cell.
	if most := n.limit + memoryNodes*64*1800; n.peak.Load() > most {
		n.t.Errorf("%s: the relay held %d bytes, its budget is %d", when, n.peak.Load(), n.limit)
	}
}

// lie makes the neighbor that accepts one circuit and, at its first cell, sends
// cells back until its link is ended.
func (n *memoryNet) lie(t *testing.T) {
	relay, liar := n.nodes[atRelay], n.nodes[atLiar]
	ci, cj := net.Pipe()
	done := make(chan struct{})
	go func() { // ends with the connection
		defer close(done)
		n.overran <- overrun(t, cj, liar, relay)
	}()
	l, err := link.Dial(relay.ctx, ci, relay.cfg, link.Peer{ID: liar.cfg.ID, KEM: liar.cfg.Key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	relay.run(l)
	t.Cleanup(func() { _ = cj.Close(); <-done })
}

// overrun is a link's acceptor written by hand. It returns how many cells it sent.
func overrun(t *testing.T, conn net.Conn, self, relay *testNode) int {
	msg1 := make([]byte, wire.LinkMsg1Size)
	read := func(b []byte) bool {
		_, err := io.ReadFull(conn, b)
		return err == nil
	}
	if !read(msg1) {
		t.Error("no first message")
		return 0
	}
	h, _, err := onion.AcceptLink(self.cfg.ID, self.cfg.Key, msg1)
	if err != nil {
		t.Error(err)
		return 0
	}
	msg2, err := h.Reply(relay.cfg.Key.Public(), onion.DefaultSuites())
	if err != nil {
		t.Error(err)
		return 0
	}
	msg3 := make([]byte, wire.LinkMsg3Size)
	if _, err := conn.Write(msg2); err != nil || !read(msg3) {
		t.Error("no third message")
		return 0
	}
	keys, err := h.Finish(msg3)
	if err != nil {
		t.Error(err)
		return 0
	}
	sealer, opener, err := keys.Split()
	if err != nil {
		t.Error(err)
		return 0
	}
	send := func(plain []byte) error {
		b := make([]byte, wire.RecordHead+len(plain)+wire.RecordTail)
		copy(b[wire.RecordHead:], plain)
		_, err := conn.Write(sealer.Seal(b, len(plain)))
		return err
	}
	seen := onion.NewReplayCache(16)
	for sent := 0; ; {
		head := make([]byte, wire.RecordHead)
		if !read(head) {
			return sent
		}
		size, err := opener.Length(head)
		if err != nil {
			t.Error(err)
			return sent
		}
		body := make([]byte, size+wire.RecordTail)
		if !read(body) {
			return sent
		}
		plain, err := opener.Open(body)
		for err == nil && len(plain) > 0 {
			var f wire.Frame
			if f, plain, err = wire.NextFrame(plain); err != nil {
				break
			}
			switch f.Type { //nolint:exhaustive // the others are not answered
			case wire.FrameCreate:
				var hop []byte
				if hop, _, err = onion.AcceptHop(self.cfg.ID, self.cfg.Key, seen, onion.DefaultSuites(), f.Body); err == nil {
					err = send(wire.AppendCreated(nil, f.Circuit, hop))
				}
			case wire.FrameCell:
				cell := wire.AppendCell(nil, wire.Reliable, f.Circuit, make([]byte, wire.BodySize))
				for ; sent < 1<<16 && send(cell) == nil; sent++ {
				}
				return sent
			}
		}
		if err != nil {
			t.Error(err)
			return sent
		}
	}
}

// heap is what is in use after a collection, and what the process has taken from
// the system, bytes.
func heap() (used, system int64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.Sys)
}
