package session

import (
	"fmt"
	"sync"
	"sync/atomic"

	"cuttle/relay/wire"
)

// end is this side of a stream or flow. The methods that take a frame are called
// by Packet: they do not block, and an error ends the session.
type end interface {
	opened() error
	data(p []byte) error
	fin() error
	credit(n uint32) error
	datagram(f wire.SessionFrame) error
	// ended tells that the peer's RESET or the session's end has come.
	ended(code wire.Code)

	// flush appends the control frames that wait, at most maxControl bytes.
	flush(b []byte) []byte
	// flushed tells that they were sent and returns whether the stream is over.
	flushed() bool
	// unread is the number of bytes held for the reader, and of DNS messages.
	unread() int
	// shed ends the stream because it holds too much.
	shed()
}

// maxControl bounds what one end flushes at a time: OPEN, WINDOW, FIN, RESET.
const maxControl = wire.MaxOpenSize + 9 + 5 + 6

// maxRefusals bounds the refused OPENs that wait to be answered; a peer that
// sends more of them than the circuit takes back loses the session.
const maxRefusals = 1024

// backlog tells whether so much waits to be said about streams that no more of
// them may be opened: a peer that opens and resets them, and takes nothing off its
// circuit, would have the list grow for ever.
func (m *mux) backlog() bool {
	c := &m.control
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) >= m.cfg.Streams+maxRefusals
}

type refusal struct {
	id   wire.StreamID
	code wire.Code
}

// control is the list of ends that have something to say. Each is in it once.
type control struct {
	mu       sync.Mutex
	waiting  []entry
	refusals []refusal
	wake     chan struct{} // holds one token when the lists may not be empty
}

type entry struct {
	id wire.StreamID
	e  end
}

// mux is what both sides of a session have in common.
type mux struct {
	trunk   trunk
	cfg     Config
	memory  memory
	control control
	turns   turns
	sending datagrams
	lost    atomic.Uint64                   // datagrams dropped on arrival
	accept  func(f wire.SessionFrame) error // a peer's OPEN; nil at the client
	cut     func()                          // ends the streams that finish has left (exit); may be called twice

	mu     sync.Mutex
	ends   map[wire.StreamID]end
	last   wire.StreamID // highest number opened so far
	closed bool

	done chan struct{}  // closed when the session has ended
	work sync.WaitGroup // every goroutine of the session
}

func newMux(cfg Config) *mux {
	m := &mux{
		cfg:     cfg.withDefaults(),
		control: control{wake: make(chan struct{}, 1)},
		sending: datagrams{wake: make(chan struct{}, 1)},
		ends:    make(map[wire.StreamID]end),
		done:    make(chan struct{}),
	}
	m.trunk.init(m.cfg.Window, m.done)
	if m.cfg.Kept != nil {
		m.trunk.allow = func(slabs int, must bool) bool { return m.cfg.Kept.allow(slabs, must, m.trunk.now != nil) }
	}
	m.trunk.packet, m.trunk.moved = m.packet, m.forgetFragments
	m.memory.limit, m.memory.shared = int64(m.cfg.Budget), m.cfg.Shared
	if m.cfg.Shared != nil {
		m.cfg.Shared.join(m)
	}
	return m
}

// start runs the session's goroutines; they end with the session.
func (m *mux) start() {
	m.work.Go(m.controlLoop)  // ends with the session
	m.work.Go(m.datagramLoop) // ends with the session
	m.work.Go(m.trunk.pump)   // ends with the session
}

// close ends the session and its carrier with everything that it still does, and waits
// for every goroutine.
func (m *mux) close() {
	m.finish(wire.CodeEnded)
	if m.cut != nil {
		m.cut()
	}
	m.work.Wait()
	m.trunk.free()
	if m.cfg.Shared != nil {
		m.cfg.Shared.leave(m)
	}
}

// finish ends the carrier, and every stream with code, once. An exit leaves the streams
// that both sides have ended, whose bytes are on their way to the destination yet; they
// can still be shed.
func (m *mux) finish(code wire.Code) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	ends := m.ends
	m.ends = make(map[wire.StreamID]end)
	m.mu.Unlock()
	close(m.done)
	m.trunk.close()
	left := false
	for id, e := range ends {
		if s, ok := e.(*Stream); ok && m.accept != nil && s.whole() {
			left = true
			m.mu.Lock()
			m.ends[id] = s
			m.mu.Unlock()
			continue
		}
		e.ended(code)
	}
	m.sending.drop()
	if m.cfg.Shared != nil && !left {
		m.cfg.Shared.leave(m)
	}
}

// packet takes a session packet. The trunk calls it, one packet at a time.
func (m *mux) packet(class wire.Class, p []byte) error {
	if len(p) == 0 {
		m.finish(wire.CodeEnded)
		return fmt.Errorf("empty session packet: %w", errProtocol)
	}
	for len(p) > 0 {
		f, rest, err := wire.NextSessionFrame(p)
		if err == nil {
			err = m.frame(class, f)
		}
		if err != nil {
			m.finish(wire.CodeEnded)
			return err
		}
		p = rest
	}
	m.relieve()
	return nil
}

// relieve ends streams as long as more is held than the budgets allow.
func (m *mux) relieve() {
	if m.memory.used.Load() > m.memory.limit {
		m.shed()
	}
	if m.cfg.Shared != nil {
		m.cfg.Shared.relieve()
	}
}

func (m *mux) frame(class wire.Class, f wire.SessionFrame) error {
	if (class == wire.Datagram) != (f.Type == wire.SessionDatagram) {
		return fmt.Errorf("%v in the wrong class: %w", f.Type, errProtocol)
	}
	if f.Type == wire.SessionOpen {
		if m.accept == nil {
			return fmt.Errorf("open from the exit: %w", errProtocol)
		}
		return m.accept(f)
	}
	m.mu.Lock()
	e, last, closed := m.ends[f.Stream], m.last, m.closed
	m.mu.Unlock()
	if closed {
		return net8()
	}
	if e == nil {
		// Of a stream that has ended, frames may still be on their way; a datagram
		// may overtake its OPEN. Anything else for a stream never opened is wrong.
		if f.Stream <= last || class == wire.Datagram {
			return nil
		}
		return fmt.Errorf("%v for a stream never opened: %w", f.Type, errProtocol)
	}
	var err error
	switch f.Type {
	case wire.SessionOpened:
		err = e.opened()
	case wire.SessionReset:
		m.remove(f.Stream)
		e.ended(f.Code)
	case wire.SessionData:
		err = e.data(f.Data)
	case wire.SessionFin:
		err = e.fin()
	case wire.SessionWindow:
		err = e.credit(f.Window)
	case wire.SessionDatagram:
		err = e.datagram(f)
	default:
		err = errProtocol
	}
	if err != nil {
		return fmt.Errorf("%v: %w", f.Type, err)
	}
	return nil
}

// net8 is the error of everything that is done with a session that has ended.
func net8() error { return &Error{wire.CodeEnded} }

// add puts an end that this side opens into the table under the next number.
func (m *mux) add(e func(id wire.StreamID) end) (end, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return nil, net8()
	case len(m.ends) >= m.cfg.Streams || m.backlog():
		return nil, &Error{wire.CodeResources}
	case m.last == ^wire.StreamID(0):
		return nil, errNumbers
	}
	m.last++
	n := e(m.last)
	m.ends[m.last] = n
	// In the control list before the lock is given up: numbers grow on the wire.
	m.say(m.last, n)
	return n, nil
}

// admit puts an end that the peer opens into the table. It tells whether the
// table had room; a number that does not grow is an error.
func (m *mux) admit(id wire.StreamID, room bool, e func() end) (end, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, net8()
	}
	if id <= m.last {
		return nil, fmt.Errorf("stream number used twice: %w", errProtocol)
	}
	if m.backlog() {
		return nil, fmt.Errorf("streams opened faster than answers are taken: %w", errProtocol)
	}
	m.last = id
	if !room || len(m.ends) >= m.cfg.Streams {
		return nil, nil
	}
	n := e()
	m.ends[id] = n
	return n, nil
}

func (m *mux) remove(id wire.StreamID) {
	m.mu.Lock()
	delete(m.ends, id)
	m.mu.Unlock()
}

// dropped counts datagrams that a full queue or an incomplete assembly has cost.
func (m *mux) dropped() uint64 { return m.sending.dropped.Load() + m.lost.Load() }

func (m *mux) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ends)
}

// shed ends the stream that holds most, since there is too much, or drops the datagrams
// that wait to be sent if they are more, and tells whether there was anything.
func (m *mux) shed() bool {
	m.mu.Lock()
	ends := make([]end, 0, len(m.ends))
	for _, e := range m.ends {
		ends = append(ends, e)
	}
	m.mu.Unlock()
	var worst end
	most := 0
	for _, e := range ends {
		if n := e.unread(); n > most {
			worst, most = e, n
		}
	}
	if m.sending.shed(most) {
		return true
	}
	if worst == nil {
		return false
	}
	worst.shed()
	return true
}

// say notes that e has control frames to send. The caller makes sure that an end
// is noted once until it has been flushed.
func (m *mux) say(id wire.StreamID, e end) {
	c := &m.control
	c.mu.Lock()
	c.waiting = append(c.waiting, entry{id, e})
	c.mu.Unlock()
	c.signal()
}

// refuse answers an OPEN that is not served.
func (m *mux) refuse(id wire.StreamID, code wire.Code) error {
	c := &m.control
	c.mu.Lock()
	full := len(c.refusals) >= maxRefusals
	if !full {
		c.refusals = append(c.refusals, refusal{id, code})
	}
	c.mu.Unlock()
	if full {
		return fmt.Errorf("too many streams refused: %w", errProtocol)
	}
	c.signal()
	return nil
}

func (c *control) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take swaps the lists for empty ones of the caller's.
func (c *control) take(waiting []entry, refusals []refusal) ([]entry, []refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting, c.waiting = c.waiting, waiting[:0]
	refusals, c.refusals = c.refusals, refusals[:0]
	return waiting, refusals
}

// controlLoop sends what streams have to say besides data, many frames to a packet.
func (m *mux) controlLoop() {
	var waiting []entry
	var refusals []refusal
	packet := make([]byte, 0, wire.SessionPacketSize)
	for {
		select {
		case <-m.control.wake:
		case <-m.done:
			return
		}
		waiting, refusals = m.control.take(waiting, refusals)
		if m.speak(packet, waiting, refusals) != nil {
			return
		}
		clear(waiting) // keep no stream alive
	}
}

// speak sends the control frames of one batch and then tells the ends so. packet
// is an empty buffer.
func (m *mux) speak(packet []byte, waiting []entry, refusals []refusal) error {
	sent := 0 // waiting[:sent] have been told
	send := func(flushed int) error {
		if len(packet) > 0 {
			if err := m.trunk.send(packet); err != nil {
				return err
			}
			packet = packet[:0]
		}
		for ; sent < flushed; sent++ {
			if waiting[sent].e.flushed() {
				m.remove(waiting[sent].id)
			}
		}
		return nil
	}
	for _, r := range refusals {
		if len(packet)+maxControl > wire.SessionPacketSize {
			if err := send(0); err != nil {
				return err
			}
		}
		packet = wire.AppendReset(packet, r.id, r.code)
	}
	for i, w := range waiting {
		if len(packet)+maxControl > wire.SessionPacketSize {
			if err := send(i); err != nil {
				return err
			}
		}
		packet = w.e.flush(packet)
	}
	return send(len(waiting))
}
