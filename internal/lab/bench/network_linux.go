package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/emulate"
)

const kernelRouting = "kernel routing"

// Congestion controls of the kernel that tables are measured under: what the
// machine has by default, and what bears loss. Others may be forbidden in
// namespaces.
const (
	usual = ""
	hardy = "bbr"
)

// world is what a row is measured in.
type world struct {
	options    lab.Options
	line       bool // nodes in a row, without the router between them
	congestion string
}

// with makes a lab, has the system started in it and used, and removes it.
func (w world) with(ctx context.Context, start func(*lab.Lab) (from, error), use func(*lab.Lab, from) error) (err error) {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l, err := lab.Build(ctx, w.options, func(string) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if w.congestion != usual {
		if err := l.Congestion(w.congestion); err != nil {
			return err
		}
	}
	if w.line {
		if err := l.Line(order(l)...); err != nil {
			return err
		}
	}
	f, err := start(l)
	if err != nil {
		return err
	}
	f.url = server(l)
	return use(l, f)
}

// measure takes all figures of a system in a lab.
func (w world) measure(ctx context.Context, c Config, name string, e extent, start func(*lab.Lab) (from, error)) row {
	say("%s", name)
	r := row{name: name}
	err := w.with(ctx, start, func(l *lab.Lab, f from) error {
		r = measure(ctx, c, l, name, f, e)
		return nil
	})
	r.err = errors.Join(r.err, err)
	return r
}

// order is the row of nodes: client, its guard, other relays, an exit, server.
func order(l *lab.Lab) []string {
	client := l.Plan().Clients()[0]
	names := []string{client.Name, client.Neighbors[0]}
	last := ""
	for _, n := range l.Plan().Nodes {
		switch {
		case n.Role == lab.RoleExit:
			last = n.Name
		case n.Role == lab.RoleRelay && n.Name != client.Neighbors[0]:
			names = append(names, n.Name)
		}
	}
	return append(names, last, "web")
}

// inARow is a network of as many relays as a circuit has, in a row.
func (c Config) inARow(mask string) world {
	o := c.Options
	o.Nodes, o.Exits, o.Clients, o.Guards, o.Mask, o.Shape, o.Billing = o.Hops, 1, 1, 1, mask, emulate.Shape{}, false
	return world{options: o, line: o.Hops > 1, congestion: usual}
}

// far is such a network whose links have delay, a rate, and loss.
func (c Config) far(mask string, loss float64) world {
	w := c.inARow(mask)
	w.line, w.congestion = false, hardy
	w.options.Shape = emulate.Shape{Delay: farDelay, Rate: farRate, Loss: loss}
	return w
}

// cuttle starts the daemons.
func cuttle(ctx context.Context) func(*lab.Lab) (from, error) {
	return func(l *lab.Lab) (from, error) {
		if err := lastLink(ctx, l); err != nil {
			return from{}, err
		}
		return from{node: l.Plan().Clients()[0].Name}, errors.Join(l.Start(ctx), l.Wait(ctx))
	}
}

// lastLink gives the path between exit and server the shape of the other links.
func lastLink(ctx context.Context, l *lab.Lab) error {
	names, shape := order(l), l.Plan().Options.Shape
	if shape.IsZero() {
		return nil
	}
	return l.SetLink(ctx, names[len(names)-2], "web", shape)
}

// plainly starts nothing: what all links in a row do to a packet is done between
// client and server.
func plainly(ctx context.Context) func(*lab.Lab) (from, error) {
	return func(l *lab.Lab) (from, error) {
		names, shape := order(l), l.Plan().Options.Shape
		f := from{node: names[0]}
		if shape.IsZero() {
			return f, nil
		}
		return f, l.SetLink(ctx, names[0], "web", inSeries(shape, len(names)-1))
	}
}

// inSeries is n links of a shape one after another.
func inSeries(s emulate.Shape, n int) emulate.Shape {
	kept := 1.0
	for range n {
		kept *= 1 - s.Loss
	}
	s.Delay, s.Loss = s.Delay*time.Duration(n), 1-kept
	return s
}

// Network measures Cuttle alone: with each mask on perfect and far links, how
// fast it recovers from failures, what it makes of the rate that links allow, and
// how soon new connections have their first byte. What could not be measured is in the tables' text and in the error.
func Network(ctx context.Context, c Config) error {
	var b strings.Builder
	var failed error
	add := func(rows ...row) {
		for _, r := range rows {
			if r.err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", r.name, r.err))
			}
		}
		b.WriteString(table(rows) + "\n")
	}
	masks := []string{"plain", "https"}
	b.WriteString(c.conditions(near, usual))
	rows := []row{c.inARow("plain").measure(ctx, c, kernelRouting, near, plainly(ctx))}
	for _, mask := range masks {
		rows = append(rows, c.inARow(mask).measure(ctx, c, fmt.Sprintf("Cuttle, %d hops, %s", c.Options.Hops, mask), near, cuttle(ctx)))
	}
	add(rows...)
	for _, loss := range []float64{0, farLoss} {
		w := c.far("plain", loss)
		fmt.Fprintf(&b, "\nEach of %d %s. %s", c.Options.Hops+1, describe(w.options.Shape), c.conditions(far, hardy))
		rows := []row{w.measure(ctx, c, kernelRouting, far, plainly(ctx))}
		for _, mask := range masks {
			w := c.far(mask, loss)
			rows = append(rows, w.measure(ctx, c, fmt.Sprintf("Cuttle, %d hops, %s", c.Options.Hops, mask), far, cuttle(ctx)))
		}
		add(rows...)
	}
	if ctx.Err() == nil {
		text, err := Recovery(ctx, c)
		failed = errors.Join(failed, err)
		b.WriteString("\n" + text)
	}
	if ctx.Err() != nil {
		return lab.ErrInterrupted // half a table replaces no whole one
	}
	failed = errors.Join(failed, c.publish("network", b.String()))
	return errors.Join(failed, Allowed(ctx, c), Early(ctx, c))
}
