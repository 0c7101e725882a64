package circuit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/netmap"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// FuzzClient builds a circuit through hops that all belong to one enemy, who speaks
// for the first hop's link and seals cells at any hop. The first byte of the script
// picks path and builder, each two bytes after it are something that the enemy (or
// the client) does; a model says what must come of it: the next hop is asked, the
// build ends and is blamed on this hop, the handler gets a packet, the circuit or the
// link ends. In the end no goroutine, no lane, no byte of the budget and no cell is
// left. What is said in one breath with the answer to a build may be read before or
// after the builder goes on; then only what holds both ways is checked.
func FuzzClient(f *testing.F) {
	for _, script := range []string{
		"\x02\x00\x00\x00\x00\x00\x00\x0d\x05\x07\x06\x07\x09\x06\x20\x0e\x00", // three hops, packets both ways, the client closes
		"\x02\x02\x00", "\x02\x00\x00\x02\x03", "\x02\x00\x00\x00\x00\x02\x04", // refused at each hop
		"\x02\x02\x08", "\x02\x00\x00\x02\x08", "\x02\x00\x00\x00\x00\x02\x08", // for no reason there is
		"\x02\x01\x00", "\x02\x00\x00\x01\x01", "\x02\x00\x00\x01\x02", "\x02\x00\x00\x00\x00\x01\x03", "\x02\x00\x00\x00\x00\x01\x04", "\x02\x01\x02",
		"\x02\x00\x00\x0f\x10\x0f\x00\x07\x00",                                                 // answers in pieces
		"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x0d\x01",                                 // an answer too many
		"\x02\x00\x00\x00\x00\x00\x00\x08\x02\x07\x00", "\x02\x00\x00\x00\x00\x08\x01\x00\x00", // from a wrong hop
		"\x02\x00\x00\x00\x00\x00\x00\xe7\x00\xea\x00\x07\x00\x07\x01", "\x02\x00\x00\x00\x00\x00\x00\xe7\x42\x07\x00\x06\x10", // in one breath
		"\x00\x00\x00\x07\x00\x0a\x01", "\x00\x00\x00\x07\x03\x0a\x0b", "\x00\x00\x00\x09\x82", "\x00\x00\x00\x09\x01", "\x00\x00\x00\x07\xff",
		"\x00\x00\x00\x09\x09",
		"\x02\x00\x00\x07\x00", "\x02\x00\x00\x0b\x00\x00\x00", "\x02\x00\x00\x0b\x01", "\x02\x00\x00\x0b\x02", "\x02\x00\x00\x09\x81",
		"\x80\x00\x00\x07\x00", "\x00\x00\x00\x07\x42\x07\x00", // nobody wants the packets
		"\x02\x00\x00\x05\x00\x05\x00", "\x00\x00\x00\x05\x00\x07\x00", "\x00\x00\x00\x05\x00\x06\x00", "\x00\x03\x00\x03\x00",
		"\x00\x04\x01\x00\x00", "\x00\x00\x00\x04\x01",
		"\x00\x07\x00", "\x00\x06\x00", "\x00\x00\x00\x06\xff", "\x02\x04\x07", "\x02\x0c\x40\x00\x00\x0c\xff\x00\x00", // time passes
		"\x42\x00\x00\x0c\x10\x00\x00\x0c\x40", "\x42\x0c\x20\x00\x00\x00\x00\x0c\x7e\x0c\x10",
		"\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0d\x01\x07\x00",
		"\x02\x00\x00\x0e\x00\x00\x00\x05\x00", "\x02\x00\x00\x0e\x01", "\x00\x00\x00\x0e\x01\x0d\x00", "\x00\x00\x00\x0e\x02", "\x00\x0e\x03",
		"\x00\x00\x00\xe7\x00\x04\x30", "\x02\xe0\x00\x00\x00", "\x02\xe0\x00\x07\x00\x00\x00\x00\x00", "\x02\xe0\x00\x05\x00",
		"\x00\xe0\x00\xe7\x00\x05\x00", "\x02\x00\x00\xe0\x00\x02\x00",
	} {
		f.Add([]byte(script))
	}
	var keys [wire.MaxHops]*onion.StaticKey
	for i := range keys {
		var err error
		if keys[i], err = onion.NewStaticKey([32]byte{byte(i + 1)}); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		before := spareCells()
		synctest.Test(t, func(t *testing.T) {
			e := newEnemy(t, keys[:], script[0])
			for i := 1; i+1 < len(script) && i < 2*enemyDeeds; i += 2 {
				e.step(script[i], script[i+1])
			}
			e.finish()
		})
		after := spareCells()
		if len(after) != cellsInHand {
			t.Fatal("a cell was released twice")
		}
		for c := range after {
			if !before[c] {
				t.Fatal("a cell was not released")
			}
		}
	})
}

const (
	enemyDeeds  = 48  // in a script; their cells are less than wire.InitialCredit
	cellsInHand = 512 // more than are in use at a time
	inOneBreath = 0xe0
)

// spareCells are the cells that the next to ask for some would get.
func spareCells() map[*wire.Cell]bool {
	cells, set := make([]*wire.Cell, cellsInHand), make(map[*wire.Cell]bool, cellsInHand)
	wire.NewCells(cells)
	for _, c := range cells {
		set[c] = true
	}
	wire.ReleaseCells(cells)
	return set
}

// stage is how far the model says the client is.
type stage int

const (
	building stage = iota // it waits for the answer of hop len(enemy.hops)
	ready
	ended
)

// enemy is all hops of one circuit, what it knows, and the model of the client.
type enemy struct {
	t       *testing.T
	keys    []*onion.StaticKey
	path    []*netmap.Record
	attach  bool
	probe   bool
	link    *link.Link // the client's
	budget  *link.Budget
	circuit *Circuit // nil: none was returned yet
	failure error
	result  chan func() // takes what the builder returned
	giveUp  context.CancelFunc
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	conn    net.Conn
	writing sync.Mutex // guards sealer and the order of records
	sealer  *onion.Sealer
	opener  *onion.Opener

	mu      sync.Mutex // guards what the reader and the handler fill
	inbox   []wire.Frame
	packets [][]byte // of the handler
	deaf    bool     // the handler may get nothing more

	lane    wire.CircuitID
	seen    *onion.ReplayCache
	msg1    []byte // that was not answered
	msg2    []byte // the right answer to it
	fresh   *onion.HopKeys
	hops    []*onion.Hop
	said    wire.Assembler // of the client's messages
	sent    []byte         // the client's packet
	arrived []byte         // the same at the last hop
	body    []byte         // of the last cell
	records [][]byte       // to be sent at once
	cut     bool           // the next frame begins a record

	stage   stage
	loose   bool // the model does not know
	created bool // CREATED was said
	gone    bool // CLOSE or REFUSE was said
	down    bool // the link has ended
	closes  int  // CLOSE heard
	half    wire.Assembler
	blamed  *BuildError
	want    [][]byte
	start   time.Time
	asked   time.Time
	slowest time.Duration
}

func newEnemy(t *testing.T, keys []*onion.StaticKey, how byte) *enemy {
	e := &enemy{t: t, keys: keys, attach: how&0x80 == 0, probe: how&0x40 != 0, budget: link.NewBudget(0), result: make(chan func(), 1),
		seen: onion.NewReplayCache(16)}
	for i := range 1 + int(how&0x3f)%wire.MaxHops {
		e.path = append(e.path, &netmap.Record{ID: wire.NodeID{byte(i + 1)}, KEM: keys[i].Public(), RelayPrice: 1, ExitPrice: 2})
	}
	var ctx, build context.Context
	ctx, e.cancel = context.WithCancel(t.Context())
	build, e.giveUp = context.WithCancel(ctx)
	t.Cleanup(e.leave)
	var conn net.Conn
	conn, e.conn = net.Pipe()
	e.wg.Go(func() { // ends with the handshake
		if err := e.shake(); err != nil {
			t.Error(err)
			_ = e.conn.Close()
		}
	})
	var err error
	e.link, err = link.Dial(ctx, conn, link.Config{ID: wire.NodeID{0xcc}, Key: keys[0], Record: []byte("client"), Budget: e.budget},
		link.Peer{ID: e.path[0].ID, KEM: e.path[0].KEM})
	e.wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	e.wg.Go(func() { _ = e.link.Run(ctx, nobody{}) }) // ends with ctx or the connection
	e.wg.Go(e.listen)
	e.start, e.asked = time.Now(), time.Now()
	e.wg.Go(func() { // ends with the build
		b := Builder{Links: func(wire.NodeID) *link.Link { return e.link }}
		try := b.Build
		if e.probe {
			try = b.Probe
		}
		c, err := try(build, e.path)
		if c != nil && e.attach {
			c.Attach(e.handle)
		}
		took := time.Since(e.start)
		e.result <- func() {
			if e.circuit, e.failure = c, err; took > buildTime || (c == nil) == (err == nil) {
				t.Errorf("after %v the builder returns %v and %v", took, c, err)
			}
		}
	})
	e.check()
	return e
}

// nobody is the client's switch: the enemy opens no circuits.
type nobody struct{}

func (nobody) Create(lane *link.Lane, _ []byte) { lane.Refuse(wire.ReasonNotServed) }

// shake is the acceptor's part of the link's handshake.
func (e *enemy) shake() error {
	msg1, msg3 := make([]byte, wire.LinkMsg1Size), make([]byte, wire.LinkMsg3Size)
	if _, err := io.ReadFull(e.conn, msg1); err != nil {
		return err
	}
	h, _, err := onion.AcceptLink(e.path[0].ID, e.keys[0], msg1)
	if err != nil {
		return err
	}
	msg2, err := h.Reply(e.keys[0].Public(), onion.DefaultSuites())
	if err != nil {
		return err
	}
	if _, err := e.conn.Write(msg2); err != nil {
		return err
	}
	if _, err := io.ReadFull(e.conn, msg3); err != nil {
		return err
	}
	keys, err := h.Finish(msg3)
	if err == nil {
		e.sealer, e.opener, err = keys.Split()
	}
	return err
}

// listen keeps what the client sends and answers pings. It ends with the connection.
func (e *enemy) listen() {
	for {
		head := make([]byte, wire.RecordHead)
		if _, err := io.ReadFull(e.conn, head); err != nil {
			return
		}
		n, err := e.opener.Length(head)
		if err != nil {
			e.t.Error(err)
			return
		}
		plain := make([]byte, n+wire.RecordTail)
		if _, err := io.ReadFull(e.conn, plain); err != nil {
			return
		}
		if plain, err = e.opener.Open(plain); err != nil {
			e.t.Error(err)
			return
		}
		for len(plain) > 0 {
			var f wire.Frame
			if f, plain, err = wire.NextFrame(plain); err != nil {
				e.t.Error(err)
				return
			}
			if f.Type == wire.FramePing {
				e.write(wire.AppendPong(nil, f.Token))
			}
			e.mu.Lock()
			e.inbox = append(e.inbox, f)
			e.mu.Unlock()
		}
	}
}

// write sends records. The link may have ended: then nobody hears.
func (e *enemy) write(records ...[]byte) {
	e.writing.Lock()
	defer e.writing.Unlock()
	var all []byte
	for _, r := range records {
		buf := make([]byte, wire.RecordHead+len(r)+wire.RecordTail)
		copy(buf[wire.RecordHead:], r)
		all = append(all, e.sealer.Seal(buf, len(r))...)
	}
	_, _ = e.conn.Write(all)
}

// handle is the client's handler: it refuses packets that begin with 'B'.
func (e *enemy) handle(kind byte, class wire.Class, p []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deaf {
		e.t.Errorf("a packet %x came after the end", p)
	}
	e.packets = append(e.packets, append([]byte{byte(class), kind}, p...))
	if p[0] == 'B' {
		e.deaf = true
		return errPacket
	}
	return nil
}

// step does one deed.
func (e *enemy) step(op, arg byte) {
	e.t.Helper()
	hold := op >= inOneBreath
	if hold && e.stage == building {
		e.loose = true
	}
	switch op % 16 {
	case 0:
		e.answer(e.right(), wire.MaxControl)
	case 1:
		e.answerWrongly(arg)
	case 2:
		if reason := wire.Reason(arg); len(e.hops) == 0 {
			e.refuse(reason)
		} else {
			e.message(wire.AppendExtendRefused(nil, reason), wire.MaxControl)
		}
	case 3:
		e.create(make([]byte, wire.HopMsg2Size))
	case 4:
		e.refuse(wire.Reason(arg))
	case 5:
		e.close()
	case 6:
		e.credit(arg)
	case 7:
		e.deliver(wire.Class(arg>>1&1), []byte{wire.PayloadSession + arg&1, arg}[:2-arg/255])
	case 8:
		e.elsewhere(arg)
	case 9:
		e.deliver(wire.Class(arg>>7), []byte{arg & 0x7f, 0, 7})
	case 10:
		e.garbage(arg)
	case 11:
		e.deliver(wire.Reliable, []byte{wire.PayloadControl, arg, 7})
	case 12:
		e.flush()
		time.Sleep(time.Duration(arg) * 40 * time.Millisecond)
		e.expire()
	case 13:
		e.upload(arg)
	case 14:
		e.end(arg)
	case 15:
		e.answer(e.right(), 200+int(arg)*4)
	}
	if !hold {
		e.check()
	}
}

// right is the true answer to what the client asks; zeros when it asks nothing.
func (e *enemy) right() []byte {
	if e.msg1 == nil || e.stage != building {
		return make([]byte, wire.HopMsg2Size)
	}
	i := len(e.hops)
	var err error
	if e.msg2, e.fresh, err = onion.AcceptHop(e.path[i].ID, e.keys[i], e.seen, onion.DefaultSuites(), e.msg1); err != nil {
		e.t.Fatal(err)
	}
	e.msg1 = nil
	return e.msg2
}

// answer says msg2 in the way that the next hop's answer takes.
func (e *enemy) answer(msg2 []byte, piece int) {
	if len(e.hops) == 0 {
		e.create(msg2)
		return
	}
	e.message(wire.AppendExtended(nil, msg2), piece)
}

func (e *enemy) answerWrongly(arg byte) {
	msg2 := e.right()
	switch flipped := bytes.Clone(msg2); {
	case arg%5 == 0:
		e.answer(make([]byte, wire.HopMsg2Size), wire.MaxControl)
	case arg%5 == 1:
		flipped[int(arg)*4%len(flipped)] ^= 1
		e.answer(flipped, wire.MaxControl)
	case len(e.hops) == 0:
		e.broken(wire.AppendCreated(nil, e.lane, msg2)[:int(arg)])
	case arg%5 == 2:
		e.message(wire.AppendExtended(nil, msg2)[:1+int(arg)], wire.MaxControl)
	case arg%5 == 3:
		e.message(append(wire.AppendExtended(nil, msg2), arg), wire.MaxControl)
	default:
		e.message(wire.AppendExtend(nil, wire.NodeID{arg}, 1, make([]byte, wire.HopMsg1Size)), wire.MaxControl)
	}
}

// message has the last hop say a circuit message, in fragments of that size at most.
func (e *enemy) message(msg []byte, piece int) {
	b := make([]byte, min(wire.PayloadSize, wire.FragmentOverhead+piece))
	for len(msg) > 0 {
		var n int
		n, msg = wire.PutFragment(b, msg)
		e.deliver(wire.Reliable, b[:n])
	}
}

// say adds a frame to what is sent next.
func (e *enemy) say(frame []byte) {
	if last := len(e.records) - 1; last >= 0 && !e.cut && len(e.records[last])+len(frame) <= wire.MaxRecord {
		e.records[last] = append(e.records[last], frame...)
		return
	}
	e.records, e.cut = append(e.records, frame), false
}

// broken says what is no frame, in a record of its own (the link drops the cells in
// front of it): the link ends.
func (e *enemy) broken(b []byte) {
	e.cut = true
	e.say(b)
	e.cut = true
	e.drop()
}

// create says CREATED.
func (e *enemy) create(msg2 []byte) {
	e.say(wire.AppendCreated(nil, e.lane, msg2))
	if e.gone || e.created {
		e.drop()
		return
	}
	e.created = true
	if e.stage == building {
		e.taken(msg2)
	}
}

// taken is the builder with an answer to what it has asked.
func (e *enemy) taken(msg2 []byte) {
	if e.fresh == nil || !bytes.Equal(msg2, e.msg2) {
		e.over(0)
		return
	}
	h, err := onion.NewHop(e.fresh)
	if err != nil {
		e.t.Fatal(err)
	}
	e.hops, e.fresh = append(e.hops, h), nil
	e.slowest, e.asked = max(e.slowest, time.Since(e.asked)), time.Now()
	if len(e.hops) == len(e.path) {
		e.stage = ready
	}
}

// refuse says REFUSE.
func (e *enemy) refuse(reason wire.Reason) {
	frame := wire.AppendRefuse(nil, e.lane, reason)
	if reason < wire.ReasonBusy || reason > wire.ReasonProtocol {
		e.broken(frame)
		return
	}
	e.say(frame)
	if e.gone || e.created {
		e.drop()
		return
	}
	e.gone = true
	e.over(reason)
}

// close says CLOSE.
func (e *enemy) close() {
	e.say(wire.AppendClose(nil, e.lane))
	if e.gone {
		e.drop()
	}
	e.gone = true
	e.over(0)
}

// credit says CREDIT; arg 255 is more than anybody may.
func (e *enemy) credit(arg byte) {
	n := uint32(arg) + 1
	if arg == 255 {
		n = 1 << 25
	}
	e.say(wire.AppendCredit(nil, e.lane, n))
	if e.gone || !e.created || arg == 255 && e.stage != ended {
		e.drop()
	}
}

// heard tells whether the client reads a cell that comes now.
func (e *enemy) heard() bool {
	if e.gone || !e.created {
		e.drop()
	}
	return e.stage != ended
}

// seal makes a cell of a hop, or of nobody when there is none yet, and says it.
func (e *enemy) seal(hop int, class wire.Class, payload []byte, spoil func(body []byte)) {
	c := wire.NewCell(class)
	clear(c.Body())
	if hop >= 0 {
		e.hops[hop].Originate(c, copy(c.Payload(), payload))
		for i := hop - 1; i >= 0; i-- {
			e.hops[i].Wrap(c)
		}
	}
	if spoil != nil {
		spoil(c.Body())
	}
	e.body = bytes.Clone(c.Body())
	e.say(wire.AppendCell(nil, class, e.lane, c.Body()))
	c.Release()
}

// deliver has the last hop send a payload.
func (e *enemy) deliver(class wire.Class, payload []byte) {
	e.seal(len(e.hops)-1, class, payload, nil)
	if !e.heard() {
		return
	}
	switch {
	case ofSession(payload) && e.stage == ready && e.attach:
		if e.want = append(e.want, append([]byte{byte(class)}, payload...)); payload[1] == 'B' {
			e.over(0)
		}
		return
	case ofSession(payload), class != wire.Reliable, e.stage != building:
		e.over(0)
		return
	}
	msg, err := e.half.Add(payload)
	if err == nil && msg == nil {
		return
	}
	m, parsed := wire.ParseMessage(msg)
	switch {
	case err == nil && parsed == nil && m.Type == wire.MessageExtended:
		e.taken(m.Handshake)
	case err == nil && parsed == nil && m.Type == wire.MessageExtendRefused:
		e.over(m.Reason)
	default:
		e.over(0)
	}
}

// elsewhere has any hop send.
func (e *enemy) elsewhere(arg byte) {
	payload, last := []byte{wire.PayloadSession, arg}, len(e.hops)-1
	if arg&1 == 1 {
		payload = append([]byte{wire.PayloadControl, 1}, wire.AppendExtended(nil, make([]byte, wire.HopMsg2Size))...)
	}
	hop := int(arg>>1) % max(1, len(e.hops))
	if hop >= last {
		e.deliver(wire.Reliable, payload)
		return
	}
	e.seal(hop, wire.Reliable, payload, nil)
	if e.heard() {
		e.over(0)
	}
}

// garbage sends a cell that is none: zeros, the one before, or one with a bit changed.
func (e *enemy) garbage(arg byte) {
	class, old := wire.Class(arg>>3&1), e.body
	switch {
	case arg%3 == 0:
		e.seal(-1, class, nil, nil)
	case arg%3 == 1 && old != nil:
		e.seal(-1, class, nil, func(body []byte) { copy(body, old) })
	default:
		e.seal(len(e.hops)-1, class, []byte{wire.PayloadSession, arg}, func(body []byte) { body[int(arg)*7%len(body)] ^= 1 << (arg & 7) })
	}
	if e.heard() {
		e.over(0)
	}
}

// expire is the builder's patience.
func (e *enemy) expire() {
	deadline := e.start.Add(buildTime)
	if n := len(e.path); e.probe && n > 1 && len(e.hops) == n-1 {
		if mute := e.asked.Add(max(probeTime, probeTrips*e.slowest)); mute.Before(deadline) {
			deadline = mute
		}
	}
	if e.stage == building && !time.Now().Before(deadline) {
		e.over(0)
	}
}

// upload has the client send a packet.
func (e *enemy) upload(arg byte) {
	e.flush()
	if e.circuit == nil {
		return
	}
	e.sent, e.arrived = []byte{wire.PayloadAttach - arg&1, arg}, nil
	err := e.circuit.Send(e.sent[0], wire.Class(arg>>1&1), e.sent[1:])
	switch e.flush(); {
	case e.loose:
	case e.stage == ended:
		if !errors.Is(err, ErrClosed) {
			e.t.Fatalf("sending after the end: %v, want ErrClosed", err)
		}
	case err != nil || !bytes.Equal(e.arrived, e.sent):
		e.t.Fatalf("the last hop got %x (%v), want %x", e.arrived, err, e.sent)
	}
}

// end is what ends a circuit from one side.
func (e *enemy) end(arg byte) {
	switch arg % 4 {
	case 0:
		e.flush()
		if e.circuit != nil {
			e.circuit.Close()
		}
		e.giveUp()
		e.over(0)
	case 1:
		e.flush()
		_ = e.conn.Close()
		e.drop()
	case 2:
		e.broken([]byte{arg})
	case 3:
		e.say(wire.AppendPong(nil, uint64(arg)))
		e.drop()
	}
}

// drop is the end of the link.
func (e *enemy) drop() {
	e.down = true
	e.over(0)
}

// over is the end of the circuit, or of its build.
func (e *enemy) over(reason wire.Reason) {
	if e.stage == building {
		e.blamed = &BuildError{Hop: len(e.hops), Reason: reason}
	}
	e.stage = ended
}

// flush sends what was said, waits until nothing moves, and reads what came.
func (e *enemy) flush() {
	e.t.Helper()
	if len(e.records) > 0 {
		e.write(e.records...)
		e.records = nil
	}
	synctest.Wait()
	select {
	case take := <-e.result:
		take()
	default:
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.inbox {
		switch f.Type { //nolint:exhaustive // the others are the link's
		case wire.FrameCreate:
			e.lane, e.msg1 = f.Circuit, f.Body
			e.mustAsk(0, e.path[0].ID, f.Tier)
		case wire.FrameClose:
			e.closes++
		case wire.FrameCell, wire.FrameDatagramCell:
			e.read(&f)
		}
	}
	e.inbox = nil
	if e.isOver() {
		e.deaf = true
	}
}

// isOver tells whether the builder's circuit has ended.
func (e *enemy) isOver() bool {
	if e.circuit == nil {
		return false
	}
	if done := isDone(e.circuit.Done()); done == e.circuit.Status().Open {
		e.t.Fatalf("the circuit's end is %v, and its status the opposite", done)
	}
	return isDone(e.circuit.Done())
}

// read takes a cell of the client's to the hop it is for.
func (e *enemy) read(f *wire.Frame) {
	c := wire.NewCell(f.Class)
	defer c.Release()
	copy(c.Body(), f.Body)
	for i, h := range e.hops {
		header, err := h.Peel(c)
		if err != nil {
			e.t.Fatalf("hop %d cannot read the client's cell: %v", i, err)
		}
		if header.Kind == onion.PassOn {
			continue
		}
		p := bytes.Clone(c.Payload()[:header.Length])
		if ofSession(p) {
			e.arrived = p
			return
		}
		msg, err := e.said.Add(p)
		if err != nil {
			e.t.Fatal(err)
		}
		if msg == nil {
			return
		}
		m, err := wire.ParseMessage(msg)
		if err != nil || m.Type != wire.MessageExtend {
			e.t.Fatalf("the client says %d: %v", m.Type, err)
		}
		e.msg1 = m.Handshake
		e.mustAsk(i+1, m.Next, m.Tier)
		return
	}
	e.t.Fatal("the client's cell is for no hop")
}

// mustAsk wants the hop that is next to be asked, for its price and all behind it.
func (e *enemy) mustAsk(hop int, next wire.NodeID, tier wire.Tier) {
	if hop >= len(e.path) || !e.loose && hop != len(e.hops) || next != e.path[hop].ID || int(tier) != len(e.path)-hop+1 {
		e.t.Fatalf("hop %d is asked to be %x for %d", hop, next[:2], tier)
	}
}

// check compares the client with the model.
func (e *enemy) check() {
	e.t.Helper()
	e.flush()
	var failed *BuildError
	if e.failure != nil && !errors.As(e.failure, &failed) {
		e.t.Fatalf("the build ends with %v, want a BuildError", e.failure)
	}
	if e.loose {
		return
	}
	returned := e.circuit != nil || failed != nil
	switch {
	case returned != (e.stage == ready || e.stage == ended) || e.stage == building && e.msg1 == nil:
		e.t.Fatalf("stage %d, %d hops: the builder returned %v and asks with %d bytes", e.stage, len(e.hops), returned, len(e.msg1))
	case e.blamed != nil && (failed == nil || failed.Hop != e.blamed.Hop || failed.Reason != e.blamed.Reason || failed.Error() == ""):
		e.t.Fatalf("the build ends with %v, want hop %d and %v blamed", e.failure, e.blamed.Hop+1, e.blamed.Reason)
	case e.blamed == nil && (failed != nil || e.isOver() != (e.stage == ended)):
		e.t.Fatalf("stage %d: the circuit's end is %v, and %v", e.stage, e.isOver(), failed)
	case e.down != isDone(e.link.Done()):
		e.t.Fatalf("the link's end is %v, want %v", !e.down, e.down)
	case !e.down && (e.closes == 1) != (e.stage == ended) || e.closes > 1:
		e.t.Fatalf("stage %d: the client said CLOSE %d times", e.stage, e.closes)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.EqualFunc(e.packets, e.want, bytes.Equal) {
		e.t.Fatalf("the handler got %x, want %x", e.packets, e.want)
	}
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// finish ends everything, the build by its own deadline, and wants nothing left.
func (e *enemy) finish() {
	e.t.Helper()
	if e.check(); e.circuit == nil && e.failure == nil {
		time.Sleep(buildTime)
		e.expire()
		e.check()
	}
	switch {
	case e.circuit != nil:
		e.circuit.Close()
		if e.flush(); !e.isOver() || !errors.Is(e.circuit.Send(wire.PayloadSession, wire.Reliable, []byte{1}), ErrClosed) {
			e.t.Fatal("a closed circuit goes on")
		}
	case e.failure == nil:
		e.t.Fatalf("the builder did not return within %v", buildTime)
	}
	if !e.gone {
		e.say(wire.AppendClose(nil, e.lane))
		e.flush()
	}
	if n := e.link.Status().Lanes; n > 0 && !isDone(e.link.Done()) {
		e.t.Fatalf("%d lanes are left", n)
	}
	e.leave()
	if q, g := e.budget.Queued(), e.budget.Granted(); q != 0 || g != 0 {
		e.t.Fatalf("after the end %d bytes are queued and %d granted", q, g)
	}
}

// leave ends every goroutine.
func (e *enemy) leave() {
	e.cancel()
	if e.conn != nil {
		_ = e.conn.Close()
	}
	e.wg.Wait()
}
