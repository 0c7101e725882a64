package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cuttle/internal/control"
)

func channelCommand(a *app) *cobra.Command {
	c := question(a, "channel", "channels of the hub: deposits, what vouchers have spent and what was cashed; close and topup change one",
		(*control.Client).Channels, func(p *page, all control.Channels) { p.channels(all.Channels) })
	var yes bool
	shut := &cobra.Command{
		Use: "close NEIGHBOR", Short: "close the channel in which we pay a neighbor, and get back what is left of the deposit after the hub's notice",
		Long: "Gives notice for the channel in which we pay a neighbor. When the notice is over the rest of the deposit comes back; what\nvouchers have promised stays the neighbor's, which cashes it meanwhile. Until a channel is open again transfers pay.",
		Args: named(1, "want a neighbor: cuttle channel lists the channels"), ValidArgsFunction: a.payees,
	}
	shut.RunE = func(c *cobra.Command, args []string) error { return a.closeChannel(c, args[0], yes) }
	topUp := &cobra.Command{
		Use: "topup NEIGHBOR AMOUNT", Short: "add to the deposit of the channel in which we pay a neighbor",
		Long: "Moves AMOUNT of token from the consuming wallet into the channel in which we pay a neighbor. What is not used comes back when\nthe channel is closed. A deposit that is nearly used is topped up without this, by billing.deposit.",
		Args: named(2, "want a neighbor and an amount of token, for example 0.1"), ValidArgsFunction: a.payees,
	}
	topUp.RunE = func(c *cobra.Command, args []string) error { return a.topUpChannel(c, args[0], args[1], yes) }
	for _, sub := range []*cobra.Command{shut, topUp} {
		sub.Flags().BoolVar(&yes, "yes", false, "do not ask")
		c.AddCommand(sub)
	}
	return c
}

// named wants so many arguments.
func named(n int, otherwise string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return errors.New(otherwise)
		}
		return nil
	}
}

// payees completes neighbors that we have an open channel to.
func (a *app) payees(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	d, err := control.Dial(a.socket)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), slow)
	defer cancel()
	all, err := d.Channels(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, x := range all.Channels {
		if x.Direction == "out" && x.State == control.ChannelOpen {
			out = append(out, x.Node)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// payChannel finds the channel in which we pay a neighbor.
func (a *app) payChannel(ctx context.Context, d *control.Client, node string) (found control.Channel, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	defer a.waitFor("cuttled answers")()
	all, err := d.Channels(ctx)
	if err != nil {
		return found, err
	}
	count := 0
	for _, x := range all.Channels {
		if x.Direction == "out" && (x.State == control.ChannelOpen || x.State == control.ChannelClosing) && node != "" && strings.HasPrefix(x.Node, strings.ToLower(node)) {
			found = x
			count++
		}
	}
	switch count {
	case 1:
		return found, nil
	case 0:
		return found, &control.Error{Text: fmt.Sprintf("there is no open channel in which we pay a neighbor %q", node), Hint: "cuttle channel lists the channels"}
	}
	return found, &control.Error{Text: fmt.Sprintf("%q is the beginning of %d neighbors' addresses", node, count), Hint: "give more of it"}
}

// confirmed asks, unless it is not to be asked.
func (a *app) confirmed(ctx context.Context, question string, yes bool) error {
	if yes {
		return nil
	}
	ok, err := newAsker(a).yes(ctx, question)
	if err == nil && !ok {
		err = errors.New("not confirmed: nothing was changed")
	}
	return err
}

func (a *app) closeChannel(c *cobra.Command, node string, yes bool) error {
	d, err := control.Dial(a.socket)
	if err != nil {
		return err
	}
	x, err := a.payChannel(c.Context(), d, node)
	if err != nil {
		return err
	}
	if err := a.confirmed(c.Context(), fmt.Sprintf("The channel to %s holds %s, of which vouchers have promised %s. %s comes back after the hub's notice.",
		short(x.Node), x.Deposit, x.Given, x.Left), yes); err != nil {
		return err
	}
	_, err = answer(a, c, func(ctx context.Context, d *control.Client) (control.Done, error) { return d.CloseChannel(ctx, x.Node) },
		func(p *page, _ control.Done) {
			p.line("Notice is being given; cuttle channel shows when the rest can come back.")
		})
	return err
}

func (a *app) topUpChannel(c *cobra.Command, node, amount string, yes bool) error {
	d, err := control.Dial(a.socket)
	if err != nil {
		return err
	}
	x, err := a.payChannel(c.Context(), d, node)
	if err != nil {
		return err
	}
	if err := a.confirmed(c.Context(), fmt.Sprintf("%s of the token leaves the wallet %s for the channel to %s, which holds %s.", amount, x.Payer, short(x.Node), x.Deposit), yes); err != nil {
		return err
	}
	_, err = answer(a, c, func(ctx context.Context, d *control.Client) (control.Done, error) {
		return d.TopUpChannel(ctx, x.Node, amount)
	},
		func(p *page, _ control.Done) {
			p.line("The deposit is on its way; cuttle channel shows when it counts.")
		})
	return err
}

func (p *page) channels(all []control.Channel) {
	if len(all) == 0 {
		p.line("No channels. One is opened when something is owed to a neighbor that has the same hub.")
		return
	}
	var rows []string
	for _, x := range all {
		way := "to"
		if x.Direction == "in" {
			way = "from"
		}
		state := string(x.State)
		if x.CloseAt > 0 {
			state += ", from " + time.Unix(x.CloseAt, 0).UTC().Format("2006-01-02 15:04 UTC")
		}
		if x.UnderWay != "" && x.UnderWay != string(x.State) {
			state += ", " + x.UnderWay
		}
		deposit := x.Deposit
		if x.Target != x.Deposit {
			deposit += " of " + x.Target
		}
		rows = append(rows, cells(way+" "+short(x.Node), state, deposit, x.Given, x.Cashed, x.Left))
	}
	p.table(cells("CHANNEL", "STATE", "DEPOSIT", "SPENT", "CASHED", "LEFT"), rows)
}
