package tun

import (
	"encoding/binary"
	"errors"
)

// headerSize is the length of struct virtio_net_hdr as the TUN driver uses it.
const headerSize = 10

// Values of struct virtio_net_hdr, include/uapi/linux/virtio_net.h.
const (
	flagNeedsChecksum = 1
	flagDataValid     = 2
	gsoNone           = 0
	gsoTCP4           = 1
	gsoTCP6           = 4
	gsoECN            = 0x80
)

var errHeader = errors.New("tun: unknown kind of offload")

// parseHeader reads the header in front of a packet that the kernel gave us.
// The header is in the machine's byte order.
func parseHeader(b *[headerSize]byte) (Offload, error) {
	o := Offload{
		NeedsChecksum:  b[0]&flagNeedsChecksum != 0,
		Checked:        b[0]&flagDataValid != 0,
		HeaderLen:      binary.NativeEndian.Uint16(b[2:]),
		SegmentSize:    binary.NativeEndian.Uint16(b[4:]),
		ChecksumStart:  binary.NativeEndian.Uint16(b[6:]),
		ChecksumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
	switch b[1] &^ gsoECN {
	case gsoNone:
	case gsoTCP4:
		o.Kind = TCP4
	case gsoTCP6:
		o.Kind = TCP6
	default:
		return Offload{}, errHeader
	}
	return o, nil
}

// putHeader writes o as the kernel wants it in front of a packet.
func putHeader(b *[headerSize]byte, o Offload) {
	*b = [headerSize]byte{}
	if o.NeedsChecksum {
		b[0] = flagNeedsChecksum
	}
	switch o.Kind {
	case Whole:
	case TCP4:
		b[1] = gsoTCP4
	case TCP6:
		b[1] = gsoTCP6
	}
	binary.NativeEndian.PutUint16(b[2:], o.HeaderLen)
	binary.NativeEndian.PutUint16(b[4:], o.SegmentSize)
	binary.NativeEndian.PutUint16(b[6:], o.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], o.ChecksumOffset)
}
