package exit

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// readFailures takes what the socket's error queue says of datagrams that were
// sent (ip(7), IP_RECVERR), as many as maxPending.
func readFailures(fd int) []udpFailure {
	var out []udpFailure
	var payload [1]byte
	var control [512]byte
	for range maxPending {
		_, k, _, name, err := unix.Recvmsg(fd, payload[:], control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return out
		}
		var to netip.AddrPort
		switch a := name.(type) {
		case *unix.SockaddrInet4:
			to = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
		case *unix.SockaddrInet6:
			to = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
		}
		if errno, ok := errorNumber(control[:k]); ok {
			out = append(out, udpFailure{to, errno})
		}
	}
	return out
}

// errorNumber reads the first field of struct sock_extended_err.
func errorNumber(control []byte) (syscall.Errno, bool) {
	for _, b := range extendedErrors(control) {
		return syscall.Errno(binary.NativeEndian.Uint32(b)), true
	}
	return 0, false
}
