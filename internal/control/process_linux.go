package control

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// processOf reads SO_PEERPIDFD (Linux 6.5), which a number that is used again cannot
// deceive. A kernel without it leaves the number. It gives nothing of a caller who has
// ended already.
func processOf(fd, pid int) Process {
	held, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return Process{PID: pid}
	}
	if err != nil {
		return Process{}
	}
	unix.CloseOnExec(held)
	return Process{pid, os.NewFile(uintptr(held), "pidfd")}
}

// hasEnded asks whether a pidfd can be read, which says so (pidfd_open(2)).
func hasEnded(held *os.File) bool {
	raw, err := held.SyscallConn()
	if err != nil {
		return true
	}
	ended := true
	err = raw.Control(func(fd uintptr) {
		list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(list, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			ended = err != nil || n > 0
			return
		}
	})
	return ended || err != nil
}
