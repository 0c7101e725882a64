package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"
)

// Config is one run.
type Config struct {
	Options lab.Options
	Quick   bool // shorter, for a look
}

// url is the outside server by its address for those without the lab's DNS, and
// by its name for those with.
const url = "http://" + lab.WebName

// warmup and window of one throughput measurement.
func (c Config) times(slow bool) (warmup, window time.Duration) {
	switch {
	case c.Quick:
		return 500 * time.Millisecond, time.Second
	case slow:
		return 5 * time.Second, 6 * time.Second
	}
	return 1500 * time.Millisecond, 4 * time.Second
}

// row is one configuration's figures.
type row struct {
	name       string
	down, up   [2]load.Result // 1 and 8 flows
	cpu        [2]float64     // seconds per gigabyte of the 8-flow download: everything, daemons only
	idle, busy load.Result
	peaks      map[string]int64 // by node
}

// flows are the numbers of connections measured.
var flows = [2]int{1, 8}

// Network measures kernel routing, then the network with each mask on perfect
// and on bad links. Options say how many nodes and hops. What could not be
// measured is the error; the tables hold the rest.
func Network(ctx context.Context, c Config) error {
	var rows []row
	var failed error
	for _, link := range []emulate.Shape{{}, {Delay: 25 * time.Millisecond, Loss: 0.005}} {
		for _, mask := range []string{"plain", "https"} {
			o := c.Options
			o.Mask, o.Shape = mask, link
			got, err := measureLab(ctx, c, o, len(rows) == 0)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("mask %s, %s: %w", mask, describe(link), err))
			}
			rows = append(rows, got...)
		}
	}
	return errors.Join(failed, report(os.Stdout, c, rows))
}

func describe(s emulate.Shape) string {
	if s.IsZero() {
		return "perfect links"
	}
	return fmt.Sprintf("links of %v, %.1f %% loss", s.Delay, s.Loss*100)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }

// measureLab builds a lab, measures it, and before that, if asked, plain
// routing in it.
func measureLab(ctx context.Context, c Config, o lab.Options, baseline bool) (rows []row, err error) {
	say("mask %s, %s", o.Mask, describe(o.Shape))
	l, err := lab.Build(ctx, o, func(string) {})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if baseline {
		r, err := measure(ctx, c, l, "kernel routing, no Cuttle", "n1", false)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	if err := errors.Join(l.Start(ctx), l.Wait(ctx)); err != nil {
		return nil, err
	}
	clients := l.Plan().Clients()
	if len(clients) == 0 {
		return nil, errors.New("a measurement needs a client")
	}
	r, err := measure(ctx, c, l, fmt.Sprintf("%d hops, %s, %s", o.Hops, o.Mask, describe(o.Shape)), clients[0].Name, !o.Shape.IsZero())
	if err != nil {
		return nil, err
	}
	return append(rows, r), nil
}

// measure takes all figures from one node's point of view.
func measure(ctx context.Context, c Config, l *lab.Lab, name, node string, slow bool) (row, error) {
	r := row{name: name, peaks: make(map[string]int64)}
	warmup, window := c.times(slow)
	if _, _, err := l.Load(ctx, node, "prepare", load.Config{URL: url}); err != nil {
		return r, err
	}
	idle, busy := 200, 60
	if c.Quick || slow {
		idle, busy = 40, 20
	}
	var err error
	say("  %s: latency", name)
	if r.idle, _, err = l.Load(ctx, node, "latency", load.Config{URL: url, Count: idle}); err != nil {
		return r, err
	}
	for i, n := range flows {
		say("  %s: %d flows", name, n)
		cfg := load.Config{URL: url, Flows: n, Warmup: warmup, Window: window}
		before := l.Usages()
		got, own, err := l.Load(ctx, node, "download", cfg)
		if err != nil {
			return r, err
		}
		r.down[i] = got
		r.cpu[0], r.cpu[1] = perGigabyte(before, l.Usages(), own, got.Total)
		if r.up[i], _, err = l.Load(ctx, node, "upload", cfg); err != nil {
			return r, err
		}
	}
	if r.busy, err = underLoad(ctx, l, node, busy, warmup); err != nil {
		return r, err
	}
	for name, u := range l.Usages() {
		r.peaks[name] = u.Peak
	}
	return r, nil
}

// underLoad measures latency beside a download of 8 flows.
func underLoad(ctx context.Context, l *lab.Lab, node string, count int, warmup time.Duration) (load.Result, error) {
	loadCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { // ends when it is cancelled below, at the latest after ten minutes
		_, _, err := l.Load(loadCtx, node, "download", load.Config{URL: url, Flows: 8, Window: 10 * time.Minute})
		ended <- err
	}()
	select {
	case err := <-ended:
		return load.Result{}, errors.Join(errors.New("the load has ended early"), err)
	case <-time.After(warmup):
	}
	r, _, err := l.Load(ctx, node, "latency", load.Config{URL: url, Count: count})
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
// load generator, and of the daemons alone. Time the kernel spends for nobody
// in particular (soft interrupts in ksoftirqd) is in neither.
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

func isDaemon(name string) bool { return name != "web" && name != "chain" && name != "net" }

// report prints the tables.
func report(w io.Writer, c Config, rows []row) error {
	var b strings.Builder
	warmup, window := c.times(false)
	control, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return fmt.Errorf("read congestion control: %w", err)
	}
	fmt.Fprintf(&b, "%d cores (%s), %d relays, everything on this machine, kernel's congestion control %s.\n"+
		"Bulk: %v after %v of warm-up (longer on bad links), uploads counted at the receiver.\n"+
		"First byte: from before the name is resolved and a new connection opened to the first byte of a 10 kB page.\n"+
		"CPU: user and system time of all processes, per 10^9 bytes delivered by 8 downloads; of the daemons alone in parentheses.\n\n",
		runtime.NumCPU(), runtime.GOARCH, c.Options.Nodes, strings.TrimSpace(string(control)), window, warmup)
	b.WriteString("| configuration | down Gbit/s 1 / 8 flows | up 1 / 8 | ratio of 8 downloads to kernel routing | CPU s/GB | first byte ms idle p50 / p99 | beside 8 downloads p50 / p99 |\n")
	b.WriteString("|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		ratio := 0.0
		if base := rows[0].down[1].Gbits(); base > 0 {
			ratio = r.down[1].Gbits() / base
		}
		fmt.Fprintf(&b, "| %s | %.3g / %.3g | %.3g / %.3g | %.3g | %.2f (%.2f) | %.1f / %.1f | %.1f / %.1f |\n", r.name,
			r.down[0].Gbits(), r.down[1].Gbits(), r.up[0].Gbits(), r.up[1].Gbits(), ratio, r.cpu[0], r.cpu[1],
			r.idle.Quantile(0.5), r.idle.Quantile(0.99), r.busy.Quantile(0.5), r.busy.Quantile(0.99))
	}
	b.WriteString("\nMost memory of each daemon after all of a row's measurements (VmHWM, MB):\n\n| configuration | ")
	names := daemonsOf(rows)
	b.WriteString(strings.Join(names, " | ") + " |\n|---" + strings.Repeat("|---", len(names)) + "|\n")
	for _, r := range rows {
		if len(r.peaks) == 0 || r.peaks[names[0]] == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %s |", r.name)
		for _, n := range names {
			fmt.Fprintf(&b, " %d |", r.peaks[n]>>20)
		}
		b.WriteString("\n")
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// daemonsOf lists the nodes of which there are figures.
func daemonsOf(rows []row) []string {
	var names []string
	for _, r := range rows {
		for name := range r.peaks {
			if isDaemon(name) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		names = []string{"-"}
	}
	return names
}
