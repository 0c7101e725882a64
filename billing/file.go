package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"

	"cuttle/billing/evm"
)

// File is a ledger file that is only read: a copy of one, one whose daemon is
// not running, or one that a daemon writes meanwhile. Each answer is of one
// moment.
type File struct {
	path string
	db   *sql.DB
}

// OpenFile opens a ledger file to read it. It changes nothing in it, and does
// not bring an older schema to the present one.
func OpenFile(path string) (*File, error) {
	if !slices.Contains(sql.Drivers(), "sqlite") {
		return nil, errors.New("this build reads no ledger, since SQLite has no port to this processor")
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	f, err := readOnly(path)
	if err != nil {
		return nil, err
	}
	var version string
	if err := f.db.QueryRowContext(context.Background(), "SELECT value FROM meta WHERE key = 'schema'").Scan(&version); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: not a ledger, or damaged: %w", path, err), f.Close())
	}
	return f, nil
}

// readOnly opens a file through a connection that cannot write.
func readOnly(path string) (*File, error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}).String()+
		"?mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)")
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	return &File{path, db}, nil
}

// sound refuses a file that is damaged as a file, and changes nothing in it: a
// connection that can write would begin by moving the write-ahead log into what
// is left. Whatever else is wrong shows when it is opened.
func sound(path string) error {
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return err
	}
	f, err := readOnly(path)
	if err != nil {
		return err
	}
	err = f.view(context.Background(), func(tx *tx) error { return tx.hold(soundness) })
	var code interface{ Code() int }
	if err != nil && errors.As(err, &code) {
		switch code.Code() & 0xff {
		case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
			err = damaged(err.Error(), "the file")
		default:
			err = nil
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return errors.Join(err, f.Close())
}

// Close closes the file.
func (f *File) Close() error { return f.db.Close() }

// view runs do on one state of the file.
func (f *File) view(ctx context.Context, do func(*tx) error) error {
	t, err := f.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("read ledger %s: %w", f.path, err)
	}
	err = do(&tx{Tx: t, ctx: ctx})
	return errors.Join(err, ignoreDone(t.Rollback()))
}

// UnderWay counts transactions of a wallet that are not final: payments, and
// calls of the hub where the file's schema has them.
func (f *File) UnderWay(ctx context.Context, wallet evm.Address) (n int, err error) {
	err = f.view(ctx, func(tx *tx) error {
		for _, table := range []string{"intent", "call"} {
			var there, open int
			if _, err := tx.one("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?", []any{table}, &there); err != nil {
				return err
			}
			if there == 0 {
				continue
			}
			if _, err := tx.one("SELECT count(*) FROM "+table+" WHERE wallet = ? AND state BETWEEN ? AND ?", []any{wallet[:], int(evm.Signed), int(evm.Mined)}, &open); err != nil {
				return err
			}
			n += open
		}
		return nil
	})
	return n, err
}
