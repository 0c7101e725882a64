// Package systemd speaks the service's side of systemd: readiness, status and
// watchdog (sd_notify(3)), the file descriptor store (sd_pid_notify_with_fds(3),
// sd_listen_fds(3)) and credentials (systemd.exec(5)).
//
// It starts nothing, reads no unit files and talks to no D-Bus. Without systemd,
// that is without the environment variables it sets, every call does nothing, so
// callers need no branch. cmd/cuttled makes the one Supervisor; internal/node
// uses it. A Supervisor is safe for concurrent use.
package systemd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// firstFD is the number of the first file that is handed over,
// SD_LISTEN_FDS_START.
const firstFD = 3

// maxFDs bounds what is taken over.
const maxFDs = 64

// barrierTime is how long the manager may take to read what was sent.
const barrierTime = 5 * time.Second

// Supervisor is the manager that started this process, if any. The nil
// Supervisor is nobody.
type Supervisor struct {
	socket   string
	watchdog time.Duration

	mu   sync.Mutex // guards kept
	kept map[string]*os.File
}

// New reads the environment through env and removes from unset what children
// must not inherit; os.Getenv and os.Unsetenv are meant. Handed over files are
// taken over at once and closed on exec. Bad values are as none.
func New(env func(string) string, unset func(string) error) (*Supervisor, error) {
	s := &Supervisor{socket: env("NOTIFY_SOCKET"), kept: make(map[string]*os.File)}
	self := strconv.Itoa(os.Getpid())
	if pid := env("WATCHDOG_PID"); pid == "" || pid == self {
		s.watchdog = parseWatchdog(env("WATCHDOG_USEC"))
	}
	if env("LISTEN_PID") == self {
		for i, name := range parseNames(env("LISTEN_FDS"), env("LISTEN_FDNAMES")) {
			fd := firstFD + i
			unix.CloseOnExec(fd)
			file := os.NewFile(uintptr(fd), name)
			if s.kept[name] != nil || file == nil {
				continue // two of one name: the first counts, the other ends with the process
			}
			s.kept[name] = file
		}
	}
	var failed error
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		failed = errors.Join(failed, unset(name))
	}
	return s, failed
}

// parseWatchdog reads WATCHDOG_USEC, microseconds.
func parseWatchdog(text string) time.Duration {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// parseNames reads LISTEN_FDS and LISTEN_FDNAMES: one name for each file, ""
// where there is none.
func parseNames(count, names string) []string {
	n, err := strconv.Atoi(count)
	if err != nil || n <= 0 || n > maxFDs {
		return nil
	}
	out := make([]string, n)
	if names != "" {
		copy(out, strings.Split(names, ":"))
	}
	return out
}

// Watchdog is within what time the next Alive has to come; 0 is never.
func (s *Supervisor) Watchdog() time.Duration {
	if s == nil {
		return 0
	}
	return s.watchdog
}

// Ready says that the service has started.
func (s *Supervisor) Ready() error { return s.send("READY=1") }

// Stopping says that the service is about to end.
func (s *Supervisor) Stopping() error { return s.send("STOPPING=1") }

// Alive is the watchdog's sign of life.
func (s *Supervisor) Alive() error { return s.send("WATCHDOG=1") }

// Status is one line for people; it must hold nothing that identifies anybody.
func (s *Supervisor) Status(line string) error {
	return s.send("STATUS=" + strings.ReplaceAll(line, "\n", " "))
}

// Keep puts a copy of the file into the manager's store under name, in place of
// what was there. It outlives this process and comes back to the next one, as
// Kept. The file stays the caller's.
func (s *Supervisor) Keep(name string, file *os.File) error {
	if s == nil || s.socket == "" {
		return nil
	}
	if err := s.Forget(name); err != nil {
		return err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, int(fd))
	}); err != nil {
		return fmt.Errorf("keep file: %w", err)
	}
	return failed
}

// Kept gives the file that an earlier process has put under name, or nil. It is
// the caller's now; the manager still has its copy.
func (s *Supervisor) Kept(name string) *os.File {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.kept[name]
	delete(s.kept, name)
	return file
}

// Forget removes what is under name from the store and returns when the manager
// has read that.
func (s *Supervisor) Forget(name string) error {
	if s == nil || s.socket == "" {
		return nil
	}
	if err := s.send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		return err
	}
	return s.barrier()
}

// barrier returns when everything sent has been read: the manager then closes
// the end of the pipe that it was given (sd_notify_barrier(3)).
func (s *Supervisor) barrier() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	defer func() { _ = r.Close() }()
	raw, err := w.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) { failed = s.send("BARRIER=1", int(fd)) })
		err = errors.Join(err, failed)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierTime)); err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("wait for the service manager: no answer")
	}
	return nil
}

// send sends one message, with files where given.
func (s *Supervisor) send(text string, fds ...int) error {
	if s == nil || s.socket == "" {
		return nil
	}
	// A leading @ is an abstract address, which package net spells the same.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Write(func(fd uintptr) bool {
			failed = unix.Sendmsg(int(fd), []byte(text), rights, nil, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		err = errors.Join(err, failed)
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// maxCredential bounds what is read of a credential, bytes; real ones have one line.
const maxCredential = 64 << 10

// Credential reads the first line of the credential called name in dir, which is
// what CREDENTIALS_DIRECTORY says. Only this service can read it, by an access
// list that a file mode does not show, so that its mode is not looked at.
func Credential(dir, name string) (string, error) {
	if dir == "" {
		return "", fmt.Errorf("credential %s: the service manager has given none: is LoadCredential= in the unit?", name)
	}
	if name == "" || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("credential %q is not a plain name", name)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("credential %s: %w", name, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCredential))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("credential %s: %w", name, err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("credential %s is empty", name)
	}
	return line, nil
}
