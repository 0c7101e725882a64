package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"cuttle/internal/config"
	"cuttle/internal/control"
)

// topPicture is top's second picture of a daemon, one second after the first.
func topPicture(d *daemon, width, height int) []string {
	first := moment{status: d.status, traffic: control.Traffic{Time: 1000, CellSize: 1400}, circuits: d.circuits, neighbors: d.neighbors, ledger: d.ledger}
	second := first
	second.traffic = control.Traffic{Time: 2000, CellSize: 1400, Sent: 125_000, Received: 12_500_000}
	grown := d.neighbors[0]
	grown.Cells = []control.Cells{{Payer: "we", Sent: 1100, Received: 99000}, {Payer: "they", Sent: 20, Received: 1}}
	second.neighbors = []control.Neighbor{grown, d.neighbors[1]}
	return picture(first, second, width, height, now)
}

func TestPictureFits(t *testing.T) {
	d := example()
	d.neighbors[1].Error = "\x1b[2Jevil\r\n" + strings.Repeat("long ", 50)
	for _, size := range [][2]int{{80, 24}, {20, 5}, {1, 1}, {300, 100}} {
		lines := topPicture(d, size[0], size[1])
		if len(lines) != size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if utf8.RuneCountInString(l) > size[0] || strings.ContainsAny(l, "\x1b\r\n") {
				t.Errorf("%v: line %q", size, l)
			}
		}
	}
}

func TestRate(t *testing.T) {
	for _, c := range []struct {
		before, now uint64
		seconds     float64
		unit        int
		want        string
	}{
		{0, 125, 1, 1, "1.0 kbit/s"}, {0, 1, 1, 1, "8 bit/s"}, {0, 1_000_000, 2, 1400, "5.6 Gbit/s"}, {5, 5, 1, 1, "0 bit/s"},
		{9, 5, 1, 1, "-"}, {0, 5, 0, 1, "-"}, {0, 5, 1e9, 1, "-"},
	} {
		if got := rate(c.before, c.now, c.seconds, c.unit); got != c.want {
			t.Errorf("rate %+v: got %q", c, got)
		}
	}
}

func TestTopNeedsATerminal(t *testing.T) {
	if code, out, errOut := cuttle(t, serve(t, example()), "top"); code != exitError || out != "" || !strings.Contains(errOut, "needs a terminal") {
		t.Errorf("got %d, %q, %q", code, out, errOut)
	}
}

func TestWatchIsNDJSON(t *testing.T) {
	d := example()
	socket := serve(t, d)
	ended := make(chan string, 1)
	out := &untilLines{want: 2, done: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	go func() { // ends with stop
		var e strings.Builder
		code := run(ctx, []string{"-s", socket, "status", "-w", "--json"}, func(string) string { return "" }, strings.NewReader(""), out, &e)
		ended <- e.String() + strings.Repeat("!", code)
	}()
	<-out.first()
	d.mu.Lock()
	d.status.State = control.StateBlocked
	d.mu.Unlock()
	<-out.done
	stop()
	if msg := <-ended; msg != "" {
		t.Errorf("the end by Ctrl-C: %q", msg)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"state":"up"`) || !strings.Contains(lines[1], `"state":"blocked"`) {
		t.Errorf("got %q", lines)
	}
}

func TestUpWaitTellsWhatItWaitsFor(t *testing.T) {
	socket := serve(t, &daemon{status: control.Status{State: control.StateConnecting, Roles: []string{"client"}}, asked: 25})
	code, out, errOut := cuttle(t, socket, "up", "--wait")
	if code != 0 || !strings.HasPrefix(out, "Up:") || !strings.Contains(errOut, "No link to a neighbor yet") {
		t.Errorf("got %d, %q, %q; want 0, Up and what was waited for", code, out, errOut)
	}
}

// TestUpWaitEndsEarly: what stays ends the wait with an error, but only once the
// machine is captured.
func TestUpWaitEndsEarly(t *testing.T) {
	p := control.Problem{Text: "no exit matches: wanted ZZ", Hint: "there are exits in SE"}
	connecting := control.Status{State: control.StateConnecting, Roles: []string{"client"}, Problems: []control.Problem{p}}
	if code, out, errOut := cuttle(t, serve(t, &daemon{status: connecting, asked: 4}), "up", "--wait", "--exit", "ZZ"); code != exitOK || !strings.HasPrefix(out, "Up:") {
		t.Errorf("a problem that may end: got %d, %q, %q; want it waited for", code, out, errOut)
	}
	p.Stays = true
	connecting.Problems = []control.Problem{{Text: "no gas", Area: control.AreaMoney}, p}
	for _, args := range [][]string{{"up", "--wait", "--exit", "ZZ"}, {"up", "--wait", "--json"}} {
		d := &daemon{status: connecting, asked: 100}
		code, out, errOut := cuttle(t, serve(t, d), args...)
		d.mu.Lock()
		looks := 100 - d.asked - 1 // the answer to up has the state, too
		d.mu.Unlock()
		if code != exitError || out != "" || !strings.Contains(errOut, "this machine is captured") || !strings.Contains(errOut, "no exit matches: wanted ZZ\n  there are exits in SE\n") || looks != 1 {
			t.Errorf("%q: got %d, %q, %q after %d looks; want the problem after one", args, code, out, errOut, looks)
		}
	}
	off := connecting
	off.State = control.StateOff
	if code, out, errOut := cuttle(t, serve(t, &daemon{status: off, asked: 4}), "up", "--wait", "--exit", "ZZ"); code != exitOK || !strings.HasPrefix(out, "Up:") {
		t.Errorf("before the machine is captured: got %d, %q, %q; want it waited for", code, out, errOut)
	}
}

func TestConfigVerbs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, config.Default(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"check"}, 0, "is fine"},
		{[]string{"get", "client.hops"}, 0, "3\n"},
		{[]string{"set", "client.hops", "4"}, 0, "client.hops is set"},
		{[]string{"get", "client.hops"}, 0, "4\n"},
		{[]string{"get", "--json", "client.hops"}, 0, `"value": "4"`},
		{[]string{"get"}, 0, "client.hops = 4\n"},
		{[]string{"get", "--json"}, 0, `"schema": 1`},
		{[]string{"set", "client.hops", "40"}, 5, "want 1 to 6"},
		{[]string{"set", "client.hop", "4"}, 5, `unknown key "client.hop"`},
		{[]string{"get", "nothing"}, 5, "unknown key"},
		{[]string{"set", "client.hops"}, 2, "set"},
		{nil, 2, "want check, get or set"},
		{[]string{"fly"}, 2, "want check, get or set"},
	} {
		code, out, errOut := cuttle(t, "", append([]string{"config", "--config", file}, c.args...)...)
		if code != c.code || !strings.Contains(out+errOut, c.text) {
			t.Errorf("config %q: got %d, %q, %q; want %d and %q", c.args, code, out, errOut, c.code, c.text)
		}
	}
	if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), "\nhops = 4\n") || len(b) != len(config.Default()) {
		t.Errorf("the file is now %d bytes, %v", len(b), err)
	}
	if code, _, errOut := cuttle(t, "", "config", "check", "--config", file+"x"); code != exitError || !strings.Contains(errOut, "no such file") {
		t.Errorf("a file that is not there: got %d, %q", code, errOut)
	}
}

// TestBugreport looks for everything that identifies in what would be written.
func TestBugreport(t *testing.T) {
	d := example()
	d.status.Problems = []control.Problem{{Text: "dial 198.51.100.9:443 and [2001:db8::5]:80 for www.secret.example: /home/alice/x: " + key("z")}}
	d.neighbors[1].Error = "dial tcp 203.0.113.77:443: refused, cuttle://" + key("q") + "@203.0.113.78:443"
	dir := t.TempDir()
	file, out := filepath.Join(dir, "c.toml"), filepath.Join(dir, "report.txt")
	text := "[node]\nstate = \"/secretstate\"\n[[neighbor]]\ndescriptor = \"cuttle://" + key("r") + "@192.0.2.99:443?mask=https\"\n[client]\nexit = [\"CH\"]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := serve(t, d)
	ask := func(answer string) (int, string, string) {
		var o, e strings.Builder
		code := run(t.Context(), []string{"-s", socket, "bugreport", "--config", file, "-o", out}, func(string) string { return "" }, strings.NewReader(answer), &o, &e)
		return code, o.String(), e.String()
	}
	for _, no := range []string{"", "n\n", "\n"} {
		if code, shown, errOut := ask(no); code != 0 || shown == "" || !strings.Contains(errOut, "Nothing was written") {
			t.Errorf("answer %q: got %d, %q", no, code, errOut)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("answer %q: the file is there", no)
		}
	}
	code, shown, _ := ask("y\n")
	b, err := os.ReadFile(out)
	if code != 0 || err != nil || string(b) != shown {
		t.Fatalf("got %d, %v; what was written is not what was shown", code, err)
	}
	for _, secret := range []string{
		key("a"), key("b"), key("c"), key("d"), key("z"), key("q"), key("r"), "bbbbbbbbbbbb", "198.51", "203.0.113", "2001:db8", "192.0.2", "secret", "alice",
		"0xabc", "0xdef", "0x1234", "0x5FbDB", "99.5", "1.25", "CH\"",
	} {
		if strings.Contains(shown, secret) {
			t.Errorf("the report tells %q:\n%s", secret, shown)
		}
	}
	for _, useful := range []string{"state", "up since", "3 hops", "dial <ip>", "client.hops = 3", "1 [[neighbor]]", "payment out, confirmed", "problem: not enough gas"} {
		if !strings.Contains(shown, useful) {
			t.Errorf("the report does not tell %q:\n%s", useful, shown)
		}
	}
	if code, _, errOut := ask("y\n"); code == 0 || !strings.Contains(errOut, "exists") {
		t.Errorf("a file that is there is written over: %d, %q", code, errOut)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, errOut := cuttle(t, "", "completion", shell); code != 0 || !strings.Contains(out, "cuttle") || errOut != "" {
			t.Errorf("%s: got %d, %d bytes, %q", shell, code, len(out), errOut)
		}
	}
	if _, out, _ := cuttle(t, "", "__complete", "config", "get", "client.h"); !strings.Contains(out, "client.hops") {
		t.Errorf("keys are not completed: %q", out)
	}
}

// TestManual: every command is in it, and says what it is for.
func TestManual(t *testing.T) {
	code, out, errOut := cuttle(t, "", "manual")
	if code != 0 || errOut != "" {
		t.Fatalf("got %d, %q", code, errOut)
	}
	root := newRoot(&app{}, func(string) string { return "" })
	for _, c := range root.Commands() {
		if !strings.Contains(out, "\ncuttle "+c.Name()+"\n\n") || c.Short == "" {
			t.Errorf("%s is not described", c.Name())
		}
	}
	if !strings.Contains(out, "cuttle config set KEY VALUE") || !strings.Contains(out, "Exit codes:") {
		t.Error("the manual is not whole")
	}
}
