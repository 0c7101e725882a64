package hostnet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Before is what a step found and Revert brings back. Which fields count
// depends on the step's kind.
type Before struct {
	Value string `json:"value,omitempty"` // of a sysctl
	Up    bool   `json:"up,omitempty"`    // of a link
	MTU   int    `json:"mtu,omitempty"`   // of a link
	File  *File  `json:"file,omitempty"`  // of the resolver
	Gone  bool   `json:"gone,omitempty"`  // what the step changes was not there

	// Each is the value of a sysctl that sets those of all interfaces, by interface.
	Each map[string]string `json:"each,omitempty"`
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
// cut by a crash before its change. The file is locked while open. What cannot be
// written to it is kept in memory: closing must not wait for a disk.
type journal struct {
	dir  string
	file *os.File // nil: there is none, all is in memory
	kept []record // that the file does not have
}

// errHeld says that another process holds the journal, and the host.
var errHeld = errors.New("lock journal of network changes (is another cuttled running?)")

// openJournal opens, or makes, the journal in dir and locks it. A journal that
// cannot be read is no reason to leave the machine open: it is set aside, with
// the suffix badSuffix, and what can be read of it goes on. Where not even a new
// one can be made the journal is in memory. An error says that somebody else
// has it.
func openJournal(dir string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		err = lock(f)
		if errors.Is(err, errBusy) {
			return nil, errors.Join(fmt.Errorf("%w: %w", errHeld, err), f.Close())
		}
		if err == nil {
			err = syncDir(dir)
		}
	}
	if err == nil {
		j := &journal{dir: dir, file: f}
		if _, err = j.read(); err == nil {
			return j, nil
		}
		if err = j.repair(); err == nil {
			return j, nil
		}
		f = j.file
	}
	memory := &journal{dir: dir, kept: salvage(dir)}
	if f != nil {
		_ = f.Close() // nothing was written
	}
	return memory, nil
}

// badSuffix names a journal that could not be read.
const badSuffix = ".bad"

// repair sets the journal aside and goes on with what can be read of it.
func (j *journal) repair() error {
	good := salvage(j.dir)
	path := filepath.Join(j.dir, journalName)
	_ = os.Remove(path + badSuffix) // the newest one counts
	if err := os.Link(path, path+badSuffix); err != nil {
		return fmt.Errorf("set journal of network changes aside: %w", err)
	}
	return j.replace(good)
}

// salvage gives the records of a journal that can be read.
func salvage(dir string) []record {
	f, err := os.Open(filepath.Join(dir, journalName))
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // only read
	b, _ := io.ReadAll(io.LimitReader(f, maxJournal))
	var good []record
	for line := range bytes.Lines(b) {
		if records, err := parseJournal(line); err == nil {
			good = append(good, records...)
		}
	}
	return good
}

// replace puts a journal of these records in place of the old one, in one move;
// there is no time at which somebody else could lock either.
func (j *journal) replace(records []record) error {
	if j.file == nil {
		j.kept = records
		return nil
	}
	path := filepath.Join(j.dir, journalName)
	f, err := os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("rewrite journal of network changes: %w", err)
	}
	var all []byte
	err = lock(f)
	for _, r := range records {
		b, failed := json.Marshal(r)
		err = errors.Join(err, failed)
		all = append(append(all, b...), '\n')
	}
	if err == nil {
		_, err = f.Write(all)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(path+newSuffix, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("rewrite journal of network changes: %w", err), f.Close())
	}
	old := j.file
	j.file, j.kept = f, nil
	return errors.Join(syncDir(j.dir), old.Close())
}

// append adds a record. With an error it is in memory only.
func (j *journal) append(r record) error {
	err := j.write(r)
	if err != nil {
		j.kept = append(j.kept, r)
	}
	return err
}

func (j *journal) write(r record) error {
	if j.file == nil {
		return errors.New("there is no journal of network changes that could be written")
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	info, err := j.file.Stat()
	if err != nil {
		return fmt.Errorf("write journal of network changes: %w", err)
	}
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		// Half a line would spoil the next one.
		return fmt.Errorf("write journal of network changes: %w", errors.Join(err, j.file.Truncate(info.Size())))
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal of network changes: %w", err)
	}
	return nil
}

// read returns all records, oldest first.
func (j *journal) read() ([]record, error) {
	if j.file == nil {
		return slices.Clone(j.kept), nil
	}
	if _, err := j.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read journal of network changes: %w", err)
	}
	records, err := readJournal(j.file)
	return append(records, j.kept...), err
}

func readJournal(from io.Reader) ([]record, error) {
	b, err := io.ReadAll(io.LimitReader(from, maxJournal+1))
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
	j.kept = nil
	if j.file == nil {
		err := os.Remove(filepath.Join(j.dir, journalName))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the journal of network changes that cannot be read: %w", err)
		}
		return nil
	}
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("empty journal of network changes: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal of network changes: %w", err)
	}
	return nil
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}

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
