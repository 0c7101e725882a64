package tun

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An interface that somebody has just let go may be in use a little longer.
const (
	busyTime = 2 * time.Second
	busyStep = 10 * time.Millisecond
)

// ErrForeign says that a file is not that of the interface that is wanted.
var ErrForeign = errors.New("tun: the file belongs to something else")

// Adopt goes on with the interface called name, whose file an earlier process
// has opened with Open and left to somebody who kept it. Packets that came
// meanwhile are read first, as far as the system has kept them (500). Adopt owns
// file from now on, and closes it on errors.
func Adopt(file *os.File, name string, mtu int) (Device, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("take over tun device: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	}
	const kind = unix.IFF_TUN | unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if err != nil || ifr.Name() != name || ifr.Uint16()&kind != unix.IFF_TUN|unix.IFF_NO_PI|unix.IFF_VNET_HDR {
		return nil, errors.Join(fmt.Errorf("take over tun device: %w", ErrForeign), unix.Close(fd))
	}
	return use(fd, mtu)
}

// File is the interface's file, for who keeps a copy so that the interface
// outlives this process. It belongs to the device.
func (d *native) File() *os.File { return d.file }

// attachFree is attach, for an interface that is free or about to be.
func attachFree(fd int, name string) error {
	tick := time.NewTicker(busyStep)
	defer tick.Stop()
	for deadline := time.Now().Add(busyTime); ; <-tick.C {
		err := attach(fd, name)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}
