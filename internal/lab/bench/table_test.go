//go:build linux

package bench

import (
	"errors"
	"strings"
	"testing"
	"time"

	"cuttle/internal/lab/load"
)

func TestTable(t *testing.T) {
	kernel := row{name: kernelRouting}
	kernel.down[1] = load.Result{Bytes: 4e9, Seconds: 1}
	other := row{name: "other", peaks: map[string]int64{"client": 50 << 20, "n1": 20 << 20, "web": 99 << 20}, err: errors.New("1 up:\n broken")}
	other.down[1] = load.Result{Bytes: 1e9, Seconds: 1}
	other.idle.Times = []float64{1, 2, 3456.7}
	got := table([]row{kernel, other})
	for _, want := range []string{
		"| other | - / 8 | - / - | 0.25 | - / - | 2 / 3457 | - / - | 50 + 20 |\n",
		"- other: 1 up: broken\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("table:\n%s\nwant in it %q", got, want)
		}
	}
	if got := table([]row{other}); !strings.Contains(got, "| - / 8 | - / - | - |") {
		t.Errorf("table without kernel routing has a ratio:\n%s", got)
	}
}

func TestBetween(t *testing.T) {
	const document = "before\n<!-- bench x -->\nold\n<!-- end x -->\nafter\n"
	const want = "before\n<!-- bench x -->\n\nnew\n\n<!-- end x -->\nafter\n"
	got, err := between([]byte(document), "x", "new\n")
	if err != nil || string(got) != want {
		t.Errorf("between = %q, %v; want %q", got, err, want)
	}
	if again, err := between(got, "x", "new"); err != nil || string(again) != want {
		t.Errorf("once more = %q, %v; want %q", again, err, want)
	}
	for _, bad := range []string{"", "<!-- bench x -->\n", "<!-- end x -->\n<!-- bench x -->\n"} {
		if got, err := between([]byte(bad), "x", "new"); err == nil {
			t.Errorf("between without marks = %q, want an error", got)
		}
	}
}

func TestKeys(t *testing.T) {
	seen := make(map[string]bool)
	for _, key := range Keys() {
		if key == "" || seen[key] || strings.ContainsAny(key, ", ") {
			t.Errorf("key %q of a row cannot be told from others", key)
		}
		seen[key] = true
	}
	if err := Peers(t.Context(), Config{Rows: []string{"nonsense"}}); err == nil || !strings.Contains(err.Error(), "cuttle-plain") {
		t.Errorf("an unknown row: %v, want an error that lists those there are", err)
	}
}

func TestEdgeTable(t *testing.T) {
	const out = "goos: linux\nBenchmarkEdge/sing-box,mtu=1500/flows=8/down-2    \t  500\t         0.5569 Gbit/s\t        14.48 cpu-s/GB\n" +
		"BenchmarkEdge/direct/flows=1/up         \t     500\t         5.350 Gbit/s\t         0.9754 cpu-s/GB\n--- FAIL: BenchmarkEdge/broken\n"
	text, rows := edgeTable(out)
	if rows != 2 || !strings.HasSuffix(text, "| sing-box,mtu=1500, flows=8, down | 0.5569 | 14.48 |\n| direct, flows=1, up | 5.350 | 0.9754 |\n") {
		t.Errorf("%d rows:\n%s\nwant the two that have figures", rows, text)
	}
}

func TestRecoveryRow(t *testing.T) {
	download := outcome{Result: load.Result{Bytes: 1e9, Seconds: 10, Stall: 0.456}}
	ended := outcome{answered: 70 * time.Millisecond, ended: 310 * time.Millisecond}
	for _, c := range []struct {
		ends bool
		o    outcome
		err  error
		want string
	}{
		{false, download, nil, "| far | harmed | 0.46 | at 0.8 Gbit/s over 10 s, standstill included |\n"},
		{true, ended, nil, "| far | harmed | 0.07 | no: the program has an error after 0.31 s, and asks anew |\n"},
		{true, ended, errors.New("no\n circuit"), "| far | harmed | - | no circuit |\n"},
	} {
		if got := recoveryRow("far", harm{name: "harmed", ends: c.ends}, c.o, c.err); got != c.want {
			t.Errorf("recoveryRow = %q, want %q", got, c.want)
		}
	}
}

func TestEarlyTable(t *testing.T) {
	kernel := greeted{name: kernelRouting, Result: load.Result{Times: []float64{400, 410, 600}}}
	early := greeted{name: "early", Result: load.Result{Times: []float64{300}}}
	broken := greeted{name: "broken", err: errors.New("not\n answered")}
	got := earlyTable([]greeted{kernel, early, broken}, 200*time.Millisecond)
	for _, want := range []string{
		"| p50 in trips of 200ms |", "| kernel routing | 410 / 600 | 2.05 | +0 |\n", "| early | 300 / 300 | 1.5 | -110 |\n",
		"| broken | - / - | - | - |\n", "- broken: not answered\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("table:\n%s\nwant in it %q", got, want)
		}
	}
	if got := earlyTable([]greeted{broken, early}, time.Second); !strings.Contains(got, "| early | 300 / 300 | 0.3 | - |") {
		t.Errorf("table without kernel routing has a difference:\n%s", got)
	}
}
