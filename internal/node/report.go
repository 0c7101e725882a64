package node

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"cuttle/internal/control"
	"cuttle/obfs"
	"cuttle/relay/circuit"
	"cuttle/relay/link"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
	"cuttle/tun/hostnet"
)

var _ control.Node = (*Node)(nil)

// Status tells what the node is doing.
func (n *Node) Status() control.Status {
	state, since, circuits, problem := n.client.snapshot()
	s := control.Status{
		Schema: control.Schema, Version: version(), Node: n.id.ID.String(), Roles: n.roles(),
		State: state, Since: since.Unix(), PID: os.Getpid(), Started: n.started.Unix(),
		Hops: n.client.route().hops, Listen: []control.Listening{}, Links: len(n.links.up()), Circuits: len(circuits),
		Relayed: n.sw.Open(), Problems: []control.Problem{},
	}
	if state != control.StateOff {
		s.TUN = n.cfg.Tun.Name
	}
	for _, l := range n.links.listeners {
		s.Listen = append(s.Listen, control.Listening{Mask: l.mask.Name(), Address: l.raw.Addr().String()})
	}
	for _, c := range circuits {
		if c.Open && !c.Wished && (s.Exit == "" || c.Streams > 0) {
			s.Exit = c.Hops[len(c.Hops)-1].String()
		}
	}
	s.Locked, s.Seen = n.client.hold.locked(), n.client.proof.seen(s.Exit)
	if state != control.StateOff {
		for _, m := range n.client.hold.missing() {
			s.Problems = append(s.Problems, control.Problem{Text: m, Hint: hostnet.MissingHint})
		}
	}
	if problem != nil {
		p := control.Problem{Text: obfs.Scrub(problem).Error(), Hint: hint(state)}
		if state == control.StateConnecting && n.client.unmet(problem) {
			p.Hint, p.Stays = n.client.instead(), true
		}
		s.Problems = append(s.Problems, p)
	}
	s.Problems = append(append(s.Problems, n.moneyProblems(problem)...), n.client.deviceProblems(state)...)
	return s
}

func hint(s control.State) string {
	switch s {
	case control.StateBlocked:
		return "traffic stays blocked; `cuttle up` tries again, `cuttle down` opens"
	case control.StateConnecting:
		return "tried again by itself; `cuttle exits` and `cuttle neighbors` show what there is"
	default:
		return "the log says more"
	}
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return info.Main.Version
}

// Circuits lists our own circuits.
func (n *Node) Circuits() []control.Circuit {
	_, _, list, _ := n.client.snapshot()
	out := make([]control.Circuit, 0, len(list))
	for _, c := range list {
		out = append(out, n.describe(c))
	}
	return out
}

func (n *Node) describe(c circuit.Status) control.Circuit {
	out := control.Circuit{
		ID: strconv.FormatUint(c.ID, 10), State: control.CircuitOpen, Since: c.Created.Unix(), Streams: c.Streams,
		Exit: c.Hops[len(c.Hops)-1].String(),
	}
	switch {
	case !c.Open:
		out.State = control.CircuitClosed
	case c.Retiring:
		out.State = control.CircuitDraining
	}
	tiers := n.tiers(c.Hops)
	for i, id := range c.Hops {
		h := control.Hop{Node: id.String(), Tier: uint8(tiers[i])}
		if rec, ok := n.links.mapped.Lookup(id); ok {
			h.Country = rec.Country
		}
		out.Hops = append(out.Hops, h)
	}
	return out
}

// tiers is what each hop of one of our circuits is paid, zeros when the map no
// longer has a hop's record.
func (n *Node) tiers(hops []wire.NodeID) []wire.Tier {
	path := make([]*netmap.Record, len(hops))
	for i, id := range hops {
		rec, ok := n.links.mapped.Lookup(id)
		if !ok {
			return make([]wire.Tier, len(hops))
		}
		path[i] = rec
	}
	return netmap.Tiers(path)
}

// Neighbors lists those of the configuration and those that have a link.
func (n *Node) Neighbors() []control.Neighbor {
	nb := n.links
	nb.mu.Lock()
	defer nb.mu.Unlock()
	out := make([]control.Neighbor, 0, len(nb.known)+len(nb.live))
	for id, l := range nb.live {
		out = append(out, linked(id, l))
	}
	for id, d := range nb.known {
		if _, up := nb.live[id]; up {
			continue
		}
		v := control.Neighbor{Node: id.String(), State: control.LinkWaiting, Mask: d.Mask, Cells: []control.Cells{}}
		if len(d.Addresses) > 0 {
			v.State, v.Initiator, v.Error = control.LinkConnecting, true, nb.fail[id]
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b control.Neighbor) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	return out
}

func linked(id wire.NodeID, l liveLink) control.Neighbor {
	st := l.link.Status()
	v := control.Neighbor{
		Node: id.String(), State: control.LinkUp, Mask: l.mask, Initiator: l.initiator, Since: l.since.Unix(),
		RTT: float64(st.RTT) / float64(time.Millisecond), Circuits: st.Lanes, Cells: []control.Cells{},
	}
	for _, p := range []struct {
		payer link.Payer
		name  string
	}{{link.WePay, "we"}, {link.TheyPay, "they"}} {
		v.Cells = append(v.Cells, control.Cells{
			Payer: p.name, Sent: uint64(st.Cells[link.Sent][p.payer]), Received: uint64(st.Cells[link.Received][p.payer]),
		})
	}
	return v
}

// Up captures this machine's traffic.
func (n *Node) Up(context.Context) error { return n.wish(true) }

// Down releases it.
func (n *Node) Down(context.Context) error { return n.wish(false) }

// Lock turns the lock: with it on the machine stays closed when the client is
// off, and after the daemon has ended. It returns when that is so.
func (n *Node) Lock(ctx context.Context, on bool) error {
	if !n.cfg.Client.Enabled {
		return errNoClient()
	}
	if err := n.client.hold.setLock(on); err != nil {
		return err
	}
	done := make(chan error, 1)
	select {
	case n.client.relock <- done:
		return <-done
	case <-ctx.Done():
		return fmt.Errorf("the lock is turned, but not in force yet: %w", ctx.Err())
	}
}

func errNoClient() error {
	return &control.Error{Text: "this node does not capture traffic", Hint: "set client.enabled = true in its configuration and restart it"}
}

func (n *Node) wish(up bool) error {
	if !n.cfg.Client.Enabled {
		return errNoClient()
	}
	n.client.want(up)
	return nil
}
