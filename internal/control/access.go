package control

import (
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
)

// peer is who is at the other end of a connection, as the kernel tells it.
type peer struct {
	uid     uint32
	process Process  // number 0 when the kernel does not tell
	groups  []uint32 // the primary one first; the others where the kernel tells them
}

// access says who may call.
type access struct {
	uid       uint32 // the daemon's own user
	group     uint32
	groupName string // "" when no group may
	member    func(uid, group uint32) bool
}

// newAccess resolves a group given by name or number; "" means none.
func newAccess(uid int, group string) (access, error) {
	a := access{uid: uint32(uid), groupName: group, member: isMember}
	if group == "" {
		return a, nil
	}
	id := group
	if g, err := user.LookupGroup(group); err == nil {
		id = g.Gid
	}
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return a, fmt.Errorf("group %q does not exist", group)
	}
	a.group = uint32(n)
	return a, nil
}

// allows tells whether p may read and write.
func (a access) allows(p peer) bool {
	if p.uid == 0 || p.uid == a.uid {
		return true
	}
	if a.groupName == "" {
		return false
	}
	return slices.Contains(p.groups, a.group) || a.member(p.uid, a.group)
}

func (a access) hint() string {
	if a.groupName == "" {
		return "run it as root, or name a group in the configuration (control_group)"
	}
	return fmt.Sprintf("run it as root, or as a member of the group %q", a.groupName)
}

// isMember asks the system's user database, since SO_PEERCRED names the primary
// group only. Unknown users are members of nothing.
func isMember(uid, group uint32) bool {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return false
	}
	ids, err := u.GroupIds()
	return err == nil && slices.Contains(ids, strconv.FormatUint(uint64(group), 10))
}

// identify asks the kernel who connected.
func identify(c net.Conn) (peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{}, fmt.Errorf("peer credentials: not a unix socket: %T", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	var p peer
	var failed error
	if err := raw.Control(func(fd uintptr) { p, failed = credentials(int(fd)) }); err != nil {
		return peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	if failed != nil {
		return peer{}, fmt.Errorf("peer credentials: %w", failed)
	}
	return p, nil
}
