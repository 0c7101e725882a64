package node

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"cuttle/internal/config"
	"cuttle/obfs"
	"cuttle/relay/link"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

const (
	recordLife = 90 * 24 * time.Hour
	recordSlip = time.Hour // clocks of others may be behind by this
)

// RecordLine makes this node's signed record and returns it as a line of a
// static network map. It makes the node's keys when they are missing.
func RecordLine(cfg *config.Config) (string, error) {
	id, err := LoadIdentity(cfg.Node.State)
	if err != nil {
		return "", err
	}
	known, err := descriptors(cfg)
	if err != nil {
		return "", err
	}
	rec, err := makeRecord(cfg, id, known, time.Now())
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(netmap.AppendLine(nil, rec)), "\n"), nil
}

// makeRecord signs what the configuration says of this node. A node that only
// originates has a record too, since neighbors authenticate it; it lists
// nothing and is in no map.
func makeRecord(cfg *config.Config, id *Identity, known map[wire.NodeID]obfs.Descriptor, now time.Time) (*netmap.Record, error) {
	r := netmap.Record{
		KEM: id.Handshake.Public(), Sequence: uint64(now.Unix()),
		From: now.Add(-recordSlip).Unix(), Until: now.Add(recordLife).Unix(),
	}
	if cfg.Node.Relay {
		r.Roles |= netmap.Relay
		r.Country = cfg.Node.Country
		r.RelayPrice = wire.Tier(cfg.Relay.Price)
		for nid := range known {
			r.Neighbors = append(r.Neighbors, nid)
		}
		for _, l := range cfg.Listen {
			if !slices.Contains(r.Masks, l.Mask) {
				r.Masks = append(r.Masks, l.Mask)
			}
		}
	}
	if cfg.Node.Exit {
		r.Roles |= netmap.Exit
		r.ExitPrice = wire.Tier(cfg.Exit.Price)
		policy, err := exitPolicy(cfg)
		if err != nil {
			return nil, err
		}
		v4, v6 := policy.Families()
		if v4 {
			r.Families |= netmap.IPv4
		}
		if v6 {
			r.Families |= netmap.IPv6
		}
		for _, p := range policy.Ports() {
			r.Ports = append(r.Ports, netmap.PortRange{First: p.First, Last: p.Last})
		}
	}
	return netmap.Sign(id.Sign, r)
}

// descriptors reads the neighbors of the configuration.
func descriptors(cfg *config.Config) (map[wire.NodeID]obfs.Descriptor, error) {
	known := make(map[wire.NodeID]obfs.Descriptor, len(cfg.Neighbor))
	for i, n := range cfg.Neighbor {
		d, err := obfs.ParseDescriptor(n.Descriptor)
		if err != nil {
			return nil, fmt.Errorf("neighbor %d: %w", i+1, err)
		}
		if _, twice := known[d.Node]; twice {
			return nil, fmt.Errorf("neighbor %d: listed twice; give its addresses in one descriptor", i+1)
		}
		known[d.Node] = d
	}
	return known, nil
}

func readMap(path string) (*netmap.Map, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("network map: %w; write one record per line, as `cuttled record` prints them", err)
	}
	m, err := netmap.ParseMap(b)
	if err != nil {
		return nil, fmt.Errorf("network map %s: %w", path, err)
	}
	return m, nil
}

var errUnwanted = errors.New("node is not a neighbor")

// checkNeighbor judges the record that a dialling neighbor shows: signed (Parse
// sees to that), valid now, and somebody we want.
func checkNeighbor(known map[wire.NodeID]obfs.Descriptor, strangers bool, record []byte) (link.Peer, error) {
	rec, err := netmap.Parse(slices.Clone(record))
	if err != nil {
		return link.Peer{}, err
	}
	if err := rec.ValidAt(time.Now()); err != nil {
		return link.Peer{}, err
	}
	if _, ok := known[rec.ID]; !ok && !strangers {
		return link.Peer{}, errUnwanted
	}
	return link.Peer{ID: rec.ID, KEM: rec.KEM}, nil
}
