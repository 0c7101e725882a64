package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"cuttle/internal/lab"
	"cuttle/internal/lab/emulate"
)

const usage = `cuttle-lab builds a whole Cuttle network on this machine. It needs root and /dev/net/tun.

  cuttle-lab up [--nodes 5] [--exits 2] [--hops 3] [--clients 1] [--mask https] [--billing|--account] [--router] [--seed 1]
                [--vouchers] [--day 2m] [--rpc-fail 50]   with --billing: pay by the channel hub; a day of the accountants; calls to the chain that fail
                [--delay 25ms] [--jitter 2ms] [--loss 0.5%] [--rate 100mbit] [--no-nodes] [--log info]
  cuttle-lab status [--json]          nodes, circuits, addresses
  cuttle-lab exec NODE -- CMD...      run a command in a node's namespace (client, n1.., host1.., web, chain, net)
  cuttle-lab kill NODE [--signal KILL]    crash a daemon; web and chain can be stopped and continued too (STOP, CONT)
  cuttle-lab start NODE               start it again
  cuttle-lab wait [NODE...]           return when the daemons are ready
  cuttle-lab set-link A B [--delay ..] [--jitter ..] [--loss ..] [--rate ..]   no flags: a perfect link again
  cuttle-lab partition A B            nothing passes between A and B, until set-link
  cuttle-lab down [--orphans]         end and remove everything
  cuttle-lab demo [--mask https] [--bytes 100000000]   a tour of the whole: what make demo runs
  cuttle-lab soak [--for 1m] [--every 4s]   crash relays under traffic with billing by account, then compare all ledgers
  cuttle-lab soak --billing [--vouchers] [--day 2m] [--rpc-fail 50]   likewise on a chain, and compare wallets with ledgers
  cuttle-lab bench [--quick] [--links|--allowed|--early] [--into FILE]   measure; prints tables in Markdown, or puts them into a document
  cuttle-lab bench --peers bin/peers [--rows A,B] [--slow]   measure Cuttle and other VPNs side by side (make peers)
  cuttle-lab bench --profile DIR [--up] [--mask plain] [--quick]   CPU profiles (pprof) of every daemon during 8 downloads, or uploads

Every verb takes --state DIR (default /run/cuttle-lab). bin/ of cuttled and cuttle-lab-chain: beside cuttle-lab, or --bin DIR.
`

func main() {
	ours, err := lab.Hidden(os.Args, os.Stdout, os.Stderr)
	if !ours {
		err = typed(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cuttle-lab:", err)
		os.Exit(1)
	}
}

// typed does what a person has typed.
func typed(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	return run(ctx, args)
}

// verbs are what people type, and what does it.
func verbs() map[string]func(context.Context, *cli) error {
	return map[string]func(context.Context, *cli) error{
		"up": up, "down": down, "status": status, "exec": execute, "kill": kill, "start": start, "wait": waitReady,
		"set-link": setLink, "partition": partition, "demo": runDemo, "soak": soak, "bench": runBench,
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		_, err := io.WriteString(os.Stdout, usage)
		return err
	}
	do, ok := verbs()[args[0]]
	if !ok {
		return fmt.Errorf("there is no verb %q; see cuttle-lab help", args[0])
	}
	return do(ctx, newCLI(args[0], args[1:]))
}

// cli is one command line.
type cli struct {
	flags *flag.FlagSet
	args  []string
	opts  lab.Options
	loss  string
	rate  string
}

func newCLI(verb string, args []string) *cli {
	c := &cli{flags: flag.NewFlagSet(verb, flag.ContinueOnError), args: args, opts: lab.Defaults()}
	c.flags.SetOutput(io.Discard)
	c.flags.StringVar(&c.opts.State, "state", c.opts.State, "folder of the lab's files")
	c.flags.StringVar(&c.opts.Prefix, "prefix", c.opts.Prefix, "of the namespaces' names")
	return c
}

// topology adds the flags that describe a network.
func (c *cli) topology() {
	o := &c.opts
	c.flags.IntVar(&o.Nodes, "nodes", o.Nodes, "relays, exits included")
	c.flags.IntVar(&o.Exits, "exits", o.Exits, "how many of them are exits")
	c.flags.IntVar(&o.Hops, "hops", o.Hops, "relays of a circuit")
	c.flags.IntVar(&o.Clients, "clients", o.Clients, "clients")
	c.flags.StringVar(&o.Mask, "mask", o.Mask, "https or plain")
	c.flags.BoolVar(&o.Billing, "billing", o.Billing, "with a chain and wallets")
	c.flags.BoolVar(&o.Account, "account", o.Account, "billing without a chain, by account")
	c.flags.BoolVar(&o.Vouchers, "vouchers", o.Vouchers, "with --billing: pay with vouchers on the channel hub")
	c.flags.DurationVar(&o.Day, "day", o.Day, "with --billing: what a day of the accountants, 24 scans, takes")
	c.flags.IntVar(&o.RPCFail, "rpc-fail", o.RPCFail, "with --billing: of 100 calls to the chain that nodes make, so many fail")
	c.flags.BoolVar(&o.Router, "router", o.Router, "the first client is the router of a LAN with two hosts")
	c.flags.Uint64Var(&o.Seed, "seed", o.Seed, "of everything drawn at random")
	c.flags.StringVar(&o.Log, "log", o.Log, "level of the daemons' logs")
	c.binaries()
	c.shape()
}

func (c *cli) binaries() {
	c.flags.StringVar(&c.opts.Bin, "bin", "", "folder of cuttled and cuttle-lab-chain")
}

// shape adds the flags that describe a path.
func (c *cli) shape() {
	s := &c.opts.Shape
	c.flags.DurationVar(&s.Delay, "delay", 0, "one way")
	c.flags.DurationVar(&s.Jitter, "jitter", 0, "how much the delay varies, up and down")
	c.flags.StringVar(&c.loss, "loss", "0", "share of packets lost, in percent")
	c.flags.StringVar(&c.rate, "rate", "0", "for example 100mbit")
}

// parse reads flags wherever they stand and gives the rest, which must be at
// least least and at most most words.
func (c *cli) parse(least, most int) ([]string, error) {
	var words []string
	rest := c.args
	for {
		if err := c.flags.Parse(rest); errors.Is(err, flag.ErrHelp) {
			return nil, errors.New("see cuttle-lab help")
		} else if err != nil {
			return nil, fmt.Errorf("%w; see cuttle-lab help", err)
		}
		if rest = c.flags.Args(); len(rest) == 0 {
			break
		}
		words, rest = append(words, rest[0]), rest[1:]
	}
	if len(words) < least || len(words) > most {
		return nil, fmt.Errorf("%s: wrong number of arguments; see cuttle-lab help", c.flags.Name())
	}
	return words, c.finish()
}

// finish turns what flags cannot read into values.
func (c *cli) finish() (err error) {
	if c.loss != "" {
		if c.opts.Shape.Loss, err = emulate.ParseLoss(c.loss); err != nil {
			return err
		}
	}
	if c.rate != "" {
		if c.opts.Shape.Rate, err = emulate.ParseRate(c.rate); err != nil {
			return err
		}
	}
	if c.opts.State, err = filepath.Abs(c.opts.State); err != nil {
		return err
	}
	if c.opts.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the folder of cuttled: %w", err)
		}
		c.opts.Bin = filepath.Dir(self)
	}
	c.opts.Bin, err = filepath.Abs(c.opts.Bin)
	return err
}

// checkBinaries says which program is missing, before anything is made.
func (c *cli) checkBinaries() error {
	need := []string{"cuttled"}
	if c.opts.Billing {
		need = append(need, "cuttle-lab-chain")
	}
	if c.flags.Name() == "soak" && c.opts.Billing {
		need = append(need, "cuttle")
	}
	for _, name := range need {
		if _, err := exec.LookPath(filepath.Join(c.opts.Bin, name)); err != nil {
			return fmt.Errorf("%s is not in %s: build it with `make build chain`, or say where it is with --bin", name, c.opts.Bin)
		}
	}
	return nil
}

func say(what string) { fmt.Fprintln(os.Stderr, "lab:", what) }

func up(ctx context.Context, c *cli) (err error) {
	c.topology()
	bare := c.flags.Bool("no-nodes", false, "build everything, start no daemon")
	if _, err := c.parse(0, 0); err != nil {
		return err
	}
	if err := lab.Missing(); err != nil {
		return err
	}
	if err := c.checkBinaries(); err != nil {
		return err
	}
	l, err := lab.Build(ctx, c.opts, say)
	if err != nil {
		return err
	}
	if !*bare {
		say("daemons")
		err := errors.Join(l.Start(ctx), l.Wait(ctx))
		if err == nil {
			err = l.Lease(ctx)
		}
		if err != nil {
			return errors.Join(err, l.Down())
		}
	}
	say("ready")
	return l.Close()
}

func down(ctx context.Context, c *cli) error {
	orphans := c.flags.Bool("orphans", false, "remove namespaces that no lab knows of")
	if _, err := c.parse(0, 0); err != nil {
		return err
	}
	if *orphans {
		names, err := lab.RemoveOrphans(ctx, c.opts.State, c.opts.Prefix)
		for _, name := range names {
			say("removed " + name)
		}
		return err
	}
	l, err := lab.Open(ctx, c.opts.State)
	if err != nil {
		return err
	}
	return l.Down()
}

func status(ctx context.Context, c *cli) error {
	asJSON := c.flags.Bool("json", false, "for programs")
	if _, err := c.parse(0, 0); err != nil {
		return err
	}
	l, err := lab.View(c.opts.State)
	if err != nil {
		return err
	}
	s, err := l.Status(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	return printStatus(os.Stdout, s)
}

func printStatus(w io.Writer, s lab.Status) error {
	var b strings.Builder
	for _, n := range s.Nodes {
		pid := "-"
		if n.PID != 0 {
			pid = fmt.Sprint(n.PID)
		}
		var addrs []string
		for _, i := range n.Interfaces {
			addrs = append(addrs, i.Name+" "+strings.Join(i.Addrs, " "))
		}
		fmt.Fprintf(&b, "%-8s %-6s pid %-8s %-10s %-16s %s\n", n.Name, n.Role, pid, n.State, n.NetNS, strings.Join(addrs, "; "))
	}
	for _, c := range s.Circuits {
		fmt.Fprintf(&b, "circuit  %s of %s: %s, %s, %d streams\n", c.ID, c.Client, c.State, strings.Join(c.Hops, " > "), c.Streams)
	}
	fmt.Fprintf(&b, "web      %s %s (authority %s), dns %s, echo %s\n", s.Web.HTTP, s.Web.HTTPS, s.Web.CA, s.Web.DNS, s.Web.Echo)
	if s.Chain != nil {
		fmt.Fprintf(&b, "chain    %s id %d token %s\n", s.Chain.RPC, s.Chain.ID, s.Chain.Token)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
