package hostnet

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errDarwin says what is missing.
var errDarwin = fmt.Errorf("not supported yet on darwin: %w", ErrUnsupported)

// Inspect reads what a plan depends on.
func Inspect(Config) (Host, error) { return Host{}, errDarwin }

// Control returns a function for net.Dialer.Control and net.ListenConfig.Control.
// Without capture there is nothing that our sockets would have to avoid.
func Control(uint32) func(network, address string, c syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { return nil }
}

// Mark does nothing, as Control.
func Mark(uintptr, uint32) error { return nil }

// InspectOver reads what a plan depends on.
func InspectOver(string, Config) (Host, error) { return Host{}, errDarwin }

func newKernel() (kernel, error) { return nil, errDarwin }

func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return 0, 0
}

const errBusy = unix.EWOULDBLOCK

func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// FindCgroup finds no cgroup: there are none.
func FindCgroup(string) (Cgroup, error) { return Cgroup{}, errDarwin }

// MakeCgroup makes no cgroup.
func MakeCgroup(string) (Cgroup, error) { return Cgroup{}, errDarwin }

// ProcsFile finds no file.
func (c Cgroup) ProcsFile() (string, error) { return "", errDarwin }

// Join joins nothing.
func (c Cgroup) Join(int) error { return errDarwin }

// InUse tells that nobody is in the cgroup.
func (c Cgroup) InUse() bool { return false }

// Station gives no address.
func Station(string, netip.Addr) (net.HardwareAddr, error) { return nil, errDarwin }

// Networks lists the networks that this host's interfaces are in.
func Networks() ([]Attached, error) { return nil, errDarwin }

// Uplinks lists nothing.
func Uplinks(uint32, []netip.AddrPort) ([]string, error) { return nil, errDarwin }
