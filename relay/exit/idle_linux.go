package exit

import "golang.org/x/sys/unix"

// moved counts the bytes of a TCP connection that were acknowledged or received
// (tcp(7), TCP_INFO); false: there are no figures.
func moved(fd uintptr) (uint64, bool) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.Bytes_acked + info.Bytes_received, true
}

// closed tells whether both directions of a TCP connection have ended (net/tcp_states.h).
func closed(fd uintptr) bool {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE
}
