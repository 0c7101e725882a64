package netmap

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"cuttle/relay/wire"
)

const (
	recordVersion   = 1
	signatureDomain = "cuttle record v1\x00"

	maxMaskName = 16
)

// Bounds of a record's lists.
const (
	MaxMasks     = 8
	MaxPorts     = 32
	MaxNeighbors = 64
)

// Roles are what a node offers; none is a node that only originates.
type Roles uint16

// The roles.
const (
	Relay Roles = 1 << 0
	Exit  Roles = 1 << 1
)

// Families are the IP families that an exit reaches.
type Families uint8

// The families.
const (
	IPv4 Families = 1 << 0
	IPv6 Families = 1 << 1
)

// PortRange is a range of ports of public addresses, both ends included.
type PortRange struct{ First, Last uint16 }

// Record is what the network may know about a node. It has no IP address, no
// wallet and no location finer than a country.
type Record struct {
	ID                    wire.NodeID
	KEM                   []byte // handshake key, wire.KEMPublicSize bytes
	Sequence              uint64 // a higher one replaces a lower one
	From, Until           int64  // validity, Unix seconds; From is included, Until is not
	Roles                 Roles
	Families              Families
	Country               string // ISO 3166-1 alpha-2 upper case, or empty
	RelayPrice, ExitPrice wire.Tier
	Masks                 []string
	Ports                 []PortRange // exit policy
	Neighbors             []wire.NodeID

	raw []byte // the signed bytes
}

// Bytes returns the signed record. The caller must not change it.
func (r *Record) Bytes() []byte { return r.raw }

// Lists tells whether the record names id as a neighbor.
func (r *Record) Lists(id wire.NodeID) bool {
	_, ok := slices.BinarySearchFunc(r.Neighbors, id, compareIDs)
	return ok
}

// Accepts tells whether the exit policy takes that port of public addresses.
func (r *Record) Accepts(port uint16) bool {
	return slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.First <= port && port <= p.Last })
}

// Errors of ValidAt.
var (
	ErrExpired     = errors.New("record has expired")
	ErrNotYetValid = errors.New("record is not valid yet")
)

// ValidAt returns nil if the record is valid at that time, else ErrExpired or
// ErrNotYetValid.
func (r *Record) ValidAt(t time.Time) error {
	switch now := t.Unix(); {
	case now < r.From:
		return ErrNotYetValid
	case now >= r.Until:
		return ErrExpired
	}
	return nil
}

func compareIDs(a, b wire.NodeID) int { return bytes.Compare(a[:], b[:]) }

// Sign makes a signed record of r's fields; ID is taken from the key and
// Neighbors are put in order, r itself is left as it was. It refuses values that
// Parse would refuse.
func Sign(key ed25519.PrivateKey, r Record) (*Record, error) {
	copy(r.ID[:], key.Public().(ed25519.PublicKey))
	r.Neighbors = slices.Compact(slices.SortedFunc(slices.Values(r.Neighbors), compareIDs))
	switch {
	case len(r.KEM) != wire.KEMPublicSize:
		return nil, fmt.Errorf("sign record: handshake key of %d bytes", len(r.KEM))
	case len(r.Masks) > MaxMasks, len(r.Ports) > MaxPorts, len(r.Neighbors) > MaxNeighbors:
		return nil, errors.New("sign record: more than 8 masks, 32 port ranges or 64 neighbors")
	case r.Country != "" && len(r.Country) != 2:
		return nil, errors.New("sign record: country has two letters")
	case slices.ContainsFunc(r.Masks, func(m string) bool { return len(m) > maxMaskName }):
		return nil, errors.New("sign record: name of a mask has at most 16 letters")
	}
	b := r.appendUnsigned(nil)
	b = append(b, ed25519.Sign(key, signed(b))...)
	out, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("sign record: %w", err)
	}
	return out, nil
}

// signed gives the bytes that the signature covers.
func signed(unsigned []byte) []byte {
	return append([]byte(signatureDomain), unsigned...)
}

func (r *Record) appendUnsigned(b []byte) []byte {
	b = append(append(append(b, recordVersion), r.ID[:]...), r.KEM...)
	b = binary.BigEndian.AppendUint64(b, r.Sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(r.From))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Until))
	b = binary.BigEndian.AppendUint16(b, uint16(r.Roles))
	b = append(b, byte(r.Families))
	var country [2]byte
	copy(country[:], r.Country)
	b = append(b, country[0], country[1], byte(r.RelayPrice), byte(r.ExitPrice), byte(len(r.Masks)))
	for _, m := range r.Masks {
		b = append(append(b, byte(len(m))), m...)
	}
	b = append(b, byte(len(r.Ports)))
	for _, p := range r.Ports {
		b = binary.BigEndian.AppendUint16(b, p.First)
		b = binary.BigEndian.AppendUint16(b, p.Last)
	}
	b = append(b, byte(len(r.Neighbors)))
	for _, id := range r.Neighbors {
		b = append(b, id[:]...)
	}
	return b
}

var errRecord = errors.New("malformed record")

// Parse reads a record and verifies its signature: there is no Record that its
// node did not sign. The record keeps b, which the caller must not change.
func Parse(b []byte) (*Record, error) {
	if len(b) > wire.MaxRecordSize || len(b) < ed25519.SignatureSize {
		return nil, fmt.Errorf("%w: %d bytes", errRecord, len(b))
	}
	unsigned, signature := b[:len(b)-ed25519.SignatureSize], b[len(b)-ed25519.SignatureSize:]
	rd := reader{b: unsigned}
	r := &Record{raw: b}
	r.read(&rd)
	if rd.bad == "" && len(rd.b) != 0 {
		rd.bad = "trailing bytes"
	}
	if rd.bad != "" {
		return nil, fmt.Errorf("%w: %s", errRecord, rd.bad)
	}
	if !ed25519.Verify(r.ID[:], signed(unsigned), signature) {
		return nil, fmt.Errorf("%w: signature does not verify", errRecord)
	}
	return r, nil
}

// reader takes bytes from the front of b; the first complaint stays.
type reader struct {
	b   []byte
	bad string
}

func (rd *reader) refuse(why string) {
	if rd.bad == "" {
		rd.bad = why
	}
}

// take returns the next n bytes, or n zeros if there are not as many.
func (rd *reader) take(n int) []byte {
	if len(rd.b) < n {
		rd.refuse("too short")
		rd.b = nil
		return make([]byte, n)
	}
	out := rd.b[:n:n]
	rd.b = rd.b[n:]
	return out
}

func (rd *reader) u8() uint8   { return rd.take(1)[0] }
func (rd *reader) u16() uint16 { return binary.BigEndian.Uint16(rd.take(2)) }
func (rd *reader) u64() uint64 { return binary.BigEndian.Uint64(rd.take(8)) }

// count reads the length of a list.
func (rd *reader) count(most int, what string) int {
	n := int(rd.u8())
	if n > most {
		rd.refuse("too many " + what)
		return 0
	}
	return n
}

// read reads the fields in the order of docs/protocol.md section 2.
func (r *Record) read(rd *reader) {
	if rd.u8() != recordVersion {
		rd.refuse("unknown version")
	}
	r.ID = wire.NodeID(rd.take(wire.NodeIDSize))
	r.KEM = rd.take(wire.KEMPublicSize)
	r.Sequence = rd.u64()
	r.From, r.Until = int64(rd.u64()), int64(rd.u64())
	if r.From < 0 || r.Until <= r.From {
		rd.refuse("empty time of validity")
	}
	if r.Roles = Roles(rd.u16()); r.Roles&^(Relay|Exit) != 0 {
		rd.refuse("unknown role")
	}
	if r.Families = Families(rd.u8()); r.Families&^(IPv4|IPv6) != 0 {
		rd.refuse("unknown IP family")
	}
	if country := rd.take(2); country[0] != 0 || country[1] != 0 {
		if !upper(country[0]) || !upper(country[1]) {
			rd.refuse("country is not two capital letters")
		}
		r.Country = string(country)
	}
	r.RelayPrice, r.ExitPrice = wire.Tier(rd.u8()), wire.Tier(rd.u8())
	r.readLists(rd)
}

func upper(c byte) bool { return c >= 'A' && c <= 'Z' }

func (r *Record) readLists(rd *reader) {
	for range rd.count(MaxMasks, "masks") {
		n := int(rd.u8())
		name := string(rd.take(n))
		if n < 1 || n > maxMaskName || !maskName(name) || slices.Contains(r.Masks, name) {
			rd.refuse("name of a mask")
		}
		r.Masks = append(r.Masks, name)
	}
	for range rd.count(MaxPorts, "port ranges") {
		p := PortRange{rd.u16(), rd.u16()}
		if p.First > p.Last {
			rd.refuse("empty port range")
		}
		r.Ports = append(r.Ports, p)
	}
	for i := range rd.count(MaxNeighbors, "neighbors") {
		id := wire.NodeID(rd.take(wire.NodeIDSize))
		if i > 0 && compareIDs(r.Neighbors[i-1], id) >= 0 {
			rd.refuse("neighbors are not in order")
		}
		if id == r.ID {
			rd.refuse("node is its own neighbor")
		}
		r.Neighbors = append(r.Neighbors, id)
	}
}

// maskName tells whether s has only lower-case letters, digits and hyphens.
func maskName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
