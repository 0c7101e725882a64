package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A daemon that is not root cannot write /etc/resolv.conf. It asks a deputy that
// is (Deputy, run by systemd for each connection to DeputySocket) and can do
// nothing else: put a file of name servers there, and bring back what was there.
// What comes back is what the deputy itself has found, never what it is told.

// DeputySocket is where the deputy listens; only cuttled's user may connect.
const DeputySocket = "/run/cuttle-resolver.sock"

// deputyFile, in the deputy's state directory, is what it has put where.
const deputyFile = "resolver.json"

const (
	deputyTime = 20 * time.Second
	maxRequest = 16 << 10 // bytes
)

// request is one line of JSON; the answer is one, too.
type request struct {
	Write   string `json:"write,omitempty"` // the file's new content
	Restore bool   `json:"restore,omitempty"`
}

type answer struct {
	Error string `json:"error,omitempty"`
}

// replaced is what the deputy remembers: ours is there in place of before.
type replaced struct {
	Ours   string `json:"ours"`
	Before Before `json:"before"`
}

// parseRequest refuses everything that is not a resolver file of ours.
func parseRequest(b []byte) (request, error) {
	var r request
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("request: %w", err)
	}
	if r.Restore == (r.Write != "") {
		return r, errors.New("request: want either write or restore")
	}
	if r.Restore {
		return r, nil
	}
	servers := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(r.Write, "\n"), "\n") {
		if strings.HasPrefix(line, "# ") && strings.IndexFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) < 0 {
			continue
		}
		text, ok := strings.CutPrefix(line, "nameserver ")
		a, err := netip.ParseAddr(text)
		if !ok || err != nil || a.Zone() != "" {
			return r, errors.New("request: a line is neither a comment nor a name server")
		}
		servers++
	}
	if servers == 0 {
		return r, errors.New("request: no name server")
	}
	return r, nil
}

// Deputy answers one request for the resolver file at path. It keeps what it
// has found in stateDir, which must be its own.
func Deputy(conn io.ReadWriter, path, stateDir string) error {
	line, err := readLine(conn)
	if err != nil {
		return err
	}
	var failed error
	if r, err := parseRequest(line); err != nil {
		failed = err
	} else if r.Restore {
		failed = restoreReplaced(path, stateDir)
	} else {
		failed = replace(path, stateDir, r.Write)
	}
	var a answer
	if failed != nil {
		a.Error = failed.Error()
	}
	b, err := json.Marshal(a)
	if err == nil {
		_, err = conn.Write(append(b, '\n'))
	}
	return errors.Join(failed, err)
}

// readLine reads up to a newline, at most maxRequest bytes.
func readLine(r io.Reader) ([]byte, error) {
	var line []byte
	b := make([]byte, 4096)
	for len(line) <= maxRequest {
		n, err := r.Read(b)
		line = append(line, b[:n]...)
		if before, _, ok := bytes.Cut(line, []byte("\n")); ok {
			return before, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read line: %w", err)
		}
	}
	return nil, errors.New("read line: too long")
}

// replace puts content at path, after what is there has been saved.
func replace(path, stateDir, content string) error {
	old, err := readReplaced(stateDir)
	if err != nil {
		return err
	}
	now, gone, err := readFile(path)
	if err != nil {
		return err
	}
	fresh := &replaced{Ours: content, Before: Before{File: now, Gone: gone}}
	if old != nil && !gone && now.Target == "" && string(now.Content) == old.Ours {
		fresh.Before = old.Before // what is there is ours
	}
	b, err := json.Marshal(fresh)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(stateDir, deputyFile), &File{Content: b, Mode: 0o600, UID: os.Getuid(), GID: os.Getgid()}); err != nil {
		return err
	}
	return replaceFile(path, content)
}

// restoreReplaced brings back what replace has found.
func restoreReplaced(path, stateDir string) error {
	old, err := readReplaced(stateDir)
	if old == nil {
		return err
	}
	if err := restoreFile(path, old.Ours, old.Before); err != nil {
		return err
	}
	return os.Remove(filepath.Join(stateDir, deputyFile))
}

// readReplaced gives what was remembered, nil if nothing.
func readReplaced(stateDir string) (*replaced, error) {
	b, err := os.ReadFile(filepath.Join(stateDir, deputyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing is a valid outcome, and both users ask
	}
	if err != nil {
		return nil, err
	}
	r := new(replaced)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("what the resolver file was: %w", err)
	}
	return r, nil
}

// refused tells whether this process may not write where the file is.
func refused(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// writeResolver is replaceFile, by the deputy where this process may not.
func writeResolver(path, content string) error {
	err := replaceFile(path, content)
	if !refused(err) {
		return err
	}
	return askDeputy(DeputySocket, request{Write: content}, err)
}

// restoreResolver is restoreFile, by the deputy where this process may not.
func restoreResolver(path, ours string, before Before) error {
	err := restoreFile(path, ours, before)
	if !refused(err) {
		return err
	}
	return askDeputy(DeputySocket, request{Restore: true}, err)
}

// askDeputy asks the deputy at socket; if there is none, why was that needed.
func askDeputy(socket string, r request, why error) error {
	conn, err := net.DialTimeout("unix", socket, deputyTime) //nolint:noctx // bounded by itself, a step of a plan has no context
	if err != nil {
		return fmt.Errorf("%w; and no deputy may do it (is cuttle-resolver.socket running?): %w", why, err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(deputyTime)); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("ask the deputy: %w", err)
	}
	line, err := readLine(conn)
	if err != nil {
		return fmt.Errorf("ask the deputy: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return fmt.Errorf("ask the deputy: %w", err)
	}
	if a.Error != "" {
		return fmt.Errorf("ask the deputy: %s", a.Error)
	}
	return nil
}
