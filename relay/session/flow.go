package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// Flow is one UDP flow: a net.Conn of which a Read or Write is one datagram of
// at most 65535 bytes. It is opened to one destination; a flow of UDP also has
// datagrams for other peers and from them, which Send and Receive name. Both
// directions drop the oldest datagrams when their bounded queues are full. A
// datagram of which a fragment is lost or late is lost. Whoever has a Flow calls
// Close in the end.
type Flow struct {
	m      *mux
	id     wire.StreamID
	dst    wire.Destination // of OPEN; none in some tests
	peers  bool             // others may speak, too
	number uint16           // of the next datagram in fragments; datagramLoop's

	ready chan struct{} // closed when the exit has answered, or the flow ended
	sent  chan struct{} // closed when the flow has been announced, or ended
	dead  atomic.Bool   // failure is set

	mu       sync.Mutex // guards the rest
	readable sync.Cond
	queue    ring
	partial  *datagram     // fragments so far
	awaited  wire.Fragment // the next of them
	failure  error         // *Error
	closed   bool          // Close was called: reads give net.ErrClosed
	answered bool          // ready is closed
	told     bool          // sent is closed
	out      outgoing
	readBy   deadline
	onFail   func() // once, when failure is set; must not block
	heard    func() // on each datagram that arrives; must not block
}

func newFlow(m *mux, id wire.StreamID) *Flow {
	f := &Flow{m: m, id: id, ready: make(chan struct{}), sent: make(chan struct{})}
	f.readable.L = &f.mu
	return f
}

// Read takes one datagram, whoever sent it; what does not fit into p is lost, as
// with UDP.
func (f *Flow) Read(p []byte) (int, error) {
	n, _, err := f.Receive(p)
	return n, err
}

// Receive is Read, and names the sender.
func (f *Flow) Receive(p []byte) (n int, from netip.AddrPort, err error) {
	d, err := f.next()
	if err != nil {
		return 0, from, err
	}
	defer d.release()
	return copy(p, d.b), f.peerOf(d), nil
}

// peerOf is to or from whom a datagram is.
func (f *Flow) peerOf(d *datagram) netip.AddrPort {
	if d.peer.IsZero() {
		return f.dst.Reveal()
	}
	return d.peer.Reveal()
}

// WriteTo gives each datagram that arrives to w with one Write, until either fails;
// the error is never nil. Nothing is held while it waits.
func (f *Flow) WriteTo(w io.Writer) (n int64, err error) {
	err = f.Each(func(p []byte, _ netip.AddrPort) error {
		k, err := w.Write(p)
		n += int64(k)
		return err
	})
	return n, err
}

// Each calls take with each datagram that arrives and its sender, until take or the
// flow fails; the error is never nil, and take does not keep p. Nothing is held
// while it waits.
func (f *Flow) Each(take func(p []byte, from netip.AddrPort) error) error {
	for {
		d, err := f.next()
		if err != nil {
			return err
		}
		err = take(d.b, f.peerOf(d))
		d.release()
		if err != nil {
			return err
		}
	}
}

// next waits for a datagram; the caller releases it.
func (f *Flow) next() (*datagram, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.closed:
			return nil, net.ErrClosed
		case f.readBy.passed:
			return nil, os.ErrDeadlineExceeded
		}
		if d := f.queue.pop(); d != nil {
			f.m.memory.free(cap(d.b))
			return d, nil
		}
		if f.failure != nil {
			return nil, f.failure
		}
		f.readable.Wait()
	}
}

// Write queues one datagram of at most 65535 bytes for the destination that the
// flow was opened to, and never waits.
func (f *Flow) Write(p []byte) (int, error) {
	if err := f.push(p, wire.Destination{}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Send is Write to any peer; the exit says (to nobody) whether it may have it.
func (f *Flow) Send(p []byte, to netip.AddrPort) error {
	if to == f.dst.Reveal() {
		return f.push(p, wire.Destination{})
	}
	if !to.IsValid() || !f.peers {
		return errPeer
	}
	return f.push(p, wire.NewDestination(to))
}

func (f *Flow) push(p []byte, peer wire.Destination) error {
	if len(p) > maxDatagram {
		return errSize
	}
	if f.dead.Load() {
		return f.Err()
	}
	d := newDatagram()
	d.flow, d.peer, d.b = f, peer, append(d.b, p...)
	f.m.sending.push(d)
	return nil
}

// Opened waits until the exit has a socket for the flow; an *Error says why it
// has none. Datagrams may be written before.
func (f *Flow) Opened(ctx context.Context) error {
	select {
	case <-f.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	return f.Err()
}

// Close ends the flow.
func (f *Flow) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return net.ErrClosed
	}
	f.fail(wire.CodeEnded, true)
	f.closed = true
	f.drop()
	f.readable.Broadcast()
	return nil
}

// reset ends the flow with a code.
func (f *Flow) reset(code wire.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail(code, true)
}

// Err is nil while the flow is open, and an *Error afterwards.
func (f *Flow) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failure
}

func (f *Flow) over() bool { return f.dead.Load() }

// fail ends the flow. Called with mu held.
func (f *Flow) fail(code wire.Code, tell bool) {
	if f.failure != nil {
		return
	}
	f.failure = &Error{code}
	f.dead.Store(true)
	unheard := f.out.announce && f.out.opens
	f.out.announce = false
	if tell && !unheard {
		f.out.reset, f.out.code = true, code
		f.note()
	}
	if !f.answered {
		f.answered = true
		close(f.ready)
	}
	f.tell()
	if f.onFail != nil {
		f.onFail()
	}
	f.readable.Broadcast()
}

func (f *Flow) tell() {
	if !f.told {
		f.told = true
		close(f.sent)
	}
}

// drop frees what waits to be read. Called with mu held.
func (f *Flow) drop() {
	for d := f.queue.pop(); d != nil; d = f.queue.pop() {
		f.m.memory.free(cap(d.b))
		d.release()
	}
	f.dropPartial()
}

func (f *Flow) dropPartial() {
	if f.partial != nil {
		f.discard(f.partial)
		f.partial = nil
	}
}

// discard frees a datagram that waits for nobody.
func (f *Flow) discard(d *datagram) {
	f.m.memory.free(cap(d.b))
	d.release()
}

// begin makes room for a datagram that arrives, grow adds to it; false if it or
// the session's receive buffers get too large. Called with mu held.
func (f *Flow) begin(peer wire.Destination) *datagram {
	d := newDatagram()
	d.peer = peer
	f.m.memory.hold(cap(d.b))
	return d
}

func (f *Flow) grow(d *datagram, p []byte) bool {
	if len(d.b)+len(p) > maxDatagram {
		return false
	}
	before := cap(d.b)
	d.b = append(d.b, p...)
	return f.m.memory.hold(cap(d.b) - before)
}

// datagram takes a datagram, or a fragment; the last one makes a datagram of them.
func (f *Flow) datagram(frame wire.SessionFrame) error {
	peer, part := frame.Destination, frame.Fragment
	if !peer.IsZero() && (!f.peers || peer.Reveal() == f.dst.Reveal()) {
		return fmt.Errorf("peer of a flow that has none: %w", errProtocol)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return nil
	}
	if !part.Part {
		d := f.begin(peer)
		if !f.grow(d, frame.Data) {
			f.discard(d)
			f.m.lost.Add(1)
			return nil
		}
		f.deliver(d)
		return nil
	}
	f.assemble(part, peer, frame.Data)
	return nil
}

// assemble takes a fragment. What comes out of turn is lost, and the datagram with
// it. Called with mu held.
func (f *Flow) assemble(part wire.Fragment, peer wire.Destination, p []byte) {
	if part.Place == 0 {
		if f.partial != nil {
			f.m.lost.Add(1)
			f.dropPartial()
		}
		f.partial, f.awaited = f.begin(peer), part
	}
	if f.partial == nil || part.Number != f.awaited.Number {
		return // of one that was given up
	}
	if part.Place != f.awaited.Place || !f.grow(f.partial, p) {
		f.m.lost.Add(1)
		f.dropPartial()
		return
	}
	f.awaited.Place++
	if part.Last {
		d := f.partial
		f.partial = nil
		f.deliver(d)
	}
}

// whenFailed sets what is called, once, when the flow fails. It must not block.
func (f *Flow) whenFailed(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onFail = do; f.failure != nil {
		do()
	}
}

// deliver queues a whole datagram for the reader. Called with mu held.
func (f *Flow) deliver(d *datagram) {
	f.queue.push(d)
	for f.queue.bytes > flowBytes || f.queue.len() > flowCount {
		old := f.queue.pop()
		f.m.memory.free(cap(old.b))
		old.release()
		f.m.lost.Add(1)
	}
	if f.heard != nil {
		f.heard()
	}
	f.readable.Broadcast()
}

func (f *Flow) opened() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		return nil
	}
	if f.answered {
		return fmt.Errorf("opened twice: %w", errProtocol)
	}
	f.answered = true
	close(f.ready)
	return nil
}

func (f *Flow) data([]byte) error   { return fmt.Errorf("data for a flow: %w", errProtocol) }
func (f *Flow) fin() error          { return fmt.Errorf("fin for a flow: %w", errProtocol) }
func (f *Flow) credit(uint32) error { return fmt.Errorf("window for a flow: %w", errProtocol) }

// ended takes the peer's RESET, or the session's end.
func (f *Flow) ended(code wire.Code) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail(code, false)
	f.out.reset = false
}

func (f *Flow) note() {
	if !f.out.noted {
		f.out.noted = true
		f.m.say(f.id, f)
	}
}

// announce has OPENED sent: the exit has a socket.
func (f *Flow) announce() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure == nil {
		f.out.announce = true
		f.note()
	}
}

func (f *Flow) flush(b []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out.noted = false
	if f.out.announce {
		f.out.announce, f.out.announcing = false, true
		b = f.out.opening(b)
	}
	if f.out.reset {
		f.out.reset = false
		b = wire.AppendReset(b, f.id, f.out.code)
	}
	return b
}

func (f *Flow) flushed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.out.announcing {
		f.out.announcing, f.out.announced = false, true
		f.tell()
	}
	return !f.out.noted && f.failure != nil
}

func (f *Flow) unread() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.queue.bytes
	if f.partial != nil {
		n += cap(f.partial.b)
	}
	return n
}

// shed drops what waits: the session is over its budget and this flow holds most.
func (f *Flow) shed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m.lost.Add(uint64(f.queue.len()))
	f.drop()
}

// LocalAddr shows nothing.
func (f *Flow) LocalAddr() net.Addr { return hiddenAddr{} }

// RemoteAddr shows nothing.
func (f *Flow) RemoteAddr() net.Addr { return hiddenAddr{} }

// SetDeadline sets the read deadline; writes never wait.
func (f *Flow) SetDeadline(t time.Time) error { return f.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes never wait.
func (f *Flow) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline ends reads with os.ErrDeadlineExceeded from t on; the zero
// time means never.
func (f *Flow) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readBy.set(t, &f.mu, f.readable.Broadcast)
	return nil
}

// String names a flow by its number, never by where it goes.
func (f *Flow) String() string { return fmt.Sprintf("flow %d", f.id) }

var (
	_ net.Conn      = (*Flow)(nil)
	_ net.Conn      = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Flow)(nil)
)
