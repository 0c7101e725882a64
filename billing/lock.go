package billing

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process has the ledger open to write it.
var ErrInUse = errors.New("the ledger is in use")

const lockSuffix = ".lock"

// lockLedger takes the lock of a ledger, so that one process alone writes it: two
// would each pay what the other has paid. It never waits. The lock is flock(2) on
// a file beside it, since SQLite's own locks would go with any descriptor of the
// ledger that is closed; it ends with the process, however that ends. Without
// create a lock that nobody has ever taken is nobody's: nil.
func lockLedger(path string, create bool) (*os.File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path+lockSuffix, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return nil, nil //nolint:nilnil // nothing to hold, and the one caller closes what there is
	}
	if err != nil {
		return nil, fmt.Errorf("lock ledger: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w by another process: stop that one first, or give each cuttled a node.state of its own", ErrInUse)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock ledger %s: %w", path, err), f.Close())
	}
	return f, nil
}
