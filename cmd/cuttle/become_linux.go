package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// joinBy writes this process's number into a cgroup's file.
func joinBy(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()))
	return errors.Join(err, f.Close())
}

// becomeWith replaces this process by a program, as the user who called sudo. With
// resolvers, the program's names are asked for there and not at the machine's
// resolver. It returns only if that failed.
func becomeWith(argv, resolvers []string, env func(string) string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if len(resolvers) > 0 {
		if err := coverResolver(resolvers); err != nil {
			return fmt.Errorf("give the program the local network's resolver (run it with sudo): %w", err)
		}
	}
	if err := dropTo(env("SUDO_UID"), env("SUDO_GID")); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", path, syscall.Exec(path, argv, os.Environ()))
}

// coverResolver lets the calling thread, and so what it becomes, see files of its
// own in place of the system's resolver configuration. Nobody else's view changes.
func coverResolver(resolvers []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	for target, text := range map[string]string{
		"/etc/resolv.conf": "nameserver " + strings.Join(resolvers, "\nnameserver ") + "\n", "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if _, err := os.Stat(target); err != nil {
			continue // what is not there is not asked
		}
		file, err := os.CreateTemp("", "cuttle-resolver")
		if err != nil {
			return err
		}
		_, err = file.WriteString(text)
		err = errors.Join(err, file.Chmod(0o644), file.Close())
		if err == nil {
			err = unix.Mount(file.Name(), target, "", unix.MS_BIND, "")
		}
		if err = errors.Join(err, os.Remove(file.Name())); err != nil {
			return err
		}
	}
	return nil
}

// dropTo becomes the user who called sudo; empty: nobody did.
func dropTo(uid, gid string) error {
	if uid == "" || os.Geteuid() != 0 {
		return nil
	}
	u, err1 := strconv.Atoi(uid)
	g, err2 := strconv.Atoi(gid)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("become the caller of sudo: %w", err)
	}
	if err := errors.Join(syscall.Setgroups([]int{g}), syscall.Setgid(g), syscall.Setuid(u)); err != nil {
		return fmt.Errorf("become the caller of sudo: %w", err)
	}
	return nil
}
