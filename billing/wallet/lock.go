package wallet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process holds a wallet's lock.
var ErrLocked = errors.New("the wallet is in use")

// Held is a wallet's lock, held until Release or the end of the process,
// however it ends.
type Held struct{ file *os.File }

// Lock takes the lock of the keystore file at path, so that one process alone
// uses its nonces. It never waits: ErrLocked if somebody holds it. The lock is
// flock(2) on the keystore file itself, since its folder may be read-only; it
// sees neither a copy of the file nor another machine, where only the chain's
// nonces tell.
func Lock(path string) (*Held, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lock wallet %s: %w: make one with `cuttle wallet new`, or correct billing.consuming", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock wallet: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w by another process: stop it, or give it a wallet of its own", ErrLocked)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock wallet %s: %w", path, err)
	}
	return &Held{f}, nil
}

// Release gives the lock back; more than once is the same as once.
func (h *Held) Release() {
	h.file.Close() // the kernel drops the lock with the last descriptor
}
