package hostnet

import (
	"errors"

	"golang.org/x/sys/unix"
)

// routeEvents gives a token when the kernel has reported a change. stop ends it.
func routeEvents() (reported <-chan struct{}, stop func()) {
	f, err := subscribe(unix.NETLINK_ROUTE, []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE})
	if err != nil {
		return nil, func() {}
	}
	c, ended := make(chan struct{}, 1), make(chan struct{})
	go func() { // ends when stop closes f
		defer close(ended)
		buf := make([]byte, 1<<16)
		for {
			if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}()
	return c, func() {
		_ = f.Close()
		<-ended
	}
}
