package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideVerb is the first argument by which this program, started again, knows
// that it shall enter a namespace and become another program.
const insideVerb = "_inside"

// Command prepares argv to run inside the namespace: this program is started
// again and turns into argv there, with the same process id. The program's
// main, or a test's TestMain, must begin with Inside.
func Command(ctx context.Context, name string, argv ...string) *exec.Cmd {
	args := append([]string{insideVerb, name, "--"}, argv...)
	return exec.CommandContext(ctx, "/proc/self/exe", args...)
}

// Inside turns a process that Command has started, as its arguments tell, into
// the program it shall be. It returns only in every other process (false), or if
// it failed (true): then the process must end.
func Inside(args []string) (bool, error) {
	if len(args) < 5 || args[1] != insideVerb || args[3] != "--" {
		return false, nil
	}
	return true, Become(args[2], args[4:])
}

// Become replaces the calling process by argv inside the namespace, with a
// mount namespace of its own in which the namespace's files cover those of
// /etc. It returns only if that failed.
func Become(name string, argv []string) error {
	runtime.LockOSThread()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("find program: %w", err)
	}
	if err := enter(name); err != nil {
		return err
	}
	if err := coverEtc(name); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", path, syscall.Exec(path, argv, os.Environ()))
}

// coverEtc lets the calling thread, and so what it becomes, see the
// namespace's files in /etc. Nobody else's view changes.
func coverEtc(name string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	entries, err := os.ReadDir(Dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list files of namespace: %w", err)
	}
	for _, e := range entries {
		target := filepath.Join("/etc", e.Name())
		if _, err := os.Stat(target); err != nil {
			return fmt.Errorf("%s does not exist on this machine (an empty file is enough): %w", target, err)
		}
		if err := unix.Mount(filepath.Join(Dir(name), e.Name()), target, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", target, err)
		}
	}
	return nil
}
