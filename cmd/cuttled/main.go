// Command cuttled is the daemon: client, relay and exit in one; its
// configuration file says which. It parses flags and turns signals into an
// end; everything else happens in internal/node. It is started by systemd or
// by hand and is spoken to through the control socket (cmd/cuttle).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"cuttle/billing/wallet"
	"cuttle/internal/config"
	"cuttle/internal/node"
	"cuttle/internal/processor"
	"cuttle/internal/systemd"
	"cuttle/tun/hostnet"
)

const usage = `cuttled runs a Cuttle node.

  cuttled -config FILE [-closed]    run with this configuration (default /etc/cuttle/cuttled.toml); with -closed every
                                    signal to end leaves this machine closed: for launchd, which knows one signal only
  cuttled guard -config FILE [-starts FILE]
                                    close this machine if the lock is on, if it was capturing when it went off, or if a
                                    daemon that captures will start (FILE exists), and end; for the time before the network
  cuttled resolver -state DIR       write /etc/resolv.conf for a daemon that may not; the request is on standard input
  cuttled release -config FILE      turn the lock off and open this machine after a daemon that is gone
  cuttled check -config FILE        read the configuration and say what is wrong with it
  cuttled plan -config FILE         print what capturing would put in force on this machine; changes nothing
  cuttled identity -state DIR       print the node's address; makes its keys when missing
  cuttled record -config FILE       print the node's signed record for a network map
  cuttled wallet -out FILE -password-file FILE [-light]
                                    make a keystore file (v3) and print its address
  cuttled default-config            print the commented default configuration

With CUTTLE_CPUPROFILE=FILE in its environment a running node writes a CPU profile (pprof) to FILE when it ends.
`

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "cuttled:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	verb := "run"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	fs := flag.NewFlagSet("cuttled", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage) }
	file := fs.String("config", "/etc/cuttle/cuttled.toml", "configuration file")
	state := fs.String("state", "", "state directory")
	out := fs.String("out", "", "keystore file to make")
	password := fs.String("password-file", "", "file with the wallet's password")
	starts := fs.String("starts", "", "file that is there if the daemon starts at boot")
	closed := fs.Bool("closed", false, "end closed on every signal, and not on SIGUSR1 only")
	light := fs.Bool("light", false, "cheaper key derivation, for small boards")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see cuttled -help", fs.Arg(0))
	}
	switch verb {
	case "run":
		return serve(ctx, *file, *closed, stderr)
	case "guard":
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		return node.Guard(cfg, exists(*starts), newLog(cfg, stderr))
	case "resolver":
		if *state == "" {
			return errors.New("resolver: give a state directory of its own with -state DIR")
		}
		return hostnet.Deputy(connection{os.Stdin, stdout}, "/etc/resolv.conf", *state)
	case "release":
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		return node.Release(cfg)
	case "check":
		_, err := config.Load(*file)
		return err
	case "plan":
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		plan, err := node.PlanFor(cfg)
		if err != nil {
			return err
		}
		_, err = io.WriteString(stdout, plan)
		return err
	case "identity":
		if *state == "" {
			return errors.New("identity: give the state directory with -state DIR")
		}
		id, err := node.LoadIdentity(*state)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, id.ID)
		return nil
	case "record":
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		line, err := node.RecordLine(cfg)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, line)
		return nil
	case "wallet":
		if *out == "" || *password == "" {
			return errors.New("wallet: give -out FILE and -password-file FILE")
		}
		secret, err := wallet.ReadPassword(*password)
		if err != nil {
			return err
		}
		w, err := wallet.Create(*out, secret, *light)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, w)
		return nil
	case "default-config":
		_, err := stdout.Write(config.Default())
		return err
	case "help":
		fs.SetOutput(stdout)
		fmt.Fprint(stdout, usage)
		return nil
	}
	return fmt.Errorf("unknown verb %q; see cuttled help", verb)
}

// connection is what a service for one connection has as standard input and output.
type connection struct {
	io.Reader
	io.Writer
}

// exists tells whether a file is there; what cannot be known is.
func exists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func serve(ctx context.Context, file string, closed bool, stderr io.Writer) (err error) {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	endProfile, err := profile(os.Getenv(profileVariable))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, endProfile()) }()
	n, err := node.New(cfg, newLog(cfg, stderr))
	if err != nil {
		// What was to be captured is kept in although this node cannot run.
		return errors.Join(err, node.Guard(cfg, true, newLog(cfg, stderr)))
	}
	manager, err := systemd.New(os.Getenv, os.Unsetenv)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := cancel
	if closed {
		end = func() { n.StayClosed(); cancel() }
	}
	obeyed, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(obeyed); obey(signals, ended, n.StayClosed, end) }() // ends with ended
	defer func() { close(ended); <-obeyed }()
	adapted := make(chan struct{})
	processor.Batch()
	go func() { defer close(adapted); processor.Adapt(ctx) }() // ends with ctx
	defer func() { cancel(); <-adapted }()
	return n.RunUnder(ctx, manager)
}

// obey turns signals into the end of the node, until ended. SIGUSR1 ends as
// SIGTERM does, but closed: for upgrades and restarts. It counts before and after
// SIGTERM, since the kernel may deliver two that wait in either order.
func obey(signals <-chan os.Signal, ended <-chan struct{}, stayClosed, end func()) {
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGUSR1 {
				stayClosed()
			}
			end()
		case <-ended:
			return
		}
	}
}

func newLog(cfg *config.Config, stderr io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.Node.Log}))
}
