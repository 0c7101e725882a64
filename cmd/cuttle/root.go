package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

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
	askTimeout = 45 * time.Second // for one question
	slow       = time.Second      // after which a person is told what we wait for
)

// version is set by the linker (-X main.version=...); otherwise the module's.
var version = ""

// app is one command line.
type app struct {
	socket string
	json   bool
	watch  bool
	out    io.Writer
	errOut io.Writer
	in     io.Reader
	code   int // what the process ends with when there is no error
}

// usageError is a wrong command line.
type usageError struct{ error }

const long = `cuttle asks cuttled, behind its control socket, and prints the answer.

Exit codes: 0 connected or done, 3 disconnected, 4 connecting, 5 blocked or error,
10 not permitted, 2 wrong command line.`

// newRoot puts the commands together. Files of their own hold what is long.
func newRoot(a *app, env func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use: "cuttle", Short: "what people type to speak to cuttled", Long: long,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return usageError{errors.New("want a command")}
		},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
	}
	a.socket = control.DefaultPath
	if s := env("CUTTLE_SOCKET"); s != "" {
		a.socket = s
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.socket, "socket", "s", a.socket, "the control socket; also $CUTTLE_SOCKET")
	flags.BoolVar(&a.json, "json", false, "print JSON (schema 1)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		upCommand(a), newPathCommand(a), downCommand(a), lockCommand(a), payCommand(a), channelCommand(a), bansCommand(a), unbanCommand(a),
		statusCommand(a), exitsCommand(a), circuitsCommand(a), neighborsCommand(a), ledgerCommand(a), metricsCommand(a),
		planCommand(a), lanCommand(a), splitCommand(a), excludeCommand(a, env), portalCommand(a, env), routerCommand(a),
		selftestCommand(a), topCommand(a), bugreportCommand(a), configCommand(a), walletCommand(a), manualCommand(a), versionCommand(a),
	)
	for _, c := range root.Commands() {
		strict(c)
	}
	return root
}

// strict makes a command's complaints about arguments usage errors.
func strict(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{fmt.Errorf("%s: %w", c.Name(), err)}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// run does what main is for and gives the exit code.
func run(ctx context.Context, args []string, env func(string) string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, errOut: errOut}
	root := newRoot(a, env)
	root.SetArgs(append([]string{}, args...)) // never nil, which would mean os.Args
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return a.code
	}
	fmt.Fprintf(errOut, "cuttle: %v\n", err)
	if hint := control.Hint(err); hint != "" {
		fmt.Fprintf(errOut, "  %s\n", hint)
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(errOut, "(cuttle help shows how)")
		return exitUsage
	case errors.Is(err, control.ErrNotPermitted), errors.Is(err, fs.ErrPermission):
		return exitNotPermitted
	case errors.Is(err, control.ErrNotRunning):
		return exitDisconnected
	}
	return exitError
}

// question is a command without arguments that asks one thing and shows it.
func question[T any](a *app, use, short string, ask func(*control.Client, context.Context) (T, error), text func(*page, T)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		_, err := answer(a, c, func(ctx context.Context, d *control.Client) (T, error) { return ask(d, ctx) }, text)
		return err
	}}
}

// answer dials the daemon, asks it and shows what it says.
func answer[T any](a *app, c *cobra.Command, ask func(context.Context, *control.Client) (T, error), text func(*page, T)) (T, error) {
	var none T
	d, err := control.Dial(a.socket)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), askTimeout)
	defer cancel()
	defer a.waitFor("cuttled answers")()
	v, err := ask(ctx, d)
	if err != nil {
		return none, err
	}
	return v, a.show(v, func(p *page) { text(p, v) })
}

// waitFor tells, when it takes longer than a second, what is waited for. The
// result ends it.
func (a *app) waitFor(what string) (done func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends when done is called
		defer close(stopped)
		select {
		case <-time.After(slow):
			fmt.Fprintf(a.errOut, "waiting until %s ...\n", what)
		case <-stop:
		}
	}()
	return func() { close(stop); <-stopped }
}

// show prints a value as JSON or as text.
func (a *app) show(value any, text func(*page)) error {
	if a.json {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(value)
	}
	p := &page{now: time.Now()}
	text(p)
	_, err := io.WriteString(a.out, p.String())
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
		if len(ofTraffic(st.Problems)) > 0 { // not as it was, or not closed as it should be
			return exitError
		}
		return exitDisconnected
	case control.StateConnecting:
		return exitConnecting
	case control.StateBlocked:
		return exitError
	}
	return exitError
}

// ofTraffic leaves out problems of payments, which say nothing about the state.
func ofTraffic(all []control.Problem) (out []control.Problem) {
	for _, p := range all {
		if p.Area != control.AreaMoney {
			out = append(out, p)
		}
	}
	return out
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
