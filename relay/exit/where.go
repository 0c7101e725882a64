package exit

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
)

// Types of the questions about ourselves that have an answer.
const (
	typeA    = 1
	typeAAAA = 28
)

// whereName is the name, in wire form and lower case, that an exit answers itself:
// under which addresses destinations see it (docs/protocol.md, "Where an exit is").
var whereName = []byte("\x04exit\x06cuttle\x00")

// Public hosts of either family, of the root of the DNS. Nothing is sent to them:
// the kernel is asked which of our addresses it would use.
var (
	away4 = netip.MustParseAddrPort("198.41.0.4:53")
	away6 = netip.MustParseAddrPort("[2001:503:ba3e::2:30]:53")
)

// where answers a question for whereName; nil: it is another question. Addresses
// that no stranger could be given are kept back, since they would tell about the
// exit's own network and are not what a destination sees: behind NAT the answer
// is empty.
func (e *Exit) where(ctx context.Context, query []byte) []byte {
	q := question(query)
	if q == nil || !bytes.Equal(bytes.ToLower(q[:len(q)-4]), whereName) {
		return nil
	}
	answer := failure(query, 0)
	var out netip.AddrPort
	switch binary.BigEndian.Uint16(q[len(q)-4:]) {
	case typeA:
		out = away4
	case typeAAAA:
		out = away6
	default:
		return answer
	}
	source := e.source(ctx, out)
	if !source.IsValid() || source.Is4() != out.Addr().Is4() || !e.cfg.Policy.shown(source) {
		return answer
	}
	answer[7] = 1                                     // one answer
	answer = append(answer, 0xc0, headerSize)         // its name: the question's
	answer = append(answer, q[len(q)-4:]...)          // type and class
	answer = binary.BigEndian.AppendUint32(answer, 0) // not to be kept
	answer = binary.BigEndian.AppendUint16(answer, uint16(source.BitLen()/8))
	return append(answer, source.AsSlice()...)
}

// sourceOf is the address that sockets of ours to out get, or none.
func (e *Exit) sourceOf(ctx context.Context, out netip.AddrPort) netip.Addr {
	d := net.Dialer{Control: e.cfg.Control}
	conn, err := d.DialContext(ctx, "udp", out.String()) // connects the socket, sends nothing
	if err != nil {
		return netip.Addr{} // no route in that family
	}
	defer conn.Close()
	a, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}
