//go:build linux

package bench

import (
	"errors"
	"strings"
	"testing"

	"cuttle/internal/lab/load"
)

func TestTable(t *testing.T) {
	kernel := row{name: kernelRouting}
	kernel.down[1] = load.Result{Bytes: 4e9, Seconds: 1}
	other := row{name: "other", peaks: map[string]int64{"client": 50 << 20, "n1": 20 << 20, "web": 99 << 20}, err: errors.New("1 up:\n broken")}
	other.down[1] = load.Result{Bytes: 1e9, Seconds: 1}
	other.idle.Times = []float64{1, 2, 3}
	got := table([]row{kernel, other})
	for _, want := range []string{
		"| other | - / 8 | - / - | 0.25 | - / - | 2 / 3 | - / - | 50 + 20 |\n",
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
