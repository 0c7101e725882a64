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
	"cuttle/relay/wire"
)

const (
	// wantedShare of what constant-size cells leave of a link's rate is what a
	// circuit should achieve.
	wantedShare = 0.9
	// cellShare is what they leave: a packet of 1500 bytes has 20 of IPv4 and 32 of
	// TCP with time stamps; the bytes of a cell that no circuit can use are room for
	// more hops. Headers of masks, records and sessions count as not achieved.
	cellShare = 1448. / 1500 * wire.PayloadSize / wire.BodySize
)

// Allowed measures what 8 downloads through a circuit make of the rate of its
// links, at several rates and delays, in a table. What is achieved is the
// payload; the rate counts IP packets with everything in them. The table is printed,
// or put into a document.
func Allowed(ctx context.Context, c Config) error {
	var b strings.Builder
	fmt.Fprintf(&b, "What 8 downloads achieve of what every link of %d hops (mask %s) allows; the rate is of IP packets, of which\n"+
		"TCP/IP headers and cells of constant size leave %.2f to a circuit:\n\n"+
		"| rate of links, Mbit/s | delay of each link | achieved, Mbit/s | share of the rate | share of what cells leave | at least %.1f |\n|---|---|---|---|---|---|\n", c.Options.Hops, c.Options.Mask, cellShare, wantedShare)
	var failed error
	for _, s := range []emulate.Shape{
		{Rate: 10e6, Delay: 5 * time.Millisecond}, {Rate: 50e6, Delay: 25 * time.Millisecond}, {Rate: 100e6, Delay: time.Millisecond},
		{Rate: 100e6, Delay: 50 * time.Millisecond}, {Rate: 300e6, Delay: 25 * time.Millisecond},
	} {
		say("allowed: %d Mbit/s, %v", s.Rate/1_000_000, s.Delay)
		got, err := achieved(ctx, c, s)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%d Mbit/s, %v: %w", s.Rate/1_000_000, s.Delay, err))
			fmt.Fprintf(&b, "| %d | %v | - | - | - | not measured |\n", s.Rate/1_000_000, s.Delay)
			continue
		}
		share := got * 1e9 / float64(s.Rate)
		fmt.Fprintf(&b, "| %d | %v | %.1f | %.2f | %.2f | %s |\n", s.Rate/1_000_000, s.Delay, got*1e3, share, share/cellShare, map[bool]string{true: "yes", false: "no"}[share >= wantedShare*cellShare])
	}
	if ctx.Err() != nil {
		return lab.ErrInterrupted
	}
	return errors.Join(failed, c.publish("allowed", b.String()))
}

// achieved gives Gbit/s of a new network with all links between daemons in a
// shape: a congestion control such as BBR remembers for 10 seconds how short the
// trip over a socket's path was.
func achieved(ctx context.Context, c Config, s emulate.Shape) (_ float64, err error) {
	w := c.inARow(c.Options.Mask)
	w.options.Shape = s
	l, err := lab.Build(ctx, w.options, func(string) {})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if err := errors.Join(l.Start(ctx), l.Wait(ctx)); err != nil {
		return 0, err
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
