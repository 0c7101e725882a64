package hostnet

import (
	"errors"
	"net/netip"
)

// ErrNoOwner says that no socket of this machine belongs to a flow.
var ErrNoOwner = errors.New("no socket of this machine")

// OwnerTCP is not known on this system.
func OwnerTCP(_, _ netip.AddrPort) (uid uint32, err error) { return 0, ErrNoOwner }

// OwnerUDP is not known on this system.
func OwnerUDP(_, _ netip.AddrPort) (uid uint32, err error) { return 0, ErrNoOwner }
