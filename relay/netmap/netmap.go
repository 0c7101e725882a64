// Package netmap is what a node knows about the network: signed records of nodes
// (docs/protocol.md section 2), the map they make up, and the choice of a path
// through it.
//
// It is pure: bytes in, bytes out; the time and the randomness are arguments. It
// holds no unverified record, never returns a path that breaks a constraint or
// is shorter than asked for, and prefers to say which constraint cannot be met.
// relay/circuit chooses paths with it, relay/link's owner verifies neighbors'
// records, internal/lab and the daemon write them. Records are not changed after
// Parse. A Map has no lock: it is filled by one goroutine and may then be read by
// many.
package netmap

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"

	"cuttle/relay/wire"
)

// Map holds the newest record of each node. The zero value is an empty map.
type Map struct {
	records map[wire.NodeID]*Record
}

// Add puts a record in the map; for a node that it has already, the record with
// the higher sequence number stays. Two different records with the same number
// are an error, since no honest node makes them; the first one stays.
func (m *Map) Add(r *Record) error {
	old, ok := m.records[r.ID]
	switch {
	case ok && old.Sequence > r.Sequence:
		return nil
	case ok && old.Sequence == r.Sequence:
		if !bytes.Equal(old.raw, r.raw) {
			return fmt.Errorf("node %v has two records with sequence number %d", r.ID, r.Sequence)
		}
		return nil
	}
	if m.records == nil {
		m.records = map[wire.NodeID]*Record{}
	}
	m.records[r.ID] = r
	return nil
}

// Lookup returns the record of a node.
func (m *Map) Lookup(id wire.NodeID) (*Record, bool) {
	r, ok := m.records[id]
	return r, ok
}

// Len returns the number of nodes.
func (m *Map) Len() int { return len(m.records) }

// Records returns all records in ascending order of the nodes' addresses.
func (m *Map) Records() []*Record {
	return slices.SortedFunc(maps.Values(m.records), func(a, b *Record) int { return bytes.Compare(a.ID[:], b.ID[:]) })
}

// Edge tells whether two nodes are neighbors: both list each other.
func (m *Map) Edge(a, b wire.NodeID) bool {
	ra, okA := m.records[a]
	rb, okB := m.records[b]
	return okA && okB && mutual(ra, rb)
}

func mutual(a, b *Record) bool { return a.Lists(b.ID) && b.Lists(a.ID) }

// ParseMap reads a static network map: one record per line in standard base64;
// empty lines and lines that start with # do not count. Errors name the line.
// Whether records are valid at some time is asked later, by Choose.
func ParseMap(text []byte) (*Map, error) {
	m := &Map{}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) > base64.StdEncoding.EncodedLen(wire.MaxRecordSize) {
			return nil, fmt.Errorf("line %d: longer than any record", n)
		}
		raw, err := base64.StdEncoding.Strict().AppendDecode(nil, line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		r, err := Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := m.Add(r); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return m, nil
}

// AppendLine appends a record as one line of a static network map.
func AppendLine(b []byte, r *Record) []byte {
	return append(base64.StdEncoding.AppendEncode(b, r.raw), '\n')
}
