// Package tun moves IP packets between the operating system and the stack.
//
// A Device gives and takes whole batches of packets in buffers that its caller
// reuses. Where the system can (Linux), a packet may be a super-packet: one TCP
// segment of up to 64 KiB that the kernel has not cut yet, or will cut for us,
// described by its Offload (the virtio-net header of the kernel's TUN driver).
// A packet never costs more than one system call, and a super-packet carries
// some 45 ordinary ones in it; that is what makes MTU 1500 as cheap as a large
// MTU here.
//
// The package does not look into packets, sets no addresses, no routes and no
// DNS (that is tun/hostnet), and keeps no queue of its own. There are two
// implementations: the system's device (Open) and a pair in memory (Pair).
// Package stack calls it; a Device is safe for one reader and many writers at
// the same time, and Close may be called at any time.
package tun

import "errors"

// MaxPacket is the largest packet a device reads or writes, in bytes. Buffers
// given to Read have at least this length.
const MaxPacket = 65535

// ErrClosed is what Read and Write return once the device has been closed.
var ErrClosed = errors.New("tun: device closed")

// Segmentation says how a super-packet has to be cut into packets.
type Segmentation uint8

// The kinds of super-packets. UDP is never aggregated, so that every datagram
// stays one.
const (
	Whole Segmentation = iota // an ordinary packet
	TCP4                      // TCP over IPv4
	TCP6                      // TCP over IPv6
)

// Offload is the work that was left undone in a packet. The zero value is an
// ordinary, finished packet. The meaning of the fields is that of struct
// virtio_net_hdr (Virtual I/O Device specification 1.2, section 5.1.6).
type Offload struct {
	Kind          Segmentation
	NeedsChecksum bool // the checksum field holds the pseudo-header's sum only
	Checked       bool // the kernel has verified the transport checksum

	HeaderLen      uint16 // bytes of network and transport header of a super-packet
	SegmentSize    uint16 // bytes of payload in each segment of a super-packet
	ChecksumStart  uint16 // where summing starts, from the start of the packet
	ChecksumOffset uint16 // where the sum goes, from ChecksumStart
}

// Packet is a packet that was read. Before Read, Data is a buffer of at least
// MaxPacket bytes; after it, Data is that buffer cut to the packet's length.
// The buffer belongs to the caller at all times outside Read.
type Packet struct {
	Data []byte
	Offload
}

// Vector is a packet to be written, in pieces that are written one after the
// other. The pieces belong to the caller again when Write returns.
type Vector struct {
	Pieces [][]byte
	Offload
}

// Device is one interface through which packets reach us and leave us.
type Device interface {
	// Name is the interface's name.
	Name() string

	// MTU is the interface's MTU when the device was opened, in bytes.
	MTU() int

	// Offloads tells whether Offload may be used in Write and is used by Read.
	Offloads() bool

	// Read waits for a packet, then takes those that are there without waiting
	// again, at most len(ps), and returns how many. One goroutine at a time.
	Read(ps []Packet) (int, error)

	// Write hands packets over in order. It never waits: a packet that the
	// system does not take at once is dropped, as on any wire. It returns how
	// many were taken. Many goroutines may write at once.
	Write(vs []Vector) (int, error)

	// Close ends Read and Write, now and later, with ErrClosed. The system's
	// interface disappears with its last user.
	Close() error
}
