package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	if state, _, _, _ := n.client.snapshot(); state == control.StateOff {
		return t
	}
	text, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return t // another system
	}
	t.Received, t.Sent = deviceBytes(string(text), n.cfg.Tun.Name)
	return t
}

// deviceBytes finds a device's counters in the text of /proc/self/net/dev (proc(5)):
// zeros when it is not there.
func deviceBytes(text, device string) (received, transmitted uint64) {
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if strings.TrimSpace(name) != device || len(f) < 9 {
			continue
		}
		r, err1 := strconv.ParseUint(f[0], 10, 64)
		t, err2 := strconv.ParseUint(f[8], 10, 64)
		if err1 == nil && err2 == nil {
			return r, t
		}
	}
	return 0, 0
}

// Allowed tells what may be seen on the physical devices.
func (n *Node) Allowed() control.Allowed {
	a := control.Allowed{TUN: n.cfg.Tun.Name}
	peers := peerAddresses(n.cfg, n.links.known)
	a.Any = peers == nil && (n.cfg.Node.Exit || len(n.links.known) > 0)
	// What goes beside the tunnel by an operator's choice is nobody's to judge.
	h := n.client.hold
	h.mu.Lock()
	a.Any = a.Any || h.let.Past != 0 || len(h.let.LAN) > 0 || h.let.Router != nil
	h.mu.Unlock()
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
