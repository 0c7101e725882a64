package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"cuttle/internal/control"
)

// Exit codes.
const (
	exitOK           = 0
	exitUsage        = 2
	exitDisconnected = 3
	exitConnecting   = 4
	exitError        = 5
	exitNotPermitted = 10
)

const (
	askTimeout  = 45 * time.Second
	waitTimeout = time.Minute
	waitStep    = 100 * time.Millisecond
)

// version is set by the linker (-X main.version=...); otherwise the module's.
var version = ""

const usage = `usage: cuttle [-s SOCKET] COMMAND [--json]

  up [--wait]   send this machine's traffic through the network
  down          stop, and put the machine back as it was
  lock on|off   on: keep this machine closed while it is down, and after a reboot
  status        what the node is doing
  circuits      our circuits, hop by hop
  neighbors     the links to other nodes
  ledger        what is owed, what was paid, and our wallets
  pay           settle now instead of at the next scan
  version       the versions of this program and of the daemon
  help          this text

  -s SOCKET     the control socket (default: $CUTTLE_SOCKET or ` + control.DefaultPath + `)
  --json        print the daemon's answer as it is (schema 1)
  --wait        wait up to a minute until traffic is carried

Exit codes: 0 connected or done, 3 disconnected, 4 connecting, 5 blocked or error,
10 not permitted, 2 wrong command line.
`

// command is one parsed command line.
type command struct {
	socket string
	verb   string
	json   bool
	wait   bool
	lock   bool // of lock: on
}

var verbs = []string{"up", "down", "lock", "status", "circuits", "neighbors", "ledger", "pay", "version", "help"}

// run does what main is for and gives the exit code.
func run(ctx context.Context, args []string, env func(string) string, out, errOut io.Writer) int {
	cmd, err := parse(args, env)
	if errors.Is(err, flag.ErrHelp) || err == nil && cmd.verb == "help" {
		fmt.Fprint(out, usage)
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(errOut, "cuttle: %v\n(cuttle help shows how)\n", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout+waitTimeout)
	defer cancel()
	code, err := do(ctx, cmd, out)
	if err == nil {
		return code
	}
	fmt.Fprintf(errOut, "cuttle: %v\n", err)
	if hint := control.Hint(err); hint != "" {
		fmt.Fprintf(errOut, "  %s\n", hint)
	}
	switch {
	case errors.Is(err, control.ErrNotPermitted):
		return exitNotPermitted
	case errors.Is(err, control.ErrNotRunning):
		return exitDisconnected
	}
	return exitError
}

// parse accepts flags before and after the command.
func parse(args []string, env func(string) string) (command, error) {
	cmd := command{socket: control.DefaultPath}
	if s := env("CUTTLE_SOCKET"); s != "" {
		cmd.socket = s
	}
	flags := flag.NewFlagSet("cuttle", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&cmd.socket, "s", cmd.socket, "")
	flags.BoolVar(&cmd.json, "json", false, "")
	flags.BoolVar(&cmd.wait, "wait", false, "")
	turned := false // lock has its word
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return cmd, err
		}
		args = flags.Args()
		if len(args) == 0 {
			break
		}
		if cmd.verb == "lock" && !turned && (args[0] == "on" || args[0] == "off") {
			cmd.lock, turned, args = args[0] == "on", true, args[1:]
			continue
		}
		if cmd.verb != "" {
			return cmd, fmt.Errorf("%q after %q: want one command", args[0], cmd.verb)
		}
		cmd.verb, args = args[0], args[1:]
	}
	switch {
	case cmd.verb == "":
		return cmd, errors.New("want a command: " + strings.Join(verbs, ", "))
	case !slices.Contains(verbs, cmd.verb):
		return cmd, fmt.Errorf("unknown command %q: want %s", cmd.verb, strings.Join(verbs, ", "))
	case cmd.verb == "lock" && !turned:
		return cmd, errors.New("lock: want on or off")
	case cmd.wait && cmd.verb != "up":
		return cmd, fmt.Errorf("--wait goes with up, not with %s", cmd.verb)
	}
	return cmd, nil
}

func do(ctx context.Context, cmd command, out io.Writer) (int, error) {
	if cmd.verb == "version" {
		return printVersion(ctx, cmd, out)
	}
	c, err := control.Dial(cmd.socket)
	if err != nil {
		return exitError, err
	}
	switch cmd.verb {
	case "up":
		return up(ctx, c, cmd, out)
	case "down":
		done, err := c.Down(ctx)
		return exitOK, show(err, cmd, out, done, func(p *page) { p.line("%s", stateWords(done.State)) })
	case "lock":
		done, err := c.Lock(ctx, cmd.lock)
		return exitOK, show(err, cmd, out, done, func(p *page) { p.line("%s", lockWords(cmd.lock)) })
	case "pay":
		done, err := c.Pay(ctx)
		return exitOK, show(err, cmd, out, done, func(p *page) { p.line("The accountant is settling; cuttle ledger shows the payments.") })
	case "circuits":
		all, err := c.Circuits(ctx)
		return exitOK, show(err, cmd, out, all, func(p *page) { p.circuits(all.Circuits) })
	case "neighbors":
		all, err := c.Neighbors(ctx)
		return exitOK, show(err, cmd, out, all, func(p *page) { p.neighbors(all.Neighbors) })
	case "ledger":
		l, err := c.Ledger(ctx)
		return exitOK, show(err, cmd, out, l, func(p *page) { p.ledger(l) })
	}
	st, err := c.Status(ctx)
	return stateCode(st), show(err, cmd, out, st, func(p *page) { p.status(st) })
}

// up asks the daemon to go up and, with --wait, stays until it is.
func up(ctx context.Context, c *control.Client, cmd command, out io.Writer) (int, error) {
	done, err := c.Up(ctx)
	if err != nil {
		return exitError, err
	}
	if !cmd.wait {
		return exitOK, show(nil, cmd, out, done, func(p *page) { p.line("%s", stateWords(done.State)) })
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	tick := time.NewTicker(waitStep)
	defer tick.Stop()
	for {
		st, err := c.Status(ctx)
		if err != nil {
			return exitError, err
		}
		if st.State == control.StateUp {
			return exitOK, show(nil, cmd, out, st, func(p *page) { p.line("%s", stateWords(st.State)) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return stateCode(st), show(nil, cmd, out, st, func(p *page) { p.status(st) })
		}
	}
}

// show prints a value as JSON or as text, unless there was an error.
func show(err error, cmd command, out io.Writer, value any, text func(*page)) error {
	if err != nil {
		return err
	}
	if cmd.json {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(value)
	}
	p := &page{now: time.Now()}
	text(p)
	_, err = io.WriteString(out, p.String())
	return err
}

// stateCode is the exit code of status. A node that carries nobody's traffic of
// its own has nothing to be connected: it is fine when it runs without problems.
func stateCode(st control.Status) int {
	if !slices.Contains(st.Roles, "client") && st.State == control.StateOff {
		if len(st.Problems) > 0 {
			return exitError
		}
		return exitOK
	}
	switch st.State {
	case control.StateUp:
		return exitOK
	case control.StateOff, control.StateDraining:
		return exitDisconnected
	case control.StateConnecting:
		return exitConnecting
	case control.StateBlocked:
		return exitError
	}
	return exitError
}

// versions is what version --json prints.
type versions struct {
	Schema int    `json:"schema"`
	Client string `json:"cuttle"`
	Daemon string `json:"cuttled"` // "" when none answers
	Go     string `json:"go"`
}

func printVersion(ctx context.Context, cmd command, out io.Writer) (int, error) {
	v := versions{control.Schema, ownVersion(), "", runtime.Version()}
	if c, err := control.Dial(cmd.socket); err == nil { // without a daemon, ours is all there is to say
		if st, err := c.Status(ctx); err == nil {
			v.Daemon = st.Version
		}
	}
	return exitOK, show(nil, cmd, out, v, func(p *page) {
		p.line("cuttle   %s (%s)", v.Client, v.Go)
		if v.Daemon != "" {
			p.line("cuttled  %s", v.Daemon)
		}
	})
}

func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
