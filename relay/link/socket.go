package link

import (
	"net"
	"syscall"
)

// socketOf finds the socket beneath a mask's connection, nil if there is none.
func socketOf(conn net.Conn) syscall.RawConn {
	for conn != nil {
		if sc, ok := conn.(syscall.Conn); ok {
			raw, err := sc.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		under, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = under.NetConn()
	}
	return nil
}

// tuneSocket keeps the kernel's queue short, so that the scheduler decides late
// what goes next. A connection without a TCP socket beneath stays as it is.
func tuneSocket(conn net.Conn) {
	if raw := socketOf(conn); raw != nil {
		_ = raw.Control(setSocketOptions) // best effort: a link works without
	}
}
