package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"cuttle/internal/lab"
	"cuttle/internal/lab/bench"
	"cuttle/internal/lab/demo"
	"cuttle/internal/lab/emulate"

	"golang.org/x/sys/unix"
)

// execute does not parse beyond the node's name: the rest is the command's.
func execute(_ context.Context, c *cli) error {
	if err := c.flags.Parse(c.args); err != nil {
		return fmt.Errorf("%w; see cuttle-lab help", err)
	}
	words := c.flags.Args()
	if len(words) > 1 && words[1] == "--" {
		words = append(words[:1:1], words[2:]...)
	}
	if len(words) < 2 {
		return fmt.Errorf("exec: want a node and a command; see cuttle-lab help")
	}
	if err := c.finish(); err != nil {
		return err
	}
	l, err := lab.View(c.opts.State)
	if err != nil {
		return err
	}
	return l.Exec(words[0], words[1:])
}

func kill(ctx context.Context, c *cli) error {
	name := c.flags.String("signal", "KILL", "which one")
	words, err := c.parse(1, 1)
	if err != nil {
		return err
	}
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(*name), "SIG"))
	if sig == 0 {
		return fmt.Errorf("there is no signal %q", *name)
	}
	return c.change(ctx, func(l *lab.Lab) error { return l.Signal(ctx, words[0], sig) })
}

func start(ctx context.Context, c *cli) error {
	words, err := c.parse(1, 1)
	if err != nil {
		return err
	}
	return c.change(ctx, func(l *lab.Lab) error { return l.Start(ctx, words...) })
}

func waitReady(ctx context.Context, c *cli) error {
	words, err := c.parse(0, 1000)
	if err != nil {
		return err
	}
	l, err := lab.View(c.opts.State)
	if err != nil {
		return err
	}
	return l.Wait(ctx, words...)
}

func setLink(ctx context.Context, c *cli) error {
	c.shape()
	words, err := c.parse(2, 2)
	if err != nil {
		return err
	}
	return c.change(ctx, func(l *lab.Lab) error { return l.SetLink(ctx, words[0], words[1], c.opts.Shape) })
}

func partition(ctx context.Context, c *cli) error {
	words, err := c.parse(2, 2)
	if err != nil {
		return err
	}
	return c.change(ctx, func(l *lab.Lab) error { return l.SetLink(ctx, words[0], words[1], emulate.Shape{Down: true}) })
}

// change opens the lab for one change.
func (c *cli) change(ctx context.Context, f func(*lab.Lab) error) error {
	l, err := lab.Open(ctx, c.opts.State)
	if err != nil {
		return err
	}
	err = f(l)
	if closing := l.Close(); err == nil {
		err = closing
	}
	return err
}

func runDemo(ctx context.Context, c *cli) error {
	c.topology()
	bytes := c.flags.Int64("bytes", 100_000_000, "to download")
	if _, err := c.parse(0, 0); err != nil {
		return err
	}
	if err := lab.Missing(); err != nil {
		return err
	}
	c.opts.Billing = true
	if err := c.checkBinaries(); err != nil {
		return err
	}
	return demo.Run(ctx, demo.Config{Options: c.opts, Bytes: *bytes})
}

func runBench(ctx context.Context, c *cli) error {
	c.topology()
	quick := c.flags.Bool("quick", false, "shorter runs, for a look")
	links := c.flags.Bool("links", false, "measure the emulated links themselves instead")
	allowed := c.flags.Bool("allowed", false, "what 8 downloads make of several rates and delays of links, instead")
	early := c.flags.Bool("early", false, "first bytes of new connections on far links with each client.early, instead")
	profile := c.flags.String("profile", "", "folder for CPU profiles of every daemon during 8 downloads, instead")
	up := c.flags.Bool("up", false, "with --profile: during 8 uploads")
	peers := c.flags.String("peers", "", "folder of other VPNs to measure beside Cuttle, instead")
	rows := c.flags.String("rows", "", "which rows of --peers, with commas between")
	slow := c.flags.Bool("slow", false, "with the rows of --peers that take minutes")
	into := c.flags.String("into", "", "document whose marked part the tables replace")
	if _, err := c.parse(0, 0); err != nil {
		return err
	}
	if err := lab.Missing(); err != nil {
		return err
	}
	cfg := bench.Config{Options: c.opts, Quick: *quick, Slow: *slow, Into: *into}
	if *rows != "" {
		cfg.Rows = strings.Split(*rows, ",")
	}
	if *links {
		return bench.Links(ctx, cfg)
	}
	if err := c.checkBinaries(); err != nil {
		return err
	}
	switch {
	case *allowed:
		return bench.Allowed(ctx, cfg)
	case *early:
		return bench.Early(ctx, cfg)
	case *profile != "":
		mode := "download"
		if *up {
			mode = "upload"
		}
		return bench.Profile(ctx, cfg, mode, *profile)
	case *peers != "":
		var err error
		if cfg.Peers, err = filepath.Abs(*peers); err != nil {
			return err
		}
		return bench.Peers(ctx, cfg)
	}
	return bench.Network(ctx, cfg)
}
