package session

import (
	"sync"
	"time"
)

// deadline is a point in time after which waiting ends. Its fields are guarded
// by the mutex that set is given.
type deadline struct {
	passed bool
	timer  *time.Timer
	calls  uint64 // counts calls of set, so that a late timer does nothing
}

// set replaces the deadline; the zero time means none. Called with mu held; wake
// is called with mu held when the time has come.
func (d *deadline) set(t time.Time, mu *sync.Mutex, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.calls++
	d.passed = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		wake()
		return
	}
	current := d.calls
	d.timer = time.AfterFunc(left, func() {
		mu.Lock()
		defer mu.Unlock()
		if d.calls == current {
			d.passed = true
			wake()
		}
	})
}

// SetDeadline sets both deadlines; see SetReadDeadline and SetWriteDeadline.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline ends reads with os.ErrDeadlineExceeded from t on; the zero
// time means never.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy.set(t, &s.mu, s.readable.Broadcast)
	return nil
}

// SetWriteDeadline ends waiting for the peer's credit with
// os.ErrDeadlineExceeded from t on; the zero time means never.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy.set(t, &s.mu, s.writable.Broadcast)
	return nil
}
