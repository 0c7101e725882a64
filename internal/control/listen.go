package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode  = 0o660
	folderMode  = 0o750
	maxPath     = 103 // what sun_path holds on every system we run on (104 with its NUL on darwin)
	answerAfter = time.Second
)

// Listen makes the control socket: its folder (mode 0750) if there is none, then
// the socket (mode 0660), both belonging to group where one is given (name or
// number). A socket that nobody answers on is replaced; one that somebody answers
// on, or a file that is not a socket, is left alone and is an error. Two daemons
// that start at once cannot replace each other's: the folder is locked meanwhile.
func Listen(path, group string) (net.Listener, error) {
	ln, err := listen(path, group)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return ln, nil
}

func listen(path, group string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("path is longer than %d bytes", maxPath)
	}
	acl, err := newAccess(os.Getuid(), group)
	if err != nil {
		return nil, err
	}
	folder := filepath.Dir(path)
	if err := makeFolder(folder, acl); err != nil {
		return nil, err
	}
	unlock, err := lockFolder(folder)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := restrict(path, socketMode, acl); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

func makeFolder(folder string, acl access) error {
	if _, err := os.Stat(folder); err == nil {
		return nil
	}
	if err := os.MkdirAll(folder, folderMode); err != nil {
		return err
	}
	return restrict(folder, folderMode, acl)
}

// restrict sets the mode whatever the umask, and the group where there is one.
func restrict(path string, mode fs.FileMode, acl access) error {
	if acl.groupName != "" {
		if err := os.Lchown(path, -1, int(acl.group)); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

func lockFolder(folder string) (unlock func(), err error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another daemon is starting: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing gives up the lock
}

// removeStale removes what a daemon that died left behind.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is not a socket", path)
	}
	d := net.Dialer{Timeout: answerAfter}
	c, err := d.DialContext(context.Background(), "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%s: another daemon answers there", path), c.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("is another daemon there? %w", err)
	}
	return os.Remove(path)
}
