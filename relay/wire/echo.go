package wire

import (
	"encoding/binary"
	"fmt"
)

// Sizes of what a flow of kind echo carries, docs/protocol.md section 6.3.
const (
	EchoHead = 1 + 2
	MaxEcho  = 1500 - 20 - 8 // bytes of data of an echo, so that no path needs to fragment it
)

// EchoStatus is the first byte of a datagram of a flow of kind echo.
type EchoStatus uint8

// EchoData is an echo request to, or an echo reply from, the destination. The
// others come from the exit and tell that a network refused the request.
const (
	EchoData            EchoStatus = 0
	EchoHostUnreachable EchoStatus = 2
	EchoNetUnreachable  EchoStatus = 3
	EchoForbidden       EchoStatus = 5
	EchoTimeExceeded    EchoStatus = 9
)

// AppendEcho appends a datagram of a flow of kind echo. data is at most MaxEcho
// bytes, and empty for every status but EchoData.
func AppendEcho(b []byte, s EchoStatus, sequence uint16, data []byte) []byte {
	most := MaxEcho
	if s != EchoData {
		most = 0
	}
	mustSize("echo", len(data), 0, most)
	return append(binary.BigEndian.AppendUint16(append(b, byte(s)), sequence), data...)
}

// ParseEcho reads a datagram of a flow of kind echo; data is a slice of b.
func ParseEcho(b []byte) (s EchoStatus, sequence uint16, data []byte, err error) {
	if len(b) < EchoHead {
		return 0, 0, nil, fmt.Errorf("echo: %w", errShort)
	}
	s, sequence, data = EchoStatus(b[0]), binary.BigEndian.Uint16(b[1:]), b[EchoHead:]
	switch s {
	case EchoData:
		if len(data) > MaxEcho {
			return 0, 0, nil, fmt.Errorf("echo: %w", errRange)
		}
	case EchoHostUnreachable, EchoNetUnreachable, EchoForbidden, EchoTimeExceeded:
		if len(data) != 0 {
			return 0, 0, nil, fmt.Errorf("echo: %w", errTrail)
		}
	default:
		return 0, 0, nil, fmt.Errorf("echo: %w", errUnknown)
	}
	return s, sequence, data, nil
}
