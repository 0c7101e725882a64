package session

import (
	"crypto/subtle"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// When the peer is told what has arrived (docs/protocol.md section 6.1).
const (
	ackPackets = 64
	ackBytes   = wire.LeastWindow / 4
)

// trunk numbers, keeps and resends the sequenced packets of one session, so that
// it can go on over another carrier. It has a carrier, or none for a while:
// packets are then kept until the window is full.
//
// sending is held by the one who sends a sequenced packet, also while the carrier
// is backed up; mu and receiving are held for a moment only, mu inside either.
type trunk struct {
	ended  <-chan struct{} // the session's end
	packet func(class wire.Class, p []byte) error
	allow  func(slabs int, must bool) bool // counts slabs that are kept (negative: freed); false: not now, unless it must; called with mu held
	most   int                             // slabs of the window

	sending sync.Mutex
	next    atomic.Uint64              // packets sent so far; changed with sending held
	until   atomic.Uint64              // packets that may be sent before more are acknowledged; changed with mu held
	timing  atomic.Bool                // flight times a packet; changed with mu held
	turn    [turnPackets][]byte        // scratch of write; guarded by sending
	live    atomic.Pointer[attachment] // takes new packets; nil: none, or resending

	mu     sync.Mutex // guards the fields below
	room   sync.Cond  // acked has grown, live was set, or closed
	kept   kept
	flight flight
	acked  wire.Number
	now    *attachment // the current one, to be closed
	closed bool
	todo   todo
	wake   chan struct{} // one token: todo is not empty

	receiving sync.Mutex    // guards the fields below, and the order of arrival
	current   *attachment   // nil: none
	received  atomic.Uint64 // the peer's packets that have arrived; changed with receiving held
	told      wire.Number   // of these, those that the peer knows to have arrived
	since     int           // bytes that arrived since told
	asked     uint64        // PINGs: the newest token sent (client) or received (exit)
	askedAt   time.Time     // when it was (client)
	answered  uint64        // the newest token that came back (client)

	heard   atomic.Bool                  // something has arrived since the last look at it
	loose   atomic.Uint64                // datagram packets of both directions
	message [wire.MaxSessionControl]byte // the pump's alone
	onEnd   func()                       // END has come (exit); called by Packet
	moved   func()                       // another carrier is the current one; called with receiving held
	client  bool                         // this side attaches
	haste   *haste                       // of all sessions here (exit)
}

// todo is what the pump has to send.
type todo struct {
	attached *attachment // begin here: resend what is not acknowledged
	ack      bool
	pong     bool
	ping     bool
	end      bool
}

func (t *trunk) init(window int, ended <-chan struct{}) {
	t.most = max(slabsBase, window/slabSize)
	t.ended, t.wake = ended, make(chan struct{}, 1)
	t.allow = func(int, bool) bool { return true }
	t.room.L = &t.mu
	t.haste = &haste{}
	t.flight.reset(t.queue(time.Now()), 0)
	t.until.Store(t.flight.bound())
}

// queue is how long what this side sends may wait on the path.
func (t *trunk) queue(now time.Time) time.Duration {
	switch {
	case t.client:
		return queueTimeUp
	case t.haste.on(now):
		return queueTimeHaste
	}
	return queueTimeDown
}

// signal wakes the pump. do is called with mu held.
func (t *trunk) signal(do func(*todo)) {
	t.mu.Lock()
	do(&t.todo)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// reserve waits for room in the window, and with bounded in the flight, and returns
// an empty slice for one packet. The caller appends to it and calls commit, which
// ends the turn that reserve begins; after an error there is none.
func (t *trunk) reserve(bounded bool) ([]byte, error) {
	t.sending.Lock()
	for !t.may(bounded) {
		if err := t.grow(bounded); err != nil {
			return nil, err
		}
	}
	return t.kept.slot(), nil
}

// may tells whether a packet may be sent now. The caller holds sending.
func (t *trunk) may(bounded bool) bool { return t.kept.room() && !(bounded && t.full()) }

// expect takes the window that the peer gives a new stream: a large one is what it takes
// the path to carry in a trip.
func (t *trunk) expect(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flight.start(wire.Number(bytes / maxData)) {
		t.until.Store(t.acked + t.flight.bound())
		t.room.Broadcast()
	}
}

// lead is how many bytes the peer needs to be granted at first to fill the path.
func (t *trunk) lead() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now == nil {
		return 0
	}
	return int(startFor(t.now.least())) * maxData
}

// full tells whether as many packets are under way as flight allows. The caller
// holds sending.
func (t *trunk) full() bool { return t.next.Load() >= t.until.Load() }

// grow adds a slab, or waits without sending for one to be freed. The caller
// holds sending, and still does unless there is an error.
func (t *trunk) grow(bounded bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		t.sending.Unlock()
		return net8()
	case t.may(bounded): // an acknowledgement has come meanwhile
	case !(bounded && t.full()) && t.kept.slabs < t.mostNow() && t.allow(1, t.kept.slabs < slabsBase):
		t.kept.grow(t.next.Load())
	default:
		t.flight.reached = true
		acked, until := t.acked, t.until.Load()
		t.sending.Unlock()
		for t.acked == acked && t.until.Load() == until && !t.closed {
			t.room.Wait()
		}
		t.mu.Unlock()
		t.sending.Lock() // taken before mu
		t.mu.Lock()
	}
	return nil
}

// mostNow is how many slabs may be kept: without a carrier half, since nothing then
// shows that a path takes as much. The caller holds mu.
func (t *trunk) mostNow() int {
	if t.now == nil {
		return max(slabsBase, t.most/2)
	}
	return t.most
}

// commit numbers the packet and sends it if there is a carrier. One that fails
// has been kept, and is sent again over the next.
func (t *trunk) commit(packet []byte) {
	t.kept.fill(packet)
	n := t.next.Add(1) - 1
	if !t.timing.Load() {
		t.time(n)
	}
	if a := t.live.Load(); a != nil {
		_ = a.carrier.Send(wire.PayloadSession, wire.Reliable, packet)
	}
	t.sending.Unlock()
}

// write is send for as much of a stream's bytes as goes in one turn, a DATA frame to
// a packet, and returns how many they were.
func (t *trunk) write(id wire.StreamID, p []byte) (n int, err error) {
	slot, err := t.reserve(true)
	if err != nil {
		return 0, err
	}
	defer t.sending.Unlock()
	packets := t.turn[:0]
	first := t.next.Load()
	for {
		k := min(len(p)-n, maxData)
		packet := wire.AppendData(slot, id, p[n:n+k])
		t.kept.fill(packet)
		packets = append(packets, packet)
		n += k
		// They stay in one slab: an acknowledgement never frees the tail.
		if n == len(p) || len(packets) == turnPackets || !t.kept.room() || first+wire.Number(len(packets)) >= t.until.Load() {
			break
		}
		slot = t.kept.slot()
	}
	t.next.Add(uint64(len(packets)))
	if !t.timing.Load() {
		t.time(first)
	}
	if a := t.live.Load(); a != nil {
		_ = a.carrier.SendAll(wire.PayloadSession, wire.Reliable, packets)
	}
	return n, nil
}

// time begins to time packet n, which is about to be sent.
func (t *trunk) time(n wire.Number) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flight.sent(n, t.acked, time.Now())
	t.timing.Store(true)
}

// send numbers, keeps and sends one packet; it waits while the window is full
// and while the carrier is backed up. Packets of control frames go this way: they are
// few, and what opens a stream or gives it credit waits for no bulk.
func (t *trunk) send(packet []byte) error {
	slot, err := t.reserve(false)
	if err != nil {
		return err
	}
	t.commit(append(slot, packet...))
	return nil
}

// datagram sends a packet that is not kept and returns what it was sent on; nil if
// it was lost. While there is no carrier it waits, and others wait in the queue
// that drops them when they get old; so does this one. on, if not nil, is the
// attachment that it has to be sent on: fragments of one datagram do not go over
// two carriers, since what was on the first one may be lost.
func (t *trunk) datagram(packet []byte, on *attachment) *attachment {
	t.loose.Add(1)
	a := t.live.Load()
	if a == nil && on == nil {
		a = t.carried()
	}
	if a == nil || on != nil && a != on || a.carrier.Send(wire.PayloadSession, wire.Datagram, packet) != nil {
		return nil
	}
	return a
}

// carried waits for a carrier; nil if that takes too long for a datagram.
func (t *trunk) carried() *attachment {
	start := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.live.Load() == nil && !t.closed {
		t.room.Wait()
	}
	if time.Since(start) > sendAge {
		return nil
	}
	return t.live.Load()
}

// outstanding counts packets of ours that the peer has not acknowledged.
func (t *trunk) outstanding() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next.Load() - t.acked
}

// acknowledge takes the peer's "next expected". Called with receiving held.
func (t *trunk) acknowledge(n wire.Number) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n < t.acked || n > t.next.Load() {
		return fmt.Errorf("acknowledged %d, of %d to %d: %w", n, t.acked, t.next.Load(), errProtocol)
	}
	t.acked = n
	now := time.Now()
	t.flight.queue = t.queue(now)
	t.flight.acknowledged(n, now)
	t.timing.Store(t.flight.timing)
	t.until.Store(n + t.flight.bound())
	if freed := t.kept.acknowledge(n); freed > 0 {
		t.allow(-freed, true)
	}
	t.room.Broadcast()
	return nil
}

// adopt makes a the current attachment and returns the one before. next is what
// the peer expects. The pump sends a.first, resends, and then makes a live.
func (t *trunk) adopt(a *attachment, next wire.Number) (old *attachment, err error) {
	t.receiving.Lock()
	defer t.receiving.Unlock()
	if err := t.acknowledge(next); err != nil {
		return nil, err
	}
	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.now = a
		t.flight.reset(t.queue(time.Now()), a.least()) // another path
		t.timing.Store(false)
		t.until.Store(t.acked + t.flight.bound())
	}
	t.mu.Unlock()
	if closed {
		return nil, net8()
	}
	old = t.current
	t.current = a
	if t.moved != nil {
		t.moved()
	}
	t.live.Store(nil)
	a.start = t.received.Load()
	a.said.ack = a.start
	t.told, t.since = a.start, 0
	t.signal(func(d *todo) { *d = todo{attached: a} })
	return old, nil
}

// attached tells whether there is a carrier.
func (t *trunk) attached() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now != nil
}

// lose ends the current attachment if it is a, and tells whether it was.
func (t *trunk) lose(a *attachment) bool {
	t.receiving.Lock()
	defer t.receiving.Unlock()
	if t.current != a {
		return false
	}
	t.current = nil
	t.live.Store(nil)
	t.mu.Lock()
	t.now = nil
	t.until.Store(math.MaxUint64) // the window alone counts
	t.room.Broadcast()
	t.mu.Unlock()
	return true
}

// close wakes everybody who waits and closes the carrier.
func (t *trunk) close() {
	t.mu.Lock()
	t.closed = true
	t.room.Broadcast()
	a := t.now
	t.mu.Unlock()
	if a != nil {
		a.carrier.Close()
	}
}

// free gives back what is kept, after close.
func (t *trunk) free() {
	t.sending.Lock() // nobody is at the tail
	defer t.sending.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.allow(-t.kept.drop(), true)
}

// trim gives back the tail of a session that has nothing to keep.
func (t *trunk) trim() {
	if !t.sending.TryLock() {
		return
	}
	defer t.sending.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.acked == t.next.Load() {
		t.allow(-t.kept.drop(), true)
	}
}

// handler takes what comes on a's carrier; see Handler.
func (t *trunk) handler(a *attachment) Handler {
	return func(kind byte, class wire.Class, p []byte) error {
		t.receiving.Lock()
		defer t.receiving.Unlock()
		if t.current != a {
			return errStale
		}
		if !t.heard.Load() {
			t.heard.Store(true)
		}
		switch {
		case kind == wire.PayloadAttach && class == wire.Reliable:
			return t.control(a, p)
		case kind != wire.PayloadSession || !t.hears(a):
			return fmt.Errorf("payload %d out of place: %w", kind, errProtocol)
		case class == wire.Datagram:
			t.loose.Add(1)
			return t.packet(class, p)
		}
		n := t.received.Add(1)
		if t.since += len(p); n-t.told >= ackPackets || t.since >= ackBytes {
			t.tell()
		}
		return t.packet(class, p)
	}
}

// tell has the peer told what has arrived. Called with receiving held.
func (t *trunk) tell() {
	t.told, t.since = t.received.Load(), 0
	t.signal(wantAck)
}

func wantAck(d *todo) { d.ack = true }

// control takes a session control message. Called with receiving held.
func (t *trunk) control(a *attachment, p []byte) error {
	m, err := wire.ParseSessionControl(p)
	if err != nil {
		return err
	}
	switch {
	case m.Type == wire.SessionAck && t.hears(a):
		t.mu.Lock()
		news := m.Number > t.acked
		t.mu.Unlock()
		if !news {
			break
		}
		return t.acknowledge(m.Number)
	case !t.client && m.Type == wire.SessionPing:
		return t.ping(m.Number)
	case !t.client && m.Type == wire.SessionEnd:
		t.onEnd()
		return nil
	case !t.client:
	case m.Type == wire.SessionPong && t.hears(a) && m.Number > t.answered && m.Number <= t.asked:
		t.answered = m.Number
		if m.Number == t.asked {
			measured(a.carrier, t.askedAt)
		}
		return nil
	case (m.Type == wire.SessionAttached || m.Type == wire.SessionRefused) && !a.replied():
		return t.reply(a, m)
	}
	return fmt.Errorf("session %v out of place: %w", m.Type, errProtocol)
}

// ping takes the client's question. Called with receiving held.
func (t *trunk) ping(token uint64) error {
	if token <= t.asked {
		return fmt.Errorf("ping does not grow: %w", errProtocol)
	}
	t.asked = token
	news := t.received.Load() > t.told
	t.told, t.since = t.received.Load(), 0
	t.signal(func(d *todo) { d.pong, d.ack = true, d.ack || news })
	return nil
}

// replied tells whether ATTACHED or REFUSED has come.
func (a *attachment) replied() bool {
	select {
	case <-a.answer:
		return true
	default:
		return false
	}
}

// reply takes the exit's answer to ATTACH. Called with receiving held.
func (t *trunk) reply(a *attachment, m wire.SessionControl) error {
	if m.Type == wire.SessionRefused {
		a.refusal = m.Refusal
		close(a.answer)
		return nil
	}
	if a.state == taking { // a new session: packets have been sent already
		if m.Number != 0 {
			return fmt.Errorf("a new session expects %d: %w", m.Number, errProtocol)
		}
	} else {
		if err := t.acknowledge(m.Number); err != nil {
			return err
		}
		a.state = taking
		t.signal(func(d *todo) { *d = todo{attached: a} })
	}
	a.met = true
	close(a.answer)
	return nil
}

// pump sends what is outside the numbering, and resends: whatever Packet must
// not send itself. It ends with the session.
func (t *trunk) pump() {
	for {
		select {
		case <-t.wake:
		case <-t.ended:
			return
		}
		t.mu.Lock()
		d := t.todo
		t.todo = todo{}
		t.mu.Unlock()
		if d.attached != nil {
			t.begin(d.attached)
		}
		t.say(d)
	}
}

// begin sends the first message on a carrier, resends what the peer has not had,
// and opens the carrier for new packets. A client that resumes does the latter
// when the answer has come.
func (t *trunk) begin(a *attachment) {
	if !a.said.begun {
		m := a.first
		m.Number = a.start
		if t.tellPeer(a.carrier, m) != nil {
			return
		}
		a.said.begun = true
	}
	t.receiving.Lock()
	wait := a.state == asking
	t.receiving.Unlock()
	if wait {
		return
	}
	t.sending.Lock()
	defer t.sending.Unlock()
	if !t.resend(a.carrier) {
		return
	}
	t.receiving.Lock()
	defer t.receiving.Unlock()
	if t.current == a {
		t.live.Store(a)
		t.mu.Lock()
		t.room.Broadcast()
		t.mu.Unlock()
	}
}

// resend sends every packet that is not acknowledged. Called with sending held.
func (t *trunk) resend(carrier Carrier) bool {
	buf := make([]byte, 0, wire.SessionPacketSize)
	var c cursor
	for {
		t.mu.Lock()
		n := max(t.acked, c.number)
		if t.closed || n >= t.next.Load() {
			t.mu.Unlock()
			return true
		}
		if c.s == nil || c.number <= t.acked { // its slab may have been freed
			c = t.kept.seek(n)
		}
		buf = c.copy(&t.kept, buf[:0])
		t.mu.Unlock()
		if carrier.Send(wire.PayloadSession, wire.Reliable, buf) != nil {
			return false
		}
	}
}

// say sends the small messages.
func (t *trunk) say(d todo) {
	t.receiving.Lock()
	a, told, asked := t.current, t.told, t.asked
	ready := a != nil && a.state == taking
	t.receiving.Unlock()
	if !ready || !a.said.begun {
		return
	}
	if d.ack && told > a.said.ack {
		a.said.ack = told
		_ = t.tellPeer(a.carrier, wire.SessionControl{Type: wire.SessionAck, Number: told})
	}
	if d.ping && asked > a.said.ping {
		a.said.ping = asked
		_ = t.tellPeer(a.carrier, wire.SessionControl{Type: wire.SessionPing, Number: asked})
	}
	if d.pong && asked > a.said.pong {
		a.said.pong = asked
		_ = t.tellPeer(a.carrier, wire.SessionControl{Type: wire.SessionPong, Number: asked})
		t.trim()
	}
	if d.end {
		_ = t.tellPeer(a.carrier, wire.SessionControl{Type: wire.SessionEnd})
	}
}

// tellPeer is sendControl without an allocation, for the pump alone.
func (t *trunk) tellPeer(c Carrier, m wire.SessionControl) error {
	return c.Send(wire.PayloadAttach, wire.Reliable, m.Append(t.message[:0]))
}

func sendControl(c Carrier, m wire.SessionControl) error {
	return c.Send(wire.PayloadAttach, wire.Reliable, m.Append(make([]byte, 0, wire.MaxSessionControl)))
}

// same compares ids in constant time.
func same(a, b *wire.SessionID) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }
