package hostnet

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errDarwin says what is missing.
var errDarwin = fmt.Errorf("not supported yet on darwin: %w", ErrUnsupported)

// Inspect reads what a plan depends on.
func Inspect() (Host, error) { return Host{}, errDarwin }

// Control returns a function for net.Dialer.Control and net.ListenConfig.Control.
// Without capture there is nothing that our sockets would have to avoid.
func Control(uint32) func(network, address string, c syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { return nil }
}

// Mark does nothing, as Control.
func Mark(uintptr, uint32) error { return nil }

// InspectOver reads what a plan depends on.
func InspectOver(string) (Host, error) { return Host{}, errDarwin }

func newKernel() (kernel, error) { return nil, errDarwin }

func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return 0, 0
}

func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
