package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"
)

// Config is one run.
type Config struct {
	Options lab.Options
	Quick   bool     // shorter, for a look
	Rows    []string // keys of the rows to measure; none: all but the slow ones
	Slow    bool     // those too
	Into    string   // file whose marked part is replaced by the tables; empty: standard output
	Peers   string   // folder of the peers' programs
}

// Shapes of links that are far from perfect: their queue holds 50 ms.
const (
	farDelay = 25 * time.Millisecond
	farRate  = 300e6
	farLoss  = 0.005
)

// warmup and window of one throughput measurement.
func (c Config) times(e extent) (warmup, window time.Duration) {
	switch {
	case c.Quick:
		return 500 * time.Millisecond, time.Second
	case e == far:
		return 4 * time.Second, 5 * time.Second
	}
	return 1500 * time.Millisecond, 3 * time.Second
}

// row is one configuration's figures. What could not be measured is zero or
// absent, and in err.
type row struct {
	name       string
	down, up   [2]load.Result // 1 and 8 flows
	cpu        [2]float64     // seconds per gigabyte of the 8-flow download: everything, daemons only
	idle, busy load.Result
	peaks      map[string]int64 // bytes, by process
	err        error
}

// flows are the numbers of connections measured.
var flows = [2]int{1, 8}

func describe(s emulate.Shape) string {
	if s.IsZero() {
		return "perfect links"
	}
	text := fmt.Sprintf("links of %v, ", s.Delay)
	if s.Loss > 0 {
		text += fmt.Sprintf("%.1f %% loss", s.Loss*100)
	} else {
		text += "no loss"
	}
	if s.Rate > 0 {
		text += fmt.Sprintf(", %d Mbit/s", s.Rate/1_000_000)
	}
	return text
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

// from is where load begins and how.
type from struct {
	node  string
	url   string
	proxy string
}

// server is the outside server by its address, so that nobody's resolver is
// measured.
func server(l *lab.Lab) string {
	web, _ := l.Plan().Node("web")
	return "http://" + netip.AddrPortFrom(web.Hosts()[0], 80).String()
}

// extent says how long a row is measured.
type extent bool

const (
	near extent = false
	far  extent = true // links with delay: longer, fewer requests
)

// partLimit bounds a part of a measurement beside its own time.
const partLimit = 40 * time.Second

// measure takes all figures from one node's point of view, and goes on after
// what fails.
func measure(ctx context.Context, c Config, l *lab.Lab, name string, f from, e extent) row {
	r := row{name: name, peaks: make(map[string]int64)}
	warmup, window := c.times(e)
	run := func(what, mode string, cfg load.Config) (load.Result, time.Duration) {
		if ctx.Err() != nil {
			return load.Result{}, 0
		}
		say("  %s: %s", name, what)
		cfg.URL, cfg.Proxy = f.url, f.proxy
		ctx, cancel := context.WithTimeout(ctx, cfg.Warmup+cfg.Window+partLimit)
		defer cancel()
		got, own, err := l.Load(ctx, f.node, mode, cfg)
		if err != nil {
			r.err = errors.Join(r.err, fmt.Errorf("%s: %w", what, err))
		}
		return got, own
	}
	if run("first contact", "prepare", load.Config{}); r.err != nil {
		return r
	}
	idle, busy := 200, 60
	if c.Quick || e == far {
		idle, busy = 20, 10
	}
	r.idle, _ = run("latency", "latency", load.Config{Count: idle, Window: 8 * time.Second})
	for i, n := range flows {
		cfg := load.Config{Flows: n, Warmup: warmup, Window: window}
		before, soft := l.Usages(), softIRQ()
		got, own := run(fmt.Sprintf("%d down", n), "download", cfg)
		r.down[i] = got
		r.cpu[0], r.cpu[1] = perGigabyte(before, l.Usages(), own+softIRQ()-soft, got.Total)
		r.up[i], _ = run(fmt.Sprintf("%d up", n), "upload", cfg)
	}
	var err error
	say("  %s: latency beside 8 down", name)
	r.busy, err = underLoad(ctx, l, f, load.Config{URL: f.url, Proxy: f.proxy, Count: busy, Window: 10 * time.Second}, warmup)
	r.err = errors.Join(r.err, err)
	for name, u := range l.Usages() {
		r.peaks[name] = u.Peak
	}
	if ctx.Err() != nil {
		r.err = ctx.Err()
	}
	return r
}

// underLoad measures latency beside a download of 8 flows.
func underLoad(ctx context.Context, l *lab.Lab, f from, cfg load.Config, warmup time.Duration) (load.Result, error) {
	ctx, cancelAll := context.WithTimeout(ctx, warmup+cfg.Window+partLimit)
	defer cancelAll()
	loadCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { // ends when it is cancelled below, at the latest after ten minutes
		bulk := load.Config{URL: f.url, Proxy: f.proxy, Flows: 8, Window: 10 * time.Minute}
		_, _, err := l.Load(loadCtx, f.node, "download", bulk)
		ended <- err
	}()
	select {
	case err := <-ended:
		return load.Result{}, errors.Join(errors.New("the load has ended early"), err)
	case <-time.After(warmup):
	}
	r, _, err := l.Load(ctx, f.node, "latency", cfg)
	if err != nil {
		err = fmt.Errorf("latency beside 8 downloads: %w", err)
	}
	select {
	case early := <-ended:
		return r, errors.Join(errors.New("the load has ended early"), early, err)
	default:
	}
	cancel()
	if broken := <-ended; broken == nil {
		err = errors.Join(err, errors.New("the load was over before it was broken off"))
	}
	return r, err
}

// perGigabyte divides CPU time by what was delivered: of all processes with the
// load generator (and what else own has), and of the daemons alone.
func perGigabyte(before, after map[string]lab.Usage, own time.Duration, bytes int64) (all, daemons float64) {
	if bytes == 0 {
		return 0, 0
	}
	total, ours := own, time.Duration(0)
	for name, u := range after {
		used := u.CPU - before[name].CPU
		total += used
		if isDaemon(name) {
			ours += used
		}
	}
	gigabytes := float64(bytes) / 1e9
	return total.Seconds() / gigabytes, ours.Seconds() / gigabytes
}

// isDaemon tells whether a process belongs to the system that is measured.
func isDaemon(name string) bool { return name != "web" && name != "chain" && name != "net" }
