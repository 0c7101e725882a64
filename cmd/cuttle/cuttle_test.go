package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cuttle/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "rewrite the golden files")

// daemon answers with what it is made of.
type daemon struct {
	options    control.UpOptions // of the last up
	status     control.Status
	circuits   []control.Circuit
	neighbors  []control.Neighbor
	ledger     control.Ledger
	exits      []control.Exit
	traffic    control.Traffic
	fail       error
	channels   []control.Channel
	noChannels error
	taken      []control.Taken

	mu    sync.Mutex // guards status and asked
	named []string   // of calls that name a neighbor
	asked int        // how many calls of status until it is up, counted down
}

func (d *daemon) Status() control.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked > 0 {
		if d.asked--; d.asked == 0 {
			d.status.State = control.StateUp
		}
	}
	return d.status
}
func (d *daemon) Circuits() []control.Circuit   { return d.circuits }
func (d *daemon) Neighbors() []control.Neighbor { return d.neighbors }
func (d *daemon) Ledger() control.Ledger        { return d.ledger }
func (d *daemon) Exits() []control.Exit         { return d.exits }
func (d *daemon) Traffic() control.Traffic      { return d.traffic }
func (d *daemon) Allowed() control.Allowed      { return control.Allowed{} }
func (d *daemon) Up(context.Context) error      { return d.fail }
func (d *daemon) Down(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail == nil {
		d.status.State = control.StateOff
	}
	return d.fail
}
func (d *daemon) Lock(_ context.Context, on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.Locked = on
	return d.fail
}
func (d *daemon) Pay(context.Context) error     { return d.fail }
func (d *daemon) NewPath(context.Context) error { return d.fail }
func (d *daemon) UpWith(_ context.Context, o control.UpOptions) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.options = o
	return d.fail
}

// serve runs a control server for the time of the test and gives its socket.
func serve(t *testing.T, d *daemon) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := control.Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := control.NewServer(d, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx, ln) }() // ends with stop
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("control server: %v", err)
		}
	})
	return path
}

// cuttle runs a command line and gives what it printed.
func cuttle(t *testing.T, socket string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e strings.Builder
	env := func(name string) string { return map[string]string{"CUTTLE_SOCKET": socket}[name] }
	code = run(t.Context(), args, env, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func key(c string) string { return strings.Repeat(c, 52) }

var now = time.Unix(1_790_000_000, 0)

func ago(d time.Duration) int64 { return now.Add(-d).Unix() }

// example is a client in the middle of its work.
func example() *daemon {
	return &daemon{
		status: control.Status{
			Version: "v1.2.3", Node: key("a"), Roles: []string{"client", "relay"}, State: control.StateUp, Since: ago(5 * time.Minute),
			PID: 4711, Started: ago(72 * time.Hour), TUN: "cuttle0", Links: 2, Circuits: 3, Relayed: 12, Exit: key("d"), Seen: []string{"203.0.113.10"},
			Listen: []control.Listening{{Mask: "https", Address: "[::]:443"}},
		},
		circuits: []control.Circuit{
			{ID: "7", State: control.CircuitOpen, Since: ago(95 * time.Second), Streams: 4, Exit: key("d"),
				Hops: []control.Hop{{Node: key("b"), Tier: 5}, {Node: key("c"), Country: "NL", Tier: 4}, {Node: key("d"), Country: "CH", Tier: 2}}},
			{ID: "12", State: control.CircuitDraining, Since: ago(3 * time.Hour), Exit: key("e"),
				Hops: []control.Hop{{Node: key("c")}, {Node: key("b")}, {Node: key("e")}}},
		},
		neighbors: []control.Neighbor{
			{Node: key("b"), State: control.LinkUp, Mask: "https", Initiator: true, Since: ago(time.Hour), RTT: 25.34, Circuits: 9,
				Cells: []control.Cells{{Payer: "we", Sent: 1000, Received: 90000}, {Payer: "they", Sent: 20, Received: 1}}},
			{Node: key("c"), State: control.LinkConnecting, Mask: "plain", Error: "dial: connect: connection refused"},
		},
		exits: []control.Exit{
			{Node: key("d"), Country: "CH", Families: []string{"ipv4", "ipv6"}, Tier: 2, PathTier: 5, Price: "0.0035", Reachable: true},
			{Node: key("e"), Families: []string{"ipv4"}, Tier: 30, Reason: "every path of 3 hops costs more than tier 20"},
		},
		ledger: control.Ledger{
			Mode: "paid", ChainID: 1337, Token: "0x5FbDB2315678afecb367f032d93F642f64180aa3", ChainOK: true, Block: 88, TotalOwed: "0.25", TotalDue: "0.5",
			Problems: []control.Problem{{Text: "not enough gas on the consuming wallet", Hint: "send 0.01 ETH to 0xabc on chain 1337"}},
			Wallets: []control.Wallet{
				{Purpose: "consuming", Address: "0xabc", Token: "99.5", Gas: "0", Checked: ago(30 * time.Second)},
				{Purpose: "earning", Address: "0xdef"},
			},
			Accounts: []control.Account{
				{Node: key("b"), State: "active", Agreed: true, Owed: "0.25", Due: "0.5", Spent: "1.25", Earned: "0.5",
					Tallies: []control.Tally{{Ours: 100, Theirs: 100, Equal: true}, {Ours: 7, Theirs: 7, Equal: true}},
					Payments: []control.Payment{
						{Direction: "out", State: control.PaymentConfirmed, Amount: "1", Tx: "0x1234", Block: 80, Confirmations: 9},
						{Direction: "in", State: control.PaymentPending, Amount: "0.5"},
					}},
				{Node: key("c"), State: "disputed", Reason: "counts differ", Owed: "0", Due: "0", Spent: "0", Earned: "0",
					Tallies: []control.Tally{{Ours: 3, Theirs: 4}}},
			},
		},
	}
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s\n(go test ./cmd/cuttle -update rewrites it)", name, got, want)
	}
}

func TestPages(t *testing.T) {
	d := example()
	blocked := d.status
	blocked.State, blocked.Exit, blocked.Listen, blocked.Relayed, blocked.Seen = control.StateBlocked, "", nil, 0, nil
	blocked.Problems = []control.Problem{{Text: "no path to an exit in CH", Hint: "name another country in [client] exit"}}
	down := d.ledger
	down.ChainOK, down.Accounts, down.Wallets = false, nil, nil
	for name, print := range map[string]func(*page){
		"status":         func(p *page) { p.status(d.status) },
		"status-blocked": func(p *page) { p.status(blocked) },
		"circuits":       func(p *page) { p.circuits(d.circuits) },
		"circuits-none":  func(p *page) { p.circuits(nil) },
		"exits":          func(p *page) { p.exits(d.exits) },
		"exits-none":     func(p *page) { p.exits(nil) },
		"neighbors":      func(p *page) { p.neighbors(d.neighbors) },
		"neighbors-none": func(p *page) { p.neighbors(nil) },
		"ledger":         func(p *page) { p.ledger(d.ledger) },
		"ledger-chain":   func(p *page) { p.ledger(down) },
		"top":            func(p *page) { p.WriteString(strings.Join(topPicture(d, 80, 24), "\n") + "\n") },
		"top-small":      func(p *page) { p.WriteString(strings.Join(topPicture(d, 40, 8), "\n") + "\n") },
		"ledger-none":    func(p *page) { p.ledger(control.Ledger{Mode: "none"}) },
	} {
		p := &page{now: now}
		print(p)
		golden(t, name, p.String())
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name  string
		state control.State
		roles []string
		want  int
	}{
		{"up", control.StateUp, []string{"client"}, 0},
		{"off", control.StateOff, []string{"client"}, 3},
		{"draining", control.StateDraining, []string{"client"}, 3},
		{"connecting", control.StateConnecting, []string{"client"}, 4},
		{"blocked", control.StateBlocked, []string{"client"}, 5},
		{"a relay", control.StateOff, []string{"relay", "exit"}, 0},
		{"unknown", "dreaming", []string{"client"}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket := serve(t, &daemon{status: control.Status{State: c.state, Roles: c.roles}})
			if code, out, errOut := cuttle(t, socket, "status"); code != c.want || out == "" || errOut != "" {
				t.Errorf("status: got %d, %q, %q; want %d", code, out, errOut, c.want)
			}
		})
	}
}

func TestLock(t *testing.T) {
	d := example()
	d.status.State = control.StateOff
	socket := serve(t, d)
	if code, out, errOut := cuttle(t, "", "-s", socket, "lock", "on"); code != 0 || !strings.Contains(out, "stays closed") || !d.Status().Locked {
		t.Errorf("lock on: got %d, %q, %q", code, out, errOut)
	}
	if code, out, errOut := cuttle(t, "", "-s", socket, "lock"); code != 0 || !strings.Contains(out, "lock is on") {
		t.Errorf("lock while it is on: got %d, %q, %q", code, out, errOut)
	}
	if _, out, _ := cuttle(t, "", "-s", socket, "status"); !strings.Contains(out, "nothing gets out") {
		t.Errorf("status while off and locked does not say that nothing gets out: %q", out)
	}
	if code, out, errOut := cuttle(t, "", "-s", socket, "lock", "off"); code != 0 || !strings.Contains(out, "open") || d.Status().Locked {
		t.Errorf("lock off: got %d, %q, %q", code, out, errOut)
	}
	if code, out, errOut := cuttle(t, "", "-s", socket, "lock"); code != 0 || !strings.Contains(out, "lock is off") {
		t.Errorf("lock while it is off: got %d, %q, %q", code, out, errOut)
	}
}

func TestJSON(t *testing.T) {
	socket := serve(t, example())
	for _, verb := range []string{"up", "status", "exits", "circuits", "neighbors", "ledger", "pay", "version", "down"} {
		code, out, errOut := cuttle(t, "", "-s", socket, verb, "--json")
		var head struct{ Schema int }
		if err := json.Unmarshal([]byte(out), &head); err != nil || head.Schema != control.Schema || code != 0 || errOut != "" {
			t.Errorf("%s --json: got %d, %q, %q (%v); want 0 and schema %d", verb, code, out, errOut, err, control.Schema)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"help"}, 0, "Exit codes:"},
		{[]string{"-h"}, 0, "Exit codes:"},
		{nil, 2, "want a command"},
		{[]string{"fly"}, 2, `unknown command "fly"`},
		{[]string{"lock"}, 3, "cuttled is not running"},
		{[]string{"lock", "maybe"}, 2, "want on or off"},
		{[]string{"lock", "on", "off"}, 2, "want on or off"},
		{[]string{"status", "now"}, 2, `unknown command "now"`},
		{[]string{"status", "--wait"}, 2, "unknown flag: --wait"},
		{[]string{"status", "--colour"}, 2, "colour"},
		{[]string{"-s"}, 2, "-s"},
		{[]string{"status"}, 3, "cuttled is not running"},
		{[]string{"version"}, 0, "cuttle "},
	} {
		code, out, errOut := cuttle(t, filepath.Join(t.TempDir(), "none"), c.args...)
		if text := out + errOut; code != c.code || !strings.Contains(text, c.text) {
			t.Errorf("cuttle %q: got %d, %q; want %d and %q", c.args, code, text, c.code, c.text)
		}
		if (code == 0) != (errOut == "") || (code == 0) == (out == "") {
			t.Errorf("cuttle %q: %d bytes went to stdout and %d to stderr", c.args, len(out), len(errOut))
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		fail error
		code int
	}{
		{&control.Error{Status: http.StatusForbidden, Text: "not permitted", Hint: "be root"}, 10},
		{&control.Error{Status: http.StatusConflict, Text: "no such exit", Hint: "name another"}, 5},
	} {
		socket := serve(t, &daemon{fail: c.fail})
		code, out, errOut := cuttle(t, socket, "up")
		want := "cuttle: " + c.fail.Error() + "\n  " + control.Hint(c.fail) + "\n"
		if code != c.code || out != "" || errOut != want {
			t.Errorf("got %d, %q, %q; want %d, nothing, %q", code, out, errOut, c.code, want)
		}
	}
}

func TestUpWait(t *testing.T) {
	socket := serve(t, &daemon{status: control.Status{State: control.StateConnecting, Roles: []string{"client"}}, asked: 4})
	code, out, errOut := cuttle(t, socket, "up", "--wait")
	if code != 0 || !strings.HasPrefix(out, "Up:") || errOut != "" {
		t.Errorf("got %d, %q, %q; want 0 and Up", code, out, errOut)
	}
}
