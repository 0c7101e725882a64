package session

import (
	"fmt"

	"cuttle/relay/wire"
)

// This file is the side of a Stream that the session sees: frames that arrive,
// and control frames that leave.

// opened takes the exit's OPENED.
func (s *Stream) opened() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote.answered && s.failure == nil {
		return fmt.Errorf("opened twice: %w", errProtocol)
	}
	if s.failure == nil {
		s.remote.answered = true
		close(s.ready)
	}
	return nil
}

// data takes bytes of the peer into the stream's chunks.
func (s *Stream) data(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failure != nil:
		return nil // our RESET is on its way
	case !s.remote.answered:
		return fmt.Errorf("data before opened: %w", errProtocol)
	case s.remote.fin:
		return fmt.Errorf("data after fin: %w", errProtocol)
	case !s.window.receive(len(p)):
		return fmt.Errorf("window overrun: %w", errProtocol)
	case s.local.readClosed:
		s.consumed(len(p))
	case s.local.closed:
		s.fail(wire.CodeReset, true)
	default:
		first := s.in.empty()
		s.in.write(&s.m.memory, p)
		if first {
			s.readable.Broadcast()
		}
	}
	return nil
}

// fin takes the end of the peer's direction.
func (s *Stream) fin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failure != nil:
		return nil
	case !s.remote.answered:
		return fmt.Errorf("fin before opened: %w", errProtocol)
	case s.remote.fin:
		return fmt.Errorf("fin twice: %w", errProtocol)
	}
	s.remote.fin = true
	s.out.window = 0
	s.release()
	s.readable.Broadcast()
	if s.finished() {
		s.note() // the control loop takes it off the table
	}
	return nil
}

// credit takes the peer's leave to send more.
func (s *Stream) credit(n uint32) error {
	s.mu.Lock()
	first := s.credits == wire.StreamWindow // neither granted more nor used any
	s.credits += int64(n)
	window := s.credits
	s.writable.Broadcast()
	s.mu.Unlock()
	if window > maxCredit {
		return fmt.Errorf("window too large: %w", errProtocol)
	}
	if first {
		s.m.trunk.expect(window)
	}
	return nil
}

func (s *Stream) datagram(wire.SessionFrame) error {
	return fmt.Errorf("datagram for a stream: %w", errProtocol)
}

// ended takes the peer's RESET, or the session's end.
func (s *Stream) ended(code wire.Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(code, false)
	s.out.reset = false
}

// whenFailed sets what is called, once, when the stream fails. It must not block.
func (s *Stream) whenFailed(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onFail = do; s.failure != nil {
		do()
	}
}

// note has the control loop call flush and flushed. Called with mu held.
func (s *Stream) note() {
	if !s.out.noted {
		s.out.noted = true
		s.m.say(s.id, s)
	}
}

// announce has OPENED sent: the exit has connected the destination.
func (s *Stream) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.out.announce = true
		s.note()
	}
}

func (s *Stream) flush(b []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.out
	o.noted = false
	if o.announce {
		o.announce, o.announcing = false, true
		b = o.opening(b)
	}
	if o.window > 0 {
		b = wire.AppendWindow(b, s.id, o.window)
		o.window = 0
	}
	if o.fin && (o.announced || o.announcing) {
		o.fin, o.finishing = false, true
		b = wire.AppendFin(b, s.id)
	}
	if o.reset {
		o.reset = false
		b = wire.AppendReset(b, s.id, o.code)
	}
	return b
}

func (s *Stream) flushed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.out
	if o.announcing {
		o.announcing, o.announced = false, true
		s.writable.Broadcast()
	}
	if o.finishing {
		o.finishing, o.finished = false, true
	}
	if s.finished() {
		s.release()
	}
	return !o.noted && (s.failure != nil || s.finished())
}

func (s *Stream) unread() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local.closed || s.failure != nil {
		return 0
	}
	return s.window.unread() + int(s.served.Load())
}

// shed ends the stream: the session is over its budget and this one holds most.
func (s *Stream) shed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(wire.CodeResources, true)
	s.dropIn()
}
