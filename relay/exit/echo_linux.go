package exit

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"

	"cuttle/relay/wire"
)

// wantErrors asks for the ICMP errors about what fd sends (ip(7), IP_RECVERR).
// Without it flows lack them, and nothing else.
func wantErrors(fd int, six bool) {
	if six {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
}

// readErrors takes errors from the socket's error queue, as many as maxPending.
func readErrors(fd int) []echoFailure {
	var out []echoFailure
	var head [8]byte // of the request: type, code, checksum, identifier, sequence
	var control [512]byte
	for range maxPending {
		n, k, _, _, err := unix.Recvmsg(fd, head[:], control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return out
		}
		status, ok := errorStatus(control[:k])
		if !ok || n < len(head) {
			continue
		}
		out = append(out, echoFailure{int(binary.BigEndian.Uint16(head[4:])), binary.BigEndian.Uint16(head[6:]), status})
	}
	return out
}

// extendedErrors finds the structs sock_extended_err (linux/errqueue.h) in control
// messages, of at least 8 bytes each: u32 errno, u8 origin, type, code, padding.
func extendedErrors(control []byte) (out [][]byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		recv4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		recv6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (recv4 || recv6) && len(m.Data) >= 8 {
			out = append(out, m.Data)
		}
	}
	return out
}

// errorStatus reads what became of an echo request. Types and codes: RFC 792, RFC
// 1812, RFC 4443.
func errorStatus(control []byte) (wire.EchoStatus, bool) {
	for _, b := range extendedErrors(control) {
		kind, code := b[5], b[6]
		switch b[4] {
		case unix.SO_EE_ORIGIN_ICMP:
			if kind == 11 {
				return wire.EchoTimeExceeded, true
			}
			if kind == 3 && (code == 9 || code == 10 || code == 13) {
				return wire.EchoForbidden, true
			}
		case unix.SO_EE_ORIGIN_ICMP6:
			if kind == 3 {
				return wire.EchoTimeExceeded, true
			}
			if kind == 1 && (code == 1 || code == 5 || code == 6) {
				return wire.EchoForbidden, true
			}
		}
		switch syscall.Errno(binary.NativeEndian.Uint32(b)) {
		case syscall.ENETUNREACH:
			return wire.EchoNetUnreachable, true
		case syscall.EHOSTUNREACH, syscall.ECONNREFUSED, syscall.EPROTO, syscall.EHOSTDOWN:
			return wire.EchoHostUnreachable, true
		case syscall.EACCES, syscall.EPERM:
			return wire.EchoForbidden, true
		}
	}
	return 0, false
}
