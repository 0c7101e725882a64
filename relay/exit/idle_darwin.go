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
