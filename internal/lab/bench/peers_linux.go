package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cuttle/internal/lab"
	"cuttle/internal/lab/peer"
)

// entry is a row that can be asked for.
type entry struct {
	key     string
	slow    bool // only when asked for
	measure func(ctx context.Context, c Config) row
}

// Keys of rows that are not peers'.
const (
	keyKernel = "kernel"
	keyPlain  = "cuttle-plain"
	keyHTTPS  = "cuttle-https"
	farPrefix = "far-" // and one of the above or "shadowsocks": links with delay, without and with loss
	keyEdge   = "edge" // TUN and stack alone
)

// nearRows are the systems on perfect links.
func nearRows(hops int) []entry {
	rows := []entry{
		{key: keyKernel, measure: func(ctx context.Context, c Config) row {
			return c.inARow("plain").measure(ctx, c, kernelRouting, near, plainly(ctx))
		}},
	}
	for key, mask := range map[string]string{keyPlain: "plain", keyHTTPS: "https"} {
		rows = append(rows, entry{key: key, measure: func(ctx context.Context, c Config) row {
			return c.inARow(mask).measure(ctx, c, fmt.Sprintf("Cuttle, %d hops, %s", hops, mask), near, cuttle(ctx))
		}})
	}
	slices.SortFunc(rows[1:], func(a, b entry) int { return -strings.Compare(a.key, b.key) })
	for _, p := range peer.All() {
		rows = append(rows, entry{key: p.Key, slow: p.Slow, measure: func(ctx context.Context, c Config) row {
			return c.inARow("plain").measure(ctx, c, p.Name, near, c.visit(ctx, p))
		}})
	}
	return rows
}

// farRows are those that are measured on links with delay and loss.
func farRows(hops int, loss float64) []entry {
	rows := []entry{
		{key: farPrefix + keyKernel, measure: func(ctx context.Context, c Config) row {
			return c.far("plain", loss).measure(ctx, c, kernelRouting, far, plainly(ctx))
		}},
		{key: farPrefix + keyPlain, measure: func(ctx context.Context, c Config) row {
			return c.far("plain", loss).measure(ctx, c, fmt.Sprintf("Cuttle, %d hops, plain", hops), far, cuttle(ctx))
		}},
	}
	for _, p := range peer.All() {
		if p.Key != "shadowsocks" {
			continue
		}
		rows = append(rows, entry{key: farPrefix + p.Key, measure: func(ctx context.Context, c Config) row {
			return c.far("plain", loss).measure(ctx, c, p.Name, far, c.visit(ctx, p))
		}})
	}
	return rows
}

// visit starts a peer in the place of the daemons.
func (c Config) visit(ctx context.Context, p peer.Peer) func(*lab.Lab) (from, error) {
	return func(l *lab.Lab) (from, error) {
		if err := lastLink(ctx, l); err != nil {
			return from{}, err
		}
		names := order(l)
		proxy, err := p.Start(ctx, l, c.Peers, names[0], names[1:len(names)-1])
		return from{node: names[0], proxy: proxy}, err
	}
}

// Keys are the words for Config.Rows.
func Keys() []string {
	var keys []string
	for _, e := range append(nearRows(0), farRows(0, 0)...) {
		keys = append(keys, e.key)
	}
	return append(keys, keyEdge)
}

// Peers measures Cuttle and other VPNs beside it, each in a network of its own of
// the same kind, one after another, and writes their tables. A row that could
// not be measured says why, and does not stop the others; then the error is not
// nil.
func Peers(ctx context.Context, c Config) error {
	for _, key := range c.Rows {
		if !slices.Contains(Keys(), key) {
			return fmt.Errorf("there is no row %q; there are %s", key, strings.Join(Keys(), ", "))
		}
	}
	var b strings.Builder
	var failed error
	section := func(title string, entries []entry) {
		var rows []row
		for _, e := range entries {
			if !c.wants(e) {
				continue
			}
			r := e.measure(ctx, c)
			if r.err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", r.name, r.err))
			}
			rows = append(rows, r)
		}
		if len(rows) > 0 {
			b.WriteString(title + table(rows) + "\n")
		}
	}
	hops := c.Options.Hops
	section(fmt.Sprintf("Client, %d hops and server in a row of namespaces, perfect links. ", hops)+c.conditions(near, usual), nearRows(hops))
	for _, loss := range []float64{0, farLoss} {
		shape := c.far("plain", loss).options.Shape
		section(fmt.Sprintf("Each of %d %s. ", hops+1, describe(shape))+c.conditions(far, hardy), farRows(hops, loss))
	}
	if c.wants(entry{key: keyEdge}) && ctx.Err() == nil {
		text, err := c.edge(ctx)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("TUN and stack alone: %w", err))
			text += "\nNot measured: " + strings.Join(strings.Fields(err.Error()), " ") + "\n"
		}
		b.WriteString(text)
	}
	if ctx.Err() != nil {
		return lab.ErrInterrupted // half a table replaces no whole one
	}
	return errors.Join(failed, c.publish("peers", b.String()))
}

func (c Config) wants(e entry) bool {
	if len(c.Rows) == 0 {
		return c.Slow || !e.slow
	}
	return slices.Contains(c.Rows, e.key)
}
