package session

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

const (
	maxData   = wire.SessionPacketSize - wire.DataOverhead // bytes of one full DATA frame
	maxCredit = 1 << 40                                    // more than a peer can sensibly grant
	writeTurn = 256 << 10                                  // bytes written between two looks at the stream's state
	readTurn  = 16                                         // chunks passed on at a time by WriteTo
)

// Stream is one TCP or DNS stream: a net.Conn whose two directions end apart.
// Reads and writes may run at the same time, each from any number of goroutines.
// Whoever has a Stream calls Close or Reset in the end.
//
//	            Write ... CloseWrite -> FIN sent      \
//	opening ->  Read ... io.EOF      <- FIN received   > over
//	            Reset -> RESET sent, or RESET received/
//
// After the peer's RESET, or the session's end, reads give what had arrived and
// then an *Error.
type Stream struct {
	m     *mux
	id    wire.StreamID
	ready chan struct{} // closed when the far end has answered, or the stream ended
	dead  atomic.Bool   // failure is set

	served atomic.Int64 // bytes of DNS messages that the exit reads from it, answers, or writes to it

	writing sync.Mutex // puts writers in a row
	place   place      // among the session's streams that send; guarded by writing

	reading sync.Mutex // puts readers in a row; guards held while state.busyRead
	held    chunks     // taken from in, not yet read

	mu                 sync.Mutex // guards the rest
	readable, writable sync.Cond
	in                 chunks // from Packet
	window             window
	credits            int64 // bytes we may send
	failure            error // *Error once reset by either side or by the session's end
	local              localState
	remote             remoteState
	out                outgoing
	readBy, writeBy    deadline
	onFail             func()      // once, when failure is set; must not block
	linger             *time.Timer // after Close, until the peer's FIN
}

// localState is what this side's program has done.
type localState struct {
	readClosed, writeClosed, closed bool
	busyRead, busyWrite             bool // a reader owns held; a writer's DATA may be on its way
}

// remoteState is what the peer has done.
type remoteState struct{ answered, fin bool }

// outgoing is what control frames wait, and which have been sent.
type outgoing struct {
	noted                 bool                  // in the control list
	announce, fin, reset  bool                  // to be sent: OPEN or OPENED, FIN, RESET
	announcing, finishing bool                  // being sent
	announced, finished   bool                  // sent: DATA may follow; no more DATA
	window                uint32                // credit to be granted
	opens                 bool                  // what announces the stream is OPEN
	opening               func(b []byte) []byte // appends OPEN or OPENED
	code                  wire.Code             // of RESET
}

func newStream(m *mux, id wire.StreamID) *Stream {
	s := &Stream{
		m:       m,
		id:      id,
		ready:   make(chan struct{}),
		place:   place{ready: make(chan struct{}, 1)},
		window:  newWindow(m.cfg.MaxWindow),
		credits: wire.StreamWindow,
	}
	s.readable.L, s.writable.L = &s.mu, &s.mu
	return s
}

// Read takes what has arrived, at most len(p) bytes, and waits only if that is
// nothing. io.EOF means that the peer has ended its direction.
func (s *Stream) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	err = s.fetch(true)
	for err == nil && n < len(p) && !s.held.empty() {
		k := s.held.read(&s.m.memory, p[n:])
		n += k
		s.mu.Lock()
		s.consumed(k)
		s.mu.Unlock()
		if n < len(p) {
			_ = s.fetch(false)
		}
	}
	s.readDone()
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// WriteTo reads until io.EOF and writes to w, in pieces of up to 256 KiB (one
// system call if w is a socket) and without copying. Credit is granted to the
// peer as w takes the bytes.
func (s *Stream) WriteTo(w io.Writer) (total int64, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	defer s.readDone()
	vector := make([][]byte, 0, readTurn)
	var buffers net.Buffers
	for {
		if err := s.fetch(true); errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return total, err
		}
		for !s.held.empty() {
			buffers = s.held.vector(vector[:0], readTurn)
			n, err := writeVector(w, &buffers)
			total += n
			s.held.skip(&s.m.memory, int(n))
			s.mu.Lock()
			s.consumed(int(n))
			s.mu.Unlock()
			if err != nil {
				return total, err
			}
		}
	}
}

// vectorWriter is a writer that takes many buffers at once, and what it has written
// from them, as net.Buffers.WriteTo does.
type vectorWriter interface {
	WriteVector(v *net.Buffers) (int64, error)
}

func writeVector(w io.Writer, v *net.Buffers) (int64, error) {
	if to, ok := w.(vectorWriter); ok {
		return to.WriteVector(v)
	}
	return v.WriteTo(w)
}

// fetch makes sure that held has bytes, if there are any, waiting for them when
// told so. The caller holds reading, and calls readDone in the end.
func (s *Stream) fetch(wait bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local.busyRead = true
	for {
		switch {
		case s.local.closed || s.local.readClosed:
			return net.ErrClosed
		case s.readBy.passed:
			return os.ErrDeadlineExceeded
		case !s.held.empty():
			return nil
		case !s.in.empty():
			s.held, s.in = s.in, chunks{}
			return nil
		case s.remote.fin:
			return io.EOF
		case s.failure != nil:
			return s.failure
		case !wait:
			return nil
		}
		s.readable.Wait()
	}
}

// readDone ends a reader's ownership of held.
func (s *Stream) readDone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local.busyRead = false
	if s.local.closed || s.local.readClosed {
		s.consumed(s.held.drop(&s.m.memory))
	}
}

// consumed counts n bytes as read and grants the peer more. Called with mu held.
func (s *Stream) consumed(n int) {
	grant := s.window.consume(n, &s.m.memory)
	if grant > 0 && !s.remote.fin && s.failure == nil {
		s.out.window += uint32(grant)
		s.note()
	}
	if s.finished() {
		s.note() // the control loop takes it off the table
	}
}

// Write sends p in DATA frames that fill a packet each. It waits for the peer's
// credit, while the circuit is backed up and while the session's window is full; a deadline ends the first wait only.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	for n < len(p) {
		k, err := s.take(len(p) - n)
		if err != nil {
			return n, err
		}
		sent, err := s.send(p[n : n+k])
		n += sent
		s.wrote()
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// ReadFrom writes what r gives until io.EOF, through a pooled buffer of 64 KiB.
func (s *Stream) ReadFrom(r io.Reader) (total int64, err error) {
	b := bufferPool.Get().(*buffer)
	defer bufferPool.Put(b)
	for {
		n, readErr := r.Read(b[:])
		if n > 0 {
			k, err := s.Write(b[:n])
			total += int64(k)
			if err != nil {
				return total, err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return total, nil
		}
		if readErr != nil {
			return total, readErr
		}
	}
}

// take waits for credit and takes up to n bytes of it.
func (s *Stream) take(n int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.failure != nil:
			return 0, s.failure
		case s.local.writeClosed:
			return 0, net.ErrClosed
		case s.writeBy.passed:
			return 0, os.ErrDeadlineExceeded
		case s.out.announced && s.credits > 0:
			n = int(min(int64(n), s.credits, writeTurn))
			s.credits -= int64(n)
			s.local.busyWrite = true
			return n, nil
		}
		s.writable.Wait()
	}
}

// send has p sent, turn by turn; the credit for it has been taken.
func (s *Stream) send(p []byte) (n int, err error) {
	turns := &s.m.turns
	turns.enter(&s.place)
	defer turns.leave()
	for n < len(p) && !s.dead.Load() { // the next take says why
		k, err := s.m.trunk.write(s.id, p[n:])
		if n += k; err != nil {
			return n, err
		}
		if n < len(p) && turns.waited() {
			turns.leave()
			turns.enter(&s.place)
		}
	}
	return n, nil
}

// wrote tells that no DATA of ours is on its way; a FIN may have waited for that.
func (s *Stream) wrote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local.busyWrite = false
	if s.local.writeClosed && s.failure == nil {
		s.out.fin = true
		s.note()
	}
}

// CloseWrite ends the sending direction: the peer reads io.EOF after what has
// been written. Reading goes on.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return s.failure
	}
	s.closeWrite()
	return nil
}

func (s *Stream) closeWrite() {
	if s.local.writeClosed {
		return
	}
	s.local.writeClosed = true
	s.writable.Broadcast()
	if !s.local.busyWrite {
		s.out.fin = true
		s.note()
	}
}

// CloseRead drops what has arrived and will arrive. The peer can go on sending, for a
// while also after Close.
func (s *Stream) CloseRead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local.readClosed = true
	s.readable.Broadcast()
	s.dropIn()
	return nil
}

// dropIn frees the bytes nobody will read, but those a reader is at: readDone
// does that. Called with mu held.
func (s *Stream) dropIn() {
	n := s.in.drop(&s.m.memory)
	if !s.local.busyRead {
		n += s.held.drop(&s.m.memory)
	}
	s.consumed(n)
}

// Close ends the stream as closing a socket does: with FIN when everything that
// arrived has been read, with RESET otherwise or when more arrives later, and with RESET
// when the peer does not end its direction within Config.Linger.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local.closed {
		return net.ErrClosed
	}
	unread := s.window.unread() > 0 && !s.local.readClosed
	s.local.closed = true
	s.readable.Broadcast()
	s.writable.Broadcast()
	switch {
	case s.failure != nil || s.finished():
	case unread:
		s.fail(wire.CodeReset, true)
	default:
		s.closeWrite()
		if !s.remote.fin {
			s.linger = time.AfterFunc(s.m.cfg.Linger, func() { s.Reset(wire.CodeEnded) })
		}
	}
	s.dropIn()
	return nil
}

// Reset ends both directions at once and drops what has not been read. The peer
// sees code. It does nothing to a stream that is over.
func (s *Stream) Reset(code wire.Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(code, true)
	s.local.closed = true
	s.dropIn()
}

// fail sets the failure, wakes everybody and, if told so, has a RESET sent.
// Called with mu held.
func (s *Stream) fail(code wire.Code, tell bool) {
	if s.failure != nil || s.finished() {
		return
	}
	s.failure = &Error{code}
	s.dead.Store(true)
	// A peer that never heard of the stream need not hear of its end.
	unheard := s.out.announce && s.out.opens
	s.out.announce, s.out.fin, s.out.window = false, false, 0
	if tell && !unheard {
		s.out.reset, s.out.code = true, code
		s.note()
	}
	s.release()
	if !s.remote.answered {
		s.remote.answered = true
		close(s.ready)
	}
	if s.onFail != nil {
		s.onFail()
	}
	s.readable.Broadcast()
	s.writable.Broadcast()
}

// release gives back what a stream that is over has no more use for.
func (s *Stream) release() {
	s.window.close(&s.m.memory)
	if s.linger != nil {
		s.linger.Stop()
	}
}

// finished tells whether both FINs have passed and everything has been read: a
// stream stays on the table, where it can be shed, as long as it holds bytes.
func (s *Stream) finished() bool {
	return s.remote.fin && s.out.finished && (s.window.unread() == 0 || s.local.closed)
}

// whole tells whether both FINs have passed, and so all that either side has sent: ours
// may have arrived before flushed tells that it was sent.
func (s *Stream) whole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure == nil && s.remote.fin && (s.out.finishing || s.out.finished)
}

// Err says how the stream ended: nil while it is open or if both sides ended it
// with FIN, an *Error after a RESET.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// LocalAddr shows nothing.
func (s *Stream) LocalAddr() net.Addr { return hiddenAddr{} }

// RemoteAddr shows nothing.
func (s *Stream) RemoteAddr() net.Addr { return hiddenAddr{} }

// String names a stream by its number, never by where it goes.
func (s *Stream) String() string { return fmt.Sprintf("stream %d", s.id) }
