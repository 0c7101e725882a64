package exit

import "golang.org/x/sys/unix"

// moved counts the bytes of a TCP connection (TCP_CONNECTION_INFO of netinet/tcp.h);
// false: there are no figures.
func moved(fd uintptr) (uint64, bool) {
	info, err := unix.GetsockoptTCPConnectionInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	if err != nil {
		return 0, false
	}
	return info.Txbytes + info.Rxbytes, true
}

// closed tells whether both directions of a TCP connection have ended (TCPS_CLOSED of
// netinet/tcp_fsm.h).
func closed(fd uintptr) bool {
	info, err := unix.GetsockoptTCPConnectionInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	return err == nil && info.State == 0
}
