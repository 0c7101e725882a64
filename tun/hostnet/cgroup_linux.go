package hostnet

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot finds where cgroup v2 is mounted, proc_pid_mountinfo(5).
func cgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("look for cgroups: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", fmt.Errorf("this machine has no cgroups of version 2: %w", ErrUnsupported)
}

// FindCgroup finds a cgroup by its path below the root.
func FindCgroup(path string) (Cgroup, error) {
	root, err := cgroupRoot()
	if err != nil {
		return Cgroup{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, path), &st); err != nil {
		return Cgroup{}, fmt.Errorf("cgroup %s: %w", path, err)
	}
	return Cgroup{Path: path, ID: st.Ino}, nil
}

// MakeCgroup is FindCgroup that makes what is missing.
func MakeCgroup(path string) (Cgroup, error) {
	root, err := cgroupRoot()
	if err != nil {
		return Cgroup{}, err
	}
	if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
		return Cgroup{}, fmt.Errorf("make cgroup %s: %w", path, err)
	}
	return FindCgroup(path)
}

// ProcsFile is the file into which a process's number is written to put it into
// the cgroup.
func (c Cgroup) ProcsFile() (string, error) {
	root, err := cgroupRoot()
	return filepath.Join(root, c.Path, "cgroup.procs"), err
}

// Join puts a process into the cgroup. It needs the rights for both cgroups.
func (c Cgroup) Join(pid int) error {
	path, err := c.ProcsFile()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	if _, err = f.WriteString(strconv.Itoa(pid)); err != nil {
		err = fmt.Errorf("join cgroup: %w", err)
	}
	return errors.Join(err, f.Close())
}

// InUse tells whether a process is in the cgroup or below it.
func (c Cgroup) InUse() bool {
	root, err := cgroupRoot()
	if err != nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join(root, c.Path, "cgroup.events"))
	return err == nil && strings.Contains(string(b), "populated 1")
}
