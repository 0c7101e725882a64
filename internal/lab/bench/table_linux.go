package bench

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
)

// figure prints a measured value with about three digits, and a dash for what
// could not be measured.
func figure(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func pair(a, b float64) string { return figure(a) + " / " + figure(b) }

// conditions are what a table was measured under.
func (c Config) conditions(e extent, congestion string) string {
	warmup, window := c.times(e)
	if congestion == usual {
		b, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control") // new namespaces inherit it
		congestion = strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("%d cores (%s), everything on this machine, kernel's congestion control %s. Bulk: %v after %v of warm-up, uploads counted\n"+
		"at the receiver. First byte: from the start of a new connection to the first byte of a 10 kB page. CPU: user and system time of all\n"+
		"processes with server, generator and ksoftirqd per 10^9 bytes delivered by 8 downloads; of the measured system alone behind the slash.\n\n",
		runtime.NumCPU(), runtime.GOARCH, congestion, window, warmup)
}

// table prints rows. Ratios are to the first row's 8 downloads, if that was
// measured.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| system | down Gbit/s 1 / 8 flows | up 1 / 8 | 8 down as ratio to kernel routing | CPU s/GB all / system | " +
		"first byte ms idle p50 / p99 | beside 8 downloads p50 / p99 | peak memory MB client + others |\n|---|---|---|---|---|---|---|---|\n")
	base := 0.0
	if len(rows) > 0 && strings.HasPrefix(rows[0].name, kernelRouting) {
		base = rows[0].down[1].Gbits()
	}
	var failed strings.Builder
	for _, r := range rows {
		ratio := 0.0
		if base > 0 {
			ratio = r.down[1].Gbits() / base
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.name,
			pair(r.down[0].Gbits(), r.down[1].Gbits()), pair(r.up[0].Gbits(), r.up[1].Gbits()), figure(ratio), pair(r.cpu[0], r.cpu[1]),
			pair(r.idle.Quantile(0.5), r.idle.Quantile(0.99)), pair(r.busy.Quantile(0.5), r.busy.Quantile(0.99)), memory(r.peaks))
		if r.err != nil {
			fmt.Fprintf(&failed, "- %s: %s\n", r.name, strings.Join(strings.Fields(r.err.Error()), " "))
		}
	}
	if failed.Len() > 0 {
		b.WriteString("\nNot measured:\n\n" + failed.String())
	}
	return b.String()
}

// memory prints the peaks of a client's processes, then of the others.
func memory(peaks map[string]int64) string {
	var client, others []string
	for _, name := range slices.Sorted(maps.Keys(peaks)) {
		switch text := fmt.Sprint(peaks[name] >> 20); {
		case !isDaemon(name):
		case strings.Contains(name, "client"):
			client = append(client, text)
		default:
			others = append(others, text)
		}
	}
	if len(client)+len(others) == 0 {
		return "-"
	}
	return strings.Join(client, ", ") + " + " + strings.Join(others, ", ")
}

// publish writes text to standard output or, if a file is given, between its
// lines "<!-- bench NAME -->" and "<!-- end NAME -->".
func (c Config) publish(name, text string) error {
	if c.Into == "" {
		_, err := os.Stdout.WriteString(text)
		return err
	}
	b, err := os.ReadFile(c.Into)
	if err != nil {
		return fmt.Errorf("read the document: %w", err)
	}
	replaced, err := between(b, name, text)
	if err != nil {
		return fmt.Errorf("%w: %s", err, c.Into)
	}
	if err := os.WriteFile(c.Into, replaced, 0o644); err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return nil
}

// between replaces what stands between the marks of a name.
func between(document []byte, name, text string) ([]byte, error) {
	begin, end := fmt.Appendf(nil, "<!-- bench %s -->\n", name), fmt.Appendf(nil, "<!-- end %s -->\n", name)
	head, rest, ok1 := bytes.Cut(document, begin)
	_, tail, ok2 := bytes.Cut(rest, end)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("no marks %q and %q in the document", bytes.TrimSpace(begin), bytes.TrimSpace(end))
	}
	return slices.Concat(head, begin, []byte("\n"+strings.TrimSpace(text)+"\n\n"), end, tail), nil
}
