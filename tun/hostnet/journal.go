package hostnet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Before is what a step found and Revert brings back. Which fields count
// depends on the step's kind.
type Before struct {
	Value string `json:"value,omitempty"` // of a sysctl
	Up    bool   `json:"up,omitempty"`    // of a link
	MTU   int    `json:"mtu,omitempty"`   // of a link
	File  *File  `json:"file,omitempty"`  // of the resolver
	Gone  bool   `json:"gone,omitempty"`  // what the step changes was not there
}

// File is a file as it was, to be made again exactly.
type File struct {
	Target  string      `json:"target,omitempty"` // of a symbolic link; then nothing else counts
	Content []byte      `json:"content,omitempty"`
	Mode    os.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`
}

// record is one line of the journal.
type record struct {
	Step   Step   `json:"step"`
	Before Before `json:"before"`
}

const journalName = "hostnet.journal"

// maxJournal bounds what is read back, in bytes.
const maxJournal = 4 << 20

// journal is the file that says what has been changed. Each record is one line
// of JSON, synced before the change it announces; a last line without end was
// cut by a crash before its change. The file is locked while open.
type journal struct {
	dir  string
	file *os.File
}

// openJournal opens, or makes, the journal in dir and locks it.
func openJournal(dir string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal of network changes: %w", err)
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock journal of network changes (is another cuttled running?): %w", err), f.Close())
	}
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &journal{dir: dir, file: f}, nil
}

// replace puts a journal of these records in place of the old one, in one move;
// there is no time at which somebody else could lock either.
func (j *journal) replace(records []record) error {
	path := filepath.Join(j.dir, journalName)
	f, err := os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("rewrite journal of network changes: %w", err)
	}
	fresh := &journal{dir: j.dir, file: f}
	err = lock(f)
	for _, r := range records {
		if err == nil {
			err = fresh.append(r)
		}
	}
	if err == nil {
		err = os.Rename(path+newSuffix, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("rewrite journal of network changes: %w", err), f.Close())
	}
	old := j.file
	j.file = f
	return errors.Join(syncDir(j.dir), old.Close())
}

func (j *journal) append(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write journal of network changes: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal of network changes: %w", err)
	}
	return nil
}

// read returns all records, oldest first.
func (j *journal) read() ([]record, error) {
	if _, err := j.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read journal of network changes: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(j.file, maxJournal+1))
	if err != nil {
		return nil, fmt.Errorf("read journal of network changes: %w", err)
	}
	if len(b) > maxJournal {
		return nil, errors.New("journal of network changes is too large")
	}
	return parseJournal(b)
}

func parseJournal(b []byte) ([]record, error) {
	end := bytes.LastIndexByte(b, '\n')
	var records []record
	scanner := bufio.NewScanner(bytes.NewReader(b[:end+1]))
	scanner.Buffer(nil, maxJournal+1)
	for scanner.Scan() {
		var r record
		d := json.NewDecoder(bytes.NewReader(scanner.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			return nil, fmt.Errorf("journal of network changes, line %d: %w", len(records)+1, err)
		}
		records = append(records, r)
	}
	return records, scanner.Err()
}

// empty forgets all records: everything has been undone.
func (j *journal) empty() error {
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("empty journal of network changes: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal of network changes: %w", err)
	}
	return nil
}

func (j *journal) close() error { return j.file.Close() }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
