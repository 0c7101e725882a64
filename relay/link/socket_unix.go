//go:build linux || darwin

package link

import "golang.org/x/sys/unix"

// notSentLowat is how much unsent data the kernel may hold before the socket
// counts as full, bytes: two batches.
const notSentLowat = 128 << 10

func setSocketOptions(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	setSystemOptions(int(fd))
}
