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
)

// wantedShare of a link's rate is what a circuit should make of it.
const wantedShare = 0.9

// Allowed measures what 8 downloads through a circuit make of the rate of its
// links, at several rates and delays, and gives a table. What is achieved is the
// payload; the rate counts IP packets with everything in them.
func Allowed(ctx context.Context, c Config) (_ string, err error) {
	w := c.inARow(c.Options.Mask)
	w.line = false
	l, err := lab.Build(ctx, w.options, func(string) {})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if _, err := cuttle(ctx)(l); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "What 8 downloads achieve of what every link of %d hops (mask %s) allows; payload over rate of IP packets:\n\n"+
		"| rate of links, Mbit/s | delay of each link | achieved, Mbit/s | share | at least %.1f |\n|---|---|---|---|---|\n", c.Options.Hops, c.Options.Mask, wantedShare)
	var failed error
	for _, s := range []emulate.Shape{
		{Rate: 10e6, Delay: 5 * time.Millisecond}, {Rate: 50e6, Delay: 25 * time.Millisecond}, {Rate: 100e6, Delay: time.Millisecond},
		{Rate: 100e6, Delay: 50 * time.Millisecond}, {Rate: 300e6, Delay: 25 * time.Millisecond},
	} {
		say("allowed: %d Mbit/s, %v", s.Rate/1_000_000, s.Delay)
		got, err := achieved(ctx, c, l, s)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%d Mbit/s, %v: %w", s.Rate/1_000_000, s.Delay, err))
			fmt.Fprintf(&b, "| %d | %v | - | - | not measured |\n", s.Rate/1_000_000, s.Delay)
			continue
		}
		share := got * 1e9 / float64(s.Rate)
		fmt.Fprintf(&b, "| %d | %v | %.1f | %.2f | %s |\n", s.Rate/1_000_000, s.Delay, got*1e3, share, map[bool]string{true: "yes", false: "no"}[share >= wantedShare])
	}
	return b.String(), failed
}

// achieved gives Gbit/s with all links between daemons in a shape.
func achieved(ctx context.Context, c Config, l *lab.Lab, s emulate.Shape) (float64, error) {
	for _, p := range l.Plan().Shaped() {
		if err := l.SetLink(ctx, p[0].Name, p[1].Name, s); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*partLimit)
	defer cancel()
	cfg := load.Config{URL: server(l), Flows: 8, Warmup: 4 * time.Second, Window: 6 * time.Second}
	if c.Quick {
		cfg.Warmup, cfg.Window = 2*time.Second, 2*time.Second
	}
	client := l.Plan().Clients()[0].Name
	if _, _, err := l.Load(ctx, client, "prepare", cfg); err != nil {
		return 0, err
	}
	r, _, err := l.Load(ctx, client, "download", cfg)
	return r.Gbits(), err
}
