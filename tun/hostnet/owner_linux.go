package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The layout of sock_diag(7): struct inet_diag_req_v2 and inet_diag_msg.
const (
	diagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	diagHead     = 16 // struct nlmsghdr
	diagRequest  = 56
	diagUID      = 64 // where inet_diag_msg has the owner
	diagMessage  = 72
)

// ErrNoOwner says that no socket of this machine belongs to a flow.
var ErrNoOwner = errors.New("no socket of this machine")

// OwnerTCP tells which user's socket a TCP connection from local to remote is: one
// question to the kernel, which looks it up as it does for a packet and lists
// nothing. ErrNoOwner: none, for example since another machine sent the packet.
func OwnerTCP(local, remote netip.AddrPort) (uid uint32, err error) {
	return socketOwner(unix.IPPROTO_TCP, local, remote)
}

// OwnerUDP is the same for UDP; sockets that are not connected are found, too.
func OwnerUDP(local, remote netip.AddrPort) (uid uint32, err error) {
	return socketOwner(unix.IPPROTO_UDP, remote, local) // the kernel looks for who would receive a packet from "source"
}

func socketOwner(protocol byte, src, dst netip.AddrPort) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	b := make([]byte, diagHead+diagRequest)
	native := binary.NativeEndian
	native.PutUint32(b[0:], uint32(len(b)))
	native.PutUint16(b[4:], diagByFamily)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	native.PutUint32(b[8:], 1) // sequence
	r := b[diagHead:]
	r[0], r[1] = unix.AF_INET6, protocol
	if src.Addr().Unmap().Is4() {
		r[0] = unix.AF_INET
	}
	native.PutUint32(r[4:], ^uint32(0)) // all states
	binary.BigEndian.PutUint16(r[8:], src.Port())
	binary.BigEndian.PutUint16(r[10:], dst.Port())
	copy(r[12:28], src.Addr().Unmap().AsSlice())
	copy(r[28:44], dst.Addr().Unmap().AsSlice())
	native.PutUint64(r[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	return ownerIn(answer[:n])
}

// ownerIn reads the kernel's answer.
func ownerIn(b []byte) (uint32, error) {
	native := binary.NativeEndian
	if len(b) >= diagHead+4 && native.Uint16(b[4:]) == unix.NLMSG_ERROR {
		if code := unix.Errno(-int32(native.Uint32(b[diagHead:]))); code != 0 && code != unix.ENOENT {
			return 0, fmt.Errorf("sock_diag: %w", code)
		}
		return 0, ErrNoOwner
	}
	if len(b) < diagHead+diagMessage || native.Uint16(b[4:]) != diagByFamily {
		return 0, errors.New("sock_diag: answer cannot be read")
	}
	return native.Uint32(b[diagHead+diagUID:]), nil
}
