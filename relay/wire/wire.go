// Package wire holds the values and formats of the onion core: identifiers,
// the geometry of a cell, and parse/append pairs for everything that crosses a
// link (docs/protocol.md, sections 2, 4, 5 and 6).
//
// It is pure: bytes in, bytes out. It imports no sockets, files, clocks or
// logs, knows no keys and holds no state. Everybody above it uses it; nothing
// in it blocks or locks (the cell pool is a sync.Pool).
package wire

import (
	"encoding/base32"
	"fmt"
	"strings"
)

// Geometry of a cell, docs/protocol.md section 4.1. Everything else is derived
// from these values; no other place computes a size of its own.
const (
	MaxHops     = 6  // hops a circuit may have at most
	TagSize     = 16 // AEAD tag of one layer, bytes
	HeaderSize  = 4  // header sealed in one layer, bytes
	SlotSize    = TagSize + HeaderSize
	BodySize    = 1376 // a cell's body as a link carries it, bytes
	PayloadSize = BodySize - MaxHops*SlotSize
)

// NodeIDSize is the length of a node's address in bytes.
const NodeIDSize = 32

// NodeID is a node's address: its Ed25519 public key (RFC 8032), 32 bytes.
type NodeID [NodeIDSize]byte

var nodeIDText = base32.StdEncoding.WithPadding(base32.NoPadding)

// String gives the 52 characters of lower-case base32 (RFC 4648, section 6, no
// padding) by which people write the address.
func (id NodeID) String() string { return strings.ToLower(nodeIDText.EncodeToString(id[:])) }

// IsZero tells whether id is the zero value, which is nobody's address.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// ParseNodeID reads the form that String writes; upper case is accepted.
func ParseNodeID(s string) (NodeID, error) {
	var id NodeID
	b, err := nodeIDText.DecodeString(strings.ToUpper(s))
	if err == nil && len(b) == NodeIDSize {
		// The decoder passes over line breaks and spare bits; one key has one text.
		if id = NodeID(b); id.String() == strings.ToLower(s) {
			return id, nil
		}
	}
	return NodeID{}, fmt.Errorf("node address %q: want 52 characters of base32 (a-z, 2-7)", s)
}

// CircuitID names a circuit on one link, in both directions. Its highest bit
// tells who opened it: 0 the link's initiator, 1 its acceptor.
type CircuitID uint32

// StreamID names a stream within a session. The client chooses it.
type StreamID uint32

// Cells counts whole cells.
type Cells uint64

// Tier is a price per cell in network-wide steps: a circuit of tier t costs t
// times the base price (docs/protocol.md section 7). Zero is free.
type Tier uint8

// Class says which of a circuit's two counter spaces a cell belongs to.
type Class uint8

// The two classes of cells.
const (
	Reliable Class = 0 // streams and control: in order, nothing lost
	Datagram Class = 1 // datagrams: a counter space of their own
)
