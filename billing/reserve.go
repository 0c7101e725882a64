package billing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// When the disk is full, what is under way must still be written down: counts that
// were agreed, payments that are out, vouchers that came. So a file beside the
// ledger holds space for that. It is given up when a write fails for want of
// space; from then on nothing new begins (no circuit that a neighbor would pay, no
// payment, no voucher, no deposit) until the disk has twice the space again. Debts
// and payments are what they were then, and service goes on.

// ErrFull says that nothing new begins, for want of space for the ledger.
var ErrFull = errors.New("no space for the ledger")

const (
	reserveSuffix = ".reserve"
	reserveSize   = 1 << 20          // bytes
	regainEvery   = time.Second      // between looks for space to have it again
	regainMost    = 10 * time.Second // the same, when space was there and could not be had
)

// reserve is the file. The writer goroutine uses it, and who opens the ledger.
type reserve struct {
	path  string
	tried time.Time
	pause time.Duration // to the next try
}

// hold makes sure that the file is there, and when it was not, that there is as
// much space beside it: the reserve alone would be the space that it has just
// given up.
func (r *reserve) hold() error {
	if info, err := os.Stat(r.path); err == nil && info.Size() == reserveSize {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("reserve space for the ledger: %w", err)
	}
	noise := make([]byte, 64<<10) // no file system keeps it as less
	fill := rand.NewChaCha8([32]byte{1})
	for n := 0; n < 2*reserveSize && err == nil; n += len(noise) {
		_, _ = fill.Read(noise) // never fails
		_, err = f.Write(noise)
	}
	if err == nil {
		err = f.Truncate(reserveSize)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("reserve space for the ledger: %w", err), os.Remove(r.path))
	}
	return nil
}

// give gives the space up; false if there is none to give.
func (r *reserve) give() bool { return os.Remove(r.path) == nil }

// outOfSpace tells whether a write has failed for want of space.
func outOfSpace(err error) bool {
	const (
		full      = 13         // SQLITE_FULL
		noSHMSize = 10 | 19<<8 // SQLITE_IOERR_SHMSIZE
		primary   = 0xff       // of an extended code
	)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	var code interface{ Code() int }
	return errors.As(err, &code) && (code.Code()&primary == full || code.Code() == noSHMSize)
}

// relieve gives up the reserve after a write that had no space, and has the
// write-ahead log begin at its start again; false if it is gone already.
func (l *ledger) relieve(err error) bool {
	if !outOfSpace(err) {
		return false
	}
	l.full.Store(true)
	if !l.reserve.give() {
		return false
	}
	// What it cannot move stays in the log, which is as good.
	_, _ = l.write.ExecContext(context.Background(), "PRAGMA wal_checkpoint(RESTART)")
	return true
}

// regain ends the time without space when there is enough again. It writes only
// where the file system says that there is: a disk that is full wears out no
// faster for it. A quota does not show there, so tries become rare.
func (l *ledger) regain() {
	r := &l.reserve
	now := time.Now()
	if !l.full.Load() || now.Sub(r.tried).Abs() < max(r.pause, regainEvery) {
		return
	}
	r.tried = now
	if !r.room() {
		r.pause = 0
		return
	}
	if r.hold() == nil {
		r.pause = 0
		l.full.Store(false)
		return
	}
	r.pause = min(max(2*r.pause, regainEvery), regainMost)
}

// room tells whether the file system has space for the reserve and as much
// again, as far as it says.
func (r *reserve) room() bool {
	var s syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(r.path), &s); err != nil {
		return true // hold says what is wrong
	}
	return s.Bavail >= 2*reserveSize/uint64(max(s.Bsize, 1)) //nolint:gosec // at least 1
}

// fullProblem says in words that nothing new begins; "" while there is space.
func (l *ledger) fullProblem() string {
	if !l.full.Load() {
		return ""
	}
	return fmt.Sprintf("there is no space for the ledger %s: no circuits are taken that neighbors would pay, and no payment begins, until %d MiB are free; what is under way goes on",
		l.path, 2*reserveSize>>20)
}
