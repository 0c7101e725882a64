package hostnet

import "net/netip"

// HardwareAddress is not known on this system, which is no router.
func HardwareAddress(_ string, _ netip.Addr) (string, error) { return "", ErrUnsupported }
