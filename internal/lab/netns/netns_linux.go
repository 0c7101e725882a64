package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// runDir is where names of namespaces live, as for `ip netns`.
const runDir = "/run/netns"

// etcRoot holds, per namespace, files seen in place of those in /etc.
const etcRoot = "/etc/netns"

// Dir returns the folder of a namespace's own /etc files.
func Dir(name string) string { return filepath.Join(etcRoot, name) }

// Path returns the file that stands for the namespace.
func Path(name string) string { return filepath.Join(runDir, name) }

// Create makes an empty namespace with its loopback up and IPv6 on. A name that
// exists already is an error that satisfies errors.Is(err, fs.ErrExist).
func Create(name string) error {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", runDir, err)
	}
	f, err := os.OpenFile(Path(name), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("name namespace: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := onThread(func() error { return pin(name) }); err != nil {
		return errors.Join(fmt.Errorf("make namespace %s: %w", name, err), os.Remove(Path(name)))
	}
	if err := setUp(name); err != nil {
		return errors.Join(err, Delete(name))
	}
	return nil
}

// pin puts the calling thread into a new namespace and keeps that alive under
// its name.
func pin(name string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	src := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(src, Path(name), "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func setUp(name string) error {
	for _, s := range []string{"all", "default", "lo"} {
		if err := Sysctl(name, "net/ipv6/conf/"+s+"/disable_ipv6", "0"); err != nil {
			return err
		}
	}
	for _, s := range []string{"accept_dad", "accept_ra"} { // addresses serve at once; only the lab configures
		if err := Sysctl(name, "net/ipv6/conf/default/"+s, "0"); err != nil {
			return err
		}
	}
	h, err := open(name)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

// Delete removes the name and the namespace's own /etc files. The namespace
// itself goes with its last process. What is not there is not an error.
func Delete(name string) error {
	err := unix.Unmount(Path(name), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete namespace: %w", err)
	}
	if err := os.RemoveAll(Dir(name)); err != nil {
		return fmt.Errorf("delete files of namespace: %w", err)
	}
	return nil
}

// List returns the names that begin with prefix, sorted.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// WriteFile gives the namespace its own /etc/<file>.
func WriteFile(name, file, content string) error {
	if err := os.MkdirAll(Dir(name), 0o755); err != nil {
		return fmt.Errorf("make folder of namespace: %w", err)
	}
	// In place: a running program's bind mount keeps showing the same file.
	if err := os.WriteFile(filepath.Join(Dir(name), file), []byte(content), 0o644); err != nil {
		return fmt.Errorf("write file of namespace: %w", err)
	}
	return nil
}

// Do runs f on a thread inside the namespace. Sockets opened by f stay in it;
// goroutines started by f do not run in it.
func Do(name string, f func() error) error {
	return onThread(func() error {
		if err := enter(name); err != nil {
			return err
		}
		return f()
	})
}

func enter(name string) error {
	fd, err := unix.Open(Path(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", name, err)
	}
	return nil
}

// onThread runs f on a thread of its own and brings that back to the namespace
// it came from. A thread that cannot be brought back dies.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() { // ends with f
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		err = f()
		if back := unix.Setns(home, unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} else {
			err = errors.Join(err, fmt.Errorf("leave namespace: %w", back))
		}
		_ = unix.Close(home)
		done <- err
	}()
	return <-done
}

// Sysctl writes a value under /proc/sys as seen inside the namespace.
func Sysctl(name, key, value string) error {
	return Do(name, func() error {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s in %s: %w", key, name, err)
		}
		return nil
	})
}

// open returns a netlink handle that works inside the namespace.
func open(name string) (*netlink.Handle, error) {
	ns, err := vns.GetFromPath(Path(name))
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", name, err)
	}
	return h, nil
}
