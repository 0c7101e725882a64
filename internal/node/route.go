package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// route is how circuits are to go: at first as the configuration says, later as the
// operator says, until the daemon ends.
type route struct {
	hops  int
	exits []netmap.ExitWish
	names []string // exits as they were written
}

// want tells what is wanted now.
func (c *client) route() route {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wished
}

// reroute changes how new circuits go; those in use stay until their last flow has
// ended. What is zero or nil stays as it is.
func (c *client) reroute(hops int, exits []string) error {
	if hops < 0 || hops > wire.MaxHops {
		return &control.Error{Status: 400, Text: fmt.Sprintf("%d hops", hops), Hint: fmt.Sprintf("want 1 to %d", wire.MaxHops)}
	}
	var wishes []netmap.ExitWish
	if exits != nil && !slices.Equal(exits, []string{"any"}) {
		var err error
		if wishes, err = exitWishes(exits); err != nil {
			return &control.Error{Status: 400, Text: err.Error(), Hint: "want countries (DE) or node addresses, in order of preference, or any"}
		}
	}
	c.mu.Lock()
	if hops != 0 {
		c.wished.hops = hops
	}
	if exits != nil {
		c.wished.exits, c.wished.names = wishes, exits
	}
	pool := c.pool
	c.mu.Unlock()
	if pool != nil {
		pool.Renew(true)
		c.onward.names.Clear()
	}
	return nil
}

// chooseFor finds a path for a want.
func (c *client) chooseFor(w circuit.Want, avoid []wire.NodeID) ([]*netmap.Record, error) {
	r := c.route()
	if len(w.Exits) > 0 {
		r.exits = w.Exits
	}
	return c.choosePath(r, r.exits, netmap.Constraints{Avoid: avoid, Families: w.Families, Port: w.Port, NotExits: w.Not})
}

var errOrdered = errors.New("exits are wanted in an order")

// chooseElse finds a path to another exit than the one given. Where exits are wanted
// in an order, no other one is as welcome.
func (c *client) chooseElse(exit wire.NodeID, avoid []wire.NodeID) ([]*netmap.Record, error) {
	r := c.route()
	if len(r.exits) > 1 {
		return nil, errOrdered
	}
	return c.choosePath(r, r.exits, netmap.Constraints{Avoid: avoid, NotExits: []wire.NodeID{exit}})
}

// other tells why no exit serves a want.
func (c *client) other(w circuit.Want) error {
	_, err := c.chooseFor(w, nil)
	return err
}

// unmet tells whether no circuit can come of waiting: the pool has found no exit that
// is wanted, and that is still so with all that the map, which is read at the start,
// has. Without a link it is not said, nor while an exit's record is not valid yet: the
// clock may be wrong then, and be set.
func (c *client) unmet(problem error) bool {
	if !errors.Is(problem, netmap.ErrNoExit) || !errors.Is(c.other(circuit.Want{}), netmap.ErrNoExit) {
		return false
	}
	now := time.Now()
	return !slices.ContainsFunc(c.mapped.Records(), func(rec *netmap.Record) bool {
		return rec.Roles&netmap.Exit != 0 && rec.ID != c.self && errors.Is(rec.ValidAt(now), netmap.ErrNotYetValid)
	})
}

// countriesMost bounds the countries that one hint names.
const countriesMost = 20

// instead is the hint for wishes that no exit fits: which exits there are.
func (c *client) instead() string {
	var names []string
	some, now := false, time.Now()
	for _, rec := range c.mapped.Records() {
		if rec.Roles&netmap.Exit == 0 || rec.ID == c.self || rec.ValidAt(now) != nil {
			continue
		}
		some = true
		if rec.Country != "" && !slices.Contains(names, rec.Country) {
			names = append(names, rec.Country)
		}
	}
	if !some {
		return "the map of this node (node.map) has no exit that is valid now"
	}
	slices.Sort(names)
	where := "that name no country"
	if len(names) > 0 {
		where = "in " + strings.Join(names[:min(len(names), countriesMost)], ", ")
	}
	if len(names) > countriesMost {
		where += " and others"
	}
	return "there are exits " + where + ": `cuttle exits` lists them, `cuttle up --exit any` takes any"
}

// UpWith captures this machine's traffic over paths as the options say.
func (n *Node) UpWith(_ context.Context, o control.UpOptions) error {
	if !n.cfg.Client.Enabled {
		return errNoClient()
	}
	if o.Hops != 0 || o.Exit != nil {
		if err := n.client.reroute(o.Hops, o.Exit); err != nil {
			return err
		}
	}
	n.client.want(true)
	return nil
}

// NewPath has new flows use circuits that nothing has used.
func (n *Node) NewPath(context.Context) error {
	if !n.cfg.Client.Enabled {
		return errNoClient()
	}
	return n.client.newPath()
}

func (c *client) newPath() error {
	c.mu.Lock()
	pool := c.pool
	c.mu.Unlock()
	if pool == nil {
		return &control.Error{Status: 409, Text: "this machine's traffic is not captured", Hint: "`cuttle up` first"}
	}
	pool.Renew(false)
	c.onward.names.Clear()
	return nil
}
