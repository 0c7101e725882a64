package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cuttle/internal/control"
)

const (
	waitTimeout = time.Minute
	waitStep    = 100 * time.Millisecond
	settled     = 3 * time.Second // after which a blocked machine is not about to open
)

func upCommand(a *app) *cobra.Command {
	var wait bool
	var o control.UpOptions
	c := &cobra.Command{Use: "up", Short: "send this machine's traffic through the network", RunE: func(c *cobra.Command, _ []string) error {
		return up(a, c, wait, o)
	}}
	pathFlags(c, &o)
	c.Flags().BoolVar(&wait, "wait", false, "wait up to a minute until traffic is carried, or until it is clear that no exit fits")
	return c
}

// up asks the daemon to go up and, with --wait, stays until it is.
func up(a *app, c *cobra.Command, wait bool, o control.UpOptions) error {
	d, err := control.Dial(a.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), askTimeout+waitTimeout)
	defer cancel()
	answered := a.waitFor("cuttled answers")
	done, err := d.UpWith(ctx, o)
	answered()
	if err != nil {
		return err
	}
	if !wait {
		return a.show(done, func(p *page) {
			if done.State == control.StateOff || done.State == control.StateDraining {
				p.line("Going up; cuttle status shows how far it is.")
				return
			}
			p.line("%s", stateWords(done.State))
		})
	}
	st, err := a.awaitUp(ctx, d)
	if err != nil {
		return err
	}
	a.code = stateCode(st)
	return a.show(st, func(p *page) {
		if st.State == control.StateUp {
			p.line("%s", stateWords(st.State))
			p.leaves(st)
			return
		}
		p.status(st)
	})
}

// awaitUp waits until the state is up, and tells what it waits for. What stays is
// waited for no longer, once the machine is captured.
func (a *app) awaitUp(ctx context.Context, d *control.Client) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	tick := time.NewTicker(waitStep)
	defer tick.Stop()
	began, told := time.Now(), ""
	var last control.Status
	for {
		st, err := d.Status(ctx)
		if err != nil {
			if ctx.Err() != nil && last.Schema != 0 {
				return last, nil
			}
			return st, err
		}
		if last = st; st.State == control.StateUp {
			return st, nil
		}
		if st.State == control.StateConnecting {
			for _, p := range st.Problems {
				if p.Stays {
					return st, &control.Error{Text: "this machine is captured, and nothing new is carried: " + p.Text, Hint: p.Hint}
				}
			}
		}
		if now := waitingWords(st); now != told && time.Since(began) > slow {
			fmt.Fprintln(a.errOut, now)
			told = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, nil
		}
	}
}

// waitingWords says in a line how far up has come.
func waitingWords(st control.Status) string {
	line := stateWords(st.State)
	switch {
	case len(st.Problems) > 0:
		line += " " + st.Problems[0].Text
	case st.State == control.StateConnecting && st.Links == 0:
		line += " No link to a neighbor yet."
	case st.State == control.StateConnecting && st.Circuits == 0:
		line += " A link is up; a circuit is being built."
	case st.State == control.StateConnecting:
		line += " A circuit is open; the exit has not answered yet."
	}
	return line
}

func downCommand(a *app) *cobra.Command {
	return question(a, "down", "stop, and put the machine back as it was", down,
		func(p *page, done control.Done) {
			p.line("%s", stateWords(done.State))
		})
}

// down asks for it and waits until it is done, or has turned out to be impossible.
func down(d *control.Client, ctx context.Context) (control.Done, error) { //nolint:revive // a method expression's order
	began := time.Now()
	done, err := d.Down(ctx)
	if err != nil {
		return done, err
	}
	tick := time.NewTicker(waitStep)
	defer tick.Stop()
	for {
		st, err := d.Status(ctx)
		if err != nil {
			return done, err
		}
		done.State = st.State
		problems := ofTraffic(st.Problems)
		if st.State == control.StateOff && len(problems) == 0 {
			return done, nil
		}
		if st.State == control.StateOff && time.Since(began) > settled {
			return done, &control.Error{Text: problems[0].Text, Hint: problems[0].Hint}
		}
		if st.State == control.StateBlocked && len(problems) > 0 && time.Since(began) > settled {
			return done, &control.Error{Text: "this machine is still closed: " + problems[0].Text, Hint: problems[0].Hint}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return done, &control.Error{Text: "going down takes long; the state is still " + string(done.State), Hint: "cuttle status shows how far it is"}
		}
	}
}

func lockCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "lock [on|off]", Short: "on: keep this machine closed while cuttle is down, and after a reboot",
		ValidArgs: []string{"on", "off"},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] != "on" && args[0] != "off" {
				return errors.New("want on or off")
			}
			return nil
		},
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			_, err := answer(a, c, func(ctx context.Context, d *control.Client) (control.Status, error) { return d.Status(ctx) },
				func(p *page, s control.Status) { p.line("%s", lockWords(s.Locked)) })
			return err
		}
		on := args[0] == "on"
		_, err := answer(a, c, func(ctx context.Context, d *control.Client) (control.Done, error) { return d.Lock(ctx, on) },
			func(p *page, _ control.Done) { p.line("%s", lockWords(on)) })
		return err
	}
	return c
}
