package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"

	"golang.org/x/sys/unix"
)

// harm is done to the circuit that carries a download; path is client, hops.
type harm struct {
	name  string
	apply func(ctx context.Context, l *lab.Lab, path []string) error
}

func killed(hop int) func(context.Context, *lab.Lab, []string) error {
	return func(ctx context.Context, l *lab.Lab, path []string) error {
		return l.Signal(ctx, path[hop], unix.SIGKILL)
	}
}

func parted(a, b int) func(context.Context, *lab.Lab, []string) error {
	return func(ctx context.Context, l *lab.Lab, path []string) error {
		return l.SetLink(ctx, path[a], path[b], emulate.Shape{Down: true})
	}
}

// Recovery measures how long a download stands still when a relay or a link of
// its circuit fails, on perfect and on far links, and gives a table. A download that
// breaks is an error.
func Recovery(ctx context.Context, c Config) (string, error) {
	var b strings.Builder
	b.WriteString("How long one download stands still when the circuit under it is harmed, in seconds:\n\n| links | harm | standstill | went on |\n|---|---|---|---|\n")
	var failed error
	for _, shape := range []emulate.Shape{{}, {Delay: farDelay, Rate: farRate}} {
		for _, h := range []harm{
			{"middle relay killed", killed(2)}, {"guard killed", killed(1)},
			{"link between guard and middle relay silently cut", parted(1, 2)}, {"link between client and guard silently cut", parted(0, 1)},
		} {
			links := describe(shape)
			say("recovery, %s: %s", links, h.name)
			r, err := recovery(ctx, c, shape, h)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s, %s: %w", links, h.name, err))
				fmt.Fprintf(&b, "| %s | %s | - | %s |\n", links, h.name, strings.Join(strings.Fields(err.Error()), " "))
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %.2f | at %.2g Gbit/s over %.0f s, standstill included |\n", links, h.name, r.Stall, r.Gbits(), r.Seconds)
		}
	}
	return b.String(), failed
}

// recovery loads a lab with spare relays and harms it after a while.
func recovery(ctx context.Context, c Config, shape emulate.Shape, h harm) (r load.Result, err error) {
	const before, window = 3 * time.Second, 15 * time.Second
	o := c.Options
	o.Shape, o.Billing = shape, false
	l, err := lab.Build(ctx, o, func(string) {})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if !shape.IsZero() {
		err = l.Congestion(hardy)
	}
	if err := errors.Join(err, l.Start(ctx), l.Wait(ctx)); err != nil {
		return r, err
	}
	client := l.Plan().Clients()[0].Name
	cfg := load.Config{URL: server(l), Flows: 1, Warmup: before, Window: window}
	if _, _, err := l.Load(ctx, client, "prepare", cfg); err != nil {
		return r, err
	}
	type outcome struct {
		r   load.Result
		err error
	}
	ended := make(chan outcome, 1)
	go func() { // ends with its load
		r, _, err := l.Load(ctx, client, "download", cfg)
		ended <- outcome{r, err}
	}()
	select {
	case o := <-ended:
		return o.r, errors.Join(errors.New("the download has ended early"), o.err)
	case <-time.After(before + time.Second):
	}
	path, err := inUse(ctx, l, client)
	if err == nil {
		err = h.apply(ctx, l, path)
	}
	o2 := <-ended
	return o2.r, errors.Join(err, o2.err)
}

// inUse is the client and the hops of its circuit with the most streams.
func inUse(ctx context.Context, l *lab.Lab, client string) ([]string, error) {
	circuits, err := l.Circuits(ctx, client)
	if err != nil {
		return nil, err
	}
	var hops []string
	most := 0
	for _, circuit := range circuits {
		if circuit.Streams > most {
			most, hops = circuit.Streams, circuit.Hops
		}
	}
	if len(hops) < 2 {
		return nil, errors.New("no circuit carries the download")
	}
	return append([]string{client}, hops...), nil
}
