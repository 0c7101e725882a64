package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"cuttle/internal/control"
)

func payCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "pay [NEIGHBOR]", Short: "settle now instead of at the next scan, with all neighbors or with one",
		Long: "Agrees on the counts and pays what is owed, however little. A neighbor is named by its address or the beginning of it,\nas `cuttle ledger` shows it.",
		Args: cobra.MaximumNArgs(1),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		_, err := answer(a, c, func(ctx context.Context, d *control.Client) (control.Done, error) {
			if len(args) == 1 {
				return d.PayNeighbor(ctx, args[0])
			}
			return d.Pay(ctx)
		}, func(p *page, _ control.Done) { p.line("The accountant is settling; cuttle ledger shows the payments.") })
		return err
	}
	return c
}

func bansCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "bans", Short: "neighbors that are cut off, why, and what restores them", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := control.Dial(a.socket)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), askTimeout)
			defer cancel()
			defer a.waitFor("cuttled answers")()
			l, err := d.Ledger(ctx)
			if err != nil {
				return err
			}
			l.Accounts = slices.DeleteFunc(l.Accounts, func(x control.Account) bool { return x.State != "cut" && x.State != "disputed" })
			return a.show(bans{l.Schema, l.Accounts}, func(p *page) { p.bans(l.Accounts) })
		},
	}
}

// bans is the answer to cuttle bans.
type bans struct {
	Schema int               `json:"schema"`
	Bans   []control.Account `json:"bans"`
}

func (p *page) bans(all []control.Account) {
	if len(all) == 0 {
		p.line("Nobody is cut off.")
		return
	}
	var rows []string
	for _, x := range all {
		restores := "cuttle unban " + short(x.Node)
		if x.Restore != "0" {
			restores = "paying " + x.Restore + ", or " + restores
		}
		rows = append(rows, cells(short(x.Node), x.State, p.ago(x.Since), x.Due, x.Limit, x.Reason, restores))
	}
	p.table("NEIGHBOR\tSTATE\tSINCE\tOWES\tMAY OWE\tREASON\tRESTORED BY", rows)
}

func unbanCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "unban NEIGHBOR", Short: "serve a neighbor again that was cut off; what it owes stays owed",
		Long: "Lets a debt pass: it stays owed, and is not held against the neighbor any more. A dispute about counts ends, and both\nstart again from the last counts that both agreed on.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("want a neighbor: cuttle bans lists those that are cut off")
			}
			return nil
		},
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		_, err := answer(a, c, func(ctx context.Context, d *control.Client) (control.Done, error) { return d.Unban(ctx, args[0]) },
			func(p *page, _ control.Done) { p.line("%s is served again.", short(args[0])) })
		return err
	}
	return c
}
