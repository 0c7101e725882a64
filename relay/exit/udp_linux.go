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

// errorNumber reads the first field of struct sock_extended_err (linux/errqueue.h).
func errorNumber(control []byte) (syscall.Errno, bool) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, false
	}
	for _, m := range messages {
		recv4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		recv6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (recv4 || recv6) && len(m.Data) >= 4 {
			return syscall.Errno(binary.NativeEndian.Uint32(m.Data)), true
		}
	}
	return 0, false
}
