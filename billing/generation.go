package billing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A ledger has a generation, a number that grows when it is opened and closed
// and with each payment. It is in the ledger and, beside it, in a small file of
// its own. Who puts back an older copy of the ledger has the newer number in
// that file: what the copy does not know to be paid would be paid again. A crash
// between the two writes leaves the older number in the file, which is fine. A
// copy of both files is not noticed here; neighbors notice it (docs/protocol.md
// section 7.2).

// ErrOlder says that a ledger is an older copy.
var ErrOlder = errors.New("the ledger is an older copy")

const generationSuffix = ".generation"

func readGeneration(path string) (uint64, error) {
	b, err := os.ReadFile(path + generationSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read generation: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%s is not a number: if nobody has put back an older ledger, remove that file", path+generationSuffix)
	}
	return n, nil
}

// writeGeneration is durable when it returns, and whole or not there.
func writeGeneration(path string, n uint64) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".generation-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write generation: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = fmt.Fprintln(f, n)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write generation: %w", err)
	}
	if err := os.Rename(f.Name(), path+generationSuffix); err != nil {
		return fmt.Errorf("write generation: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write generation: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func (x *tx) generation() (n uint64, err error) {
	_, err = x.one("SELECT value FROM meta WHERE key = 'generation'", nil, &n)
	return n, err
}

// renew makes this transaction a new generation; the file follows its commit.
func (x *tx) renew() error {
	n, err := x.generation()
	if err != nil {
		return err
	}
	x.renewed = n + 1
	return x.exec("INSERT OR REPLACE INTO meta VALUES ('generation', ?)", strconv.FormatUint(x.renewed, 10))
}

// newest refuses an older copy and begins a generation.
func (x *tx) newest() error {
	had, err := readGeneration(x.l.path)
	if err != nil {
		return err
	}
	have, err := x.generation()
	if err != nil {
		return err
	}
	if had > have {
		return fmt.Errorf("%w: generation %d, and %d was in use here: what was paid since would be paid again; put back the newest copy, "+
			"or, if there is none, see what was paid since and run `cuttle ledger adopt`", ErrOlder, have, had)
	}
	return x.renew()
}

// Adopt has a ledger file used although a newer one was in use here. It is brought
// to the present schema and checked; nobody may have it open.
func Adopt(ctx context.Context, path string) (err error) {
	lock, err := lockLedger(path, false)
	if err != nil {
		return err
	}
	if lock != nil {
		defer func() { err = errors.Join(err, lock.Close()) }()
	}
	v, err := verified(ctx, path)
	var schema *SchemaError
	if errors.As(err, &schema) && schema.Have < schema.Want {
		if err = bring(ctx, path); err == nil {
			v, err = verified(ctx, path)
		}
	}
	if err != nil {
		return err
	}
	if len(v.Findings) > 0 {
		return fmt.Errorf("ledger %s is damaged (%s): put back another copy", path, v.Findings[0].What)
	}
	if err := os.Remove(path + generationSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("adopt ledger: %w", err)
	}
	return nil
}

func verified(ctx context.Context, path string) (v Verified, err error) {
	f, err := OpenFile(path)
	if err != nil {
		return v, err
	}
	v, err = f.Verify(ctx)
	return v, errors.Join(err, f.Close())
}
