package wire

import (
	"fmt"
	"log/slog"
	"net/netip"
)

// Destination is where a stream goes. The address is kept in a closure, so that
// no fmt verb, no slog handler, no encoder and no dump of an enclosing value
// prints it; Reveal is the one way to read it. The zero value is no destination
// (a DNS stream has none). Destinations cannot be compared with ==.
type Destination struct {
	reveal func() netip.AddrPort
}

const hidden = "(destination hidden)"

// NewDestination hides an address and port. An IPv4 address in IPv6 form
// (RFC 4291, section 2.5.5.2) becomes the IPv4 address; a zone is dropped. An
// invalid address gives the zero Destination.
func NewDestination(a netip.AddrPort) Destination {
	if !a.IsValid() {
		return Destination{}
	}
	a = netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	return Destination{func() netip.AddrPort { return a }}
}

// Reveal returns the address; the zero AddrPort if there is none.
func (d Destination) Reveal() netip.AddrPort {
	if d.reveal == nil {
		return netip.AddrPort{}
	}
	return d.reveal()
}

// IsZero tells whether there is no destination.
func (d Destination) IsZero() bool { return d.reveal == nil }

// Format prints a constant, whatever the verb and the value.
func (d Destination) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// LogValue is the same constant.
func (d Destination) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText is the same constant, so that no encoder writes the address.
func (d Destination) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// The types of a destination on the wire, docs/protocol.md section 6.
const (
	addrNone = 0
	addrIPv4 = 4
	addrIPv6 = 6
)

// appendTo appends the destination's bytes.
func (d Destination) appendTo(b []byte) []byte {
	if d.IsZero() {
		return append(b, addrNone)
	}
	a := d.Reveal()
	t := byte(addrIPv6)
	if a.Addr().Is4() {
		t = addrIPv4
	}
	b = append(append(b, t), a.Addr().AsSlice()...)
	return append(b, byte(a.Port()>>8), byte(a.Port()))
}

// parseDestination reads a destination and returns how many bytes it took.
func parseDestination(b []byte) (Destination, int, error) {
	if len(b) == 0 {
		return Destination{}, 0, errShort
	}
	size := 0
	switch b[0] {
	case addrNone:
		return Destination{}, 1, nil
	case addrIPv4:
		size = 4
	case addrIPv6:
		size = 16
	default:
		return Destination{}, 0, errUnknown
	}
	if len(b) < 1+size+2 {
		return Destination{}, 0, errShort
	}
	addr, _ := netip.AddrFromSlice(b[1 : 1+size])
	if addr.Is4In6() {
		return Destination{}, 0, errRange // has a shorter form: one meaning, one encoding
	}
	port := uint16(b[1+size])<<8 | uint16(b[2+size])
	return NewDestination(netip.AddrPortFrom(addr, port)), 1 + size + 2, nil
}
