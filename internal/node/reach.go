package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cuttle/billing"
	"cuttle/internal/control"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// lookTime bounds the search for paths to exits, for one answer.
const lookTime = time.Second

// gigabyte is the number of cells that carry 10^9 bytes.
const gigabyte = wire.Cells((1_000_000_000 + wire.PayloadSize - 1) / wire.PayloadSize)

// Exits lists the exits of the map, with a path to each where there is one now.
func (n *Node) Exits() []control.Exit {
	now, out := time.Now(), []control.Exit{}
	for _, rec := range n.links.mapped.Records() {
		if rec.Roles&netmap.Exit == 0 || rec.ID == n.id.ID {
			continue
		}
		e := control.Exit{Node: rec.ID.String(), Country: rec.Country, Families: families(rec.Families), Tier: uint8(rec.ExitPrice)}
		switch {
		case !n.cfg.Client.Enabled:
			e.Reason = "this node does not capture traffic"
		case time.Since(now) > lookTime:
			e.Reason = "not looked for: there are many exits"
		default:
			path, err := n.client.chooseTo(rec.ID, nil)
			if err != nil {
				e.Reason = err.Error()
				break
			}
			e.Reachable, e.PathTier = true, uint8(netmap.Tiers(path)[0])
			e.Price = billing.Owed(gigabyte, wire.Tier(e.PathTier)).String()
		}
		out = append(out, e)
	}
	return out
}

func families(f netmap.Families) []string {
	out := []string{}
	if f&netmap.IPv4 != 0 {
		out = append(out, "ipv4")
	}
	if f&netmap.IPv6 != 0 {
		out = append(out, "ipv6")
	}
	return out
}

// Traffic reads the kernel's counters of the TUN device, where it has them: what
// the device transmits is what programs have sent.
func (n *Node) Traffic() control.Traffic {
	t := control.Traffic{Time: time.Now().UnixMilli(), CellSize: wire.CellFrameSize}
	if state, _, _, _ := n.client.snapshot(); state != control.StateOff {
		t.Sent, t.Received = deviceBytes(n.cfg.Tun.Name, "tx_bytes"), deviceBytes(n.cfg.Tun.Name, "rx_bytes")
	}
	return t
}

func deviceBytes(device, counter string) uint64 {
	text, err := os.ReadFile(filepath.Join("/sys/class/net", device, "statistics", counter))
	if err != nil {
		return 0 // no such device, or another system
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// Allowed tells what may be seen on the physical devices.
func (n *Node) Allowed() control.Allowed {
	a := control.Allowed{TUN: n.cfg.Tun.Name}
	peers := peerAddresses(n.cfg, n.links.known)
	a.Any = peers == nil && (n.cfg.Node.Exit || len(n.links.known) > 0)
	for _, p := range peers {
		a.Peers = append(a.Peers, p.String())
	}
	for _, l := range n.links.listeners {
		if at, err := netip.ParseAddrPort(l.raw.Addr().String()); err == nil {
			a.Listen = append(a.Listen, at.Port())
		}
	}
	return a
}

// serveMetrics answers on the loopback address of the configuration.
func (n *Node) serveMetrics(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", n.cfg.Node.Metrics)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return control.ServeMetrics(ctx, ln, n)
}
