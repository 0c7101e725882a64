package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"
	"cuttle/internal/lab/web"

	"golang.org/x/sync/errgroup"
)

// greeting is one way to a server's first byte.
type greeting struct {
	name  string
	early string // the client's client.early; empty: without Cuttle
	new   bool   // each request is the first to its destination
}

var greetings = []greeting{
	{kernelRouting, "", false},
	{"Cuttle, early = off", "off", false},
	{"Cuttle, early = recent, to a destination that has answered lately", "recent", false},
	{"Cuttle, early = all, to destinations never seen before", "all", true},
}

// greeted is what a way has given.
type greeted struct {
	name string
	load.Result
	err error
}

// Early measures the first byte of new connections without other traffic on far
// links, with plain kernel routing and with each client.early. The tables are printed,
// or put into a document.
func Early(ctx context.Context, c Config) error {
	var b strings.Builder
	var failed error
	for _, loss := range []float64{0, farLoss} {
		w := c.far(c.Options.Mask, loss)
		links := describe(w.options.Shape)
		fmt.Fprintf(&b, "First byte of a new connection, each of %d %s, mask %s, no other traffic, %d requests one after another.\n\n", c.Options.Hops+1, links, c.Options.Mask, c.greetings())
		var all []greeted
		for _, g := range greetings {
			say("early, %s: %s", links, g.name)
			r, err := c.greet(ctx, w, g)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s, %s: %w", links, g.name, err))
			}
			all = append(all, greeted{g.name, r, err})
		}
		b.WriteString(earlyTable(all, 2*time.Duration(c.Options.Hops+1)*farDelay) + "\n")
	}
	if ctx.Err() != nil {
		return lab.ErrInterrupted // half a table replaces no whole one
	}
	return errors.Join(failed, c.publish("early", b.String()))
}

// earlyTable prints what the ways have given; trip is the time from the client to
// the server and back. Differences are to the first way, if that was measured.
func earlyTable(all []greeted, trip time.Duration) string {
	var b, failed strings.Builder
	fmt.Fprintf(&b, "| system | first byte ms p50 / p99 | p50 in trips of %v | p50 later than with kernel routing, ms |\n|---|---|---|---|\n", trip)
	for _, g := range all {
		p50, later := g.Quantile(0.5), "-"
		if base := all[0].Quantile(0.5); base > 0 && p50 > 0 {
			later = fmt.Sprintf("%+.0f", p50-base)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", g.name, pair(p50, g.Quantile(0.99)), figure(p50*float64(time.Millisecond)/float64(trip)), later)
		if g.err != nil {
			fmt.Fprintf(&failed, "- %s: %s\n", g.name, strings.Join(strings.Fields(g.err.Error()), " "))
		}
	}
	if failed.Len() > 0 {
		b.WriteString("\nNot measured:\n\n" + failed.String())
	}
	return b.String()
}

// greetings is how many requests of each way are timed.
func (c Config) greetings() int {
	if c.Quick {
		return 5
	}
	return 20
}

// greet times requests in a network of their own, after two that are not.
func (c Config) greet(ctx context.Context, w world, g greeting) (r load.Result, err error) {
	w.options.Early = g.early
	start := cuttle(ctx)
	if g.early == "" {
		start = plainly(ctx)
	}
	err = w.with(ctx, start, func(l *lab.Lab, f from) error {
		ctx, cancel := context.WithTimeout(ctx, 2*partLimit)
		defer cancel()
		ask := func(url string, count int) error {
			got, _, err := l.Load(ctx, f.node, "latency", load.Config{URL: url, Count: count})
			r.Times = append(r.Times, got.Times...)
			return err
		}
		if err := ask(f.url, 2); err != nil {
			return err
		}
		r.Times = nil
		if !g.new {
			return ask(f.url, c.greetings())
		}
		return strangers(ctx, l, c.greetings(), func(url string) error { return ask(url, 1) })
	})
	return r, err
}

// strangers has n more ports of the outside server's address answer while ask is
// called with the URL of each.
func strangers(ctx context.Context, l *lab.Lab, n int, ask func(url string) error) (err error) {
	outside, _ := l.Plan().Node("web")
	s := &http.Server{Handler: web.Handler(), ReadHeaderTimeout: partLimit}
	var g errgroup.Group
	defer func() { err = errors.Join(err, s.Close(), g.Wait()) }()
	for range n {
		var ln net.Listener
		err := netns.Do(outside.Namespace, func() (err error) {
			var lc net.ListenConfig
			ln, err = lc.Listen(ctx, "tcp", netip.AddrPortFrom(outside.Hosts()[0], 0).String())
			return err
		})
		if err != nil {
			return fmt.Errorf("listen beside the server: %w", err)
		}
		g.Go(func() error { // ends when the server is closed, which closes ln
			if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		if err := ask("http://" + ln.Addr().String()); err != nil {
			return err
		}
	}
	return nil
}
