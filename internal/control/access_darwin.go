package control

import "golang.org/x/sys/unix"

// DefaultPath is where the socket is unless somebody says otherwise. Nobody can make
// /run there.
const DefaultPath = "/var/run/cuttle/control.sock"

// credentials reads LOCAL_PEERCRED (unix(4)): who connected, with all groups.
func credentials(fd int) (peer, error) {
	c, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return peer{}, err
	}
	n := min(max(int(c.Ngroups), 0), len(c.Groups))
	return peer{uid: c.Uid, groups: append([]uint32(nil), c.Groups[:n]...)}, nil
}
