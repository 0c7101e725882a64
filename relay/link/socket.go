package link

import (
	"net"
	"syscall"
)

// tuneSocket finds the socket beneath a mask's connection and keeps the
// kernel's queue short, so that the scheduler decides late what goes next. A
// connection without a TCP socket beneath stays as it is.
func tuneSocket(conn net.Conn) {
	for conn != nil {
		if sc, ok := conn.(syscall.Conn); ok {
			if raw, err := sc.SyscallConn(); err == nil {
				_ = raw.Control(setSocketOptions) // best effort: a link works without
			}
			return
		}
		under, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return
		}
		conn = under.NetConn()
	}
}
