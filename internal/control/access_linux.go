package control

import "golang.org/x/sys/unix"

// DefaultPath is where the socket is unless somebody says otherwise.
const DefaultPath = "/run/cuttle/control.sock"

// credentials reads SO_PEERCRED (unix(7)): who connected, at the time of connect.
func credentials(fd int) (peer, error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{}, err
	}
	return peer{uid: c.Uid, process: processOf(fd, int(c.Pid)), groups: []uint32{c.Gid}}, nil
}
