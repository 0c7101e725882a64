package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cuttle/billing"
	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/relay/wire"
)

// books is the flags of the ledger commands that read a file.
type books struct {
	a      *app
	config string
	csv    bool
}

func ledgerCommand(a *app) *cobra.Command {
	b := &books{a: a}
	c := watched(a, question(a, "ledger", "what is owed, what was paid, and our wallets; verify, history and balances read the file itself",
		(*control.Client).Ledger, (*page).ledger), "ledger", (*page).ledger)
	ask := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if b.csv {
			return b.accounts(c)
		}
		return ask(c, args)
	}
	c.Flags().BoolVar(&b.csv, "csv", false, "print the accounts as CSV")
	verify := &cobra.Command{Use: "verify [FILE]", Short: "check that everything in a ledger file fits together; the daemon may be running, or not", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return b.verify(c.Context(), args) }}
	history := &cobra.Command{Use: "history [FILE]", Short: "every movement in a ledger file, the oldest first", Args: cobra.MaximumNArgs(1)}
	var neighbor string
	history.RunE = func(c *cobra.Command, args []string) error { return b.history(c.Context(), args, neighbor) }
	history.Flags().StringVar(&neighbor, "neighbor", "", "only entries with this neighbor")
	positions := &cobra.Command{Use: "balances [FILE]", Short: "where the account with each neighbor stands in a ledger file, and cost per GB", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return b.positions(c.Context(), args) }}
	adopt := &cobra.Command{Use: "adopt [FILE]", Short: "have an older copy of the ledger used, when the newest is lost; what was paid since may be paid again", Args: cobra.MaximumNArgs(1)}
	var yes bool
	adopt.RunE = func(c *cobra.Command, args []string) error { return b.adopt(c.Context(), args, yes) }
	adopt.Flags().BoolVar(&yes, "yes", false, "do not ask")
	for _, sub := range []*cobra.Command{verify, history, positions, adopt} {
		sub.Flags().StringVar(&b.config, "config", defaultConfig, "the configuration that says where the ledger is, if no FILE is given")
		if sub == history || sub == positions {
			sub.Flags().BoolVar(&b.csv, "csv", false, "print CSV")
		}
		c.AddCommand(sub)
	}
	return c
}

// where is the file named, or the daemon's.
func (b *books) where(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	cfg, err := config.LoadUnchecked(b.config)
	if err != nil {
		return "", err
	}
	return filepath.Join(cfg.Node.State, "ledger.db"), nil
}

func (b *books) open(args []string) (*billing.File, string, error) {
	path, err := b.where(args)
	if err != nil {
		return nil, "", err
	}
	f, err := billing.OpenFile(path)
	return f, path, err
}

func (b *books) adopt(ctx context.Context, args []string, yes bool) error {
	path, err := b.where(args)
	if err != nil {
		return err
	}
	if d, err := control.Dial(b.a.socket); err == nil {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		_, err := d.Status(ask)
		cancel()
		if !errors.Is(err, control.ErrNotRunning) {
			return errors.New("cuttled is running: stop it first")
		}
	}
	if !yes {
		ok, err := newAsker(b.a).yes(ctx, "What this node has paid since the copy was made will be owed, and paid, again.")
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("not confirmed: nothing was changed")
		}
	}
	if err := billing.Adopt(ctx, path); err != nil {
		return err
	}
	return b.a.show(map[string]any{"schema": control.Schema, "file": path}, func(p *page) { p.line("%s will be used from the next start of cuttled on.", path) })
}

// verified is what ledger verify prints.
type verified struct {
	Schema int    `json:"schema"`
	File   string `json:"file"`
	OK     bool   `json:"ok"`
	billing.Verified
}

func (b *books) verify(ctx context.Context, args []string) error {
	f, path, err := b.open(args)
	if err != nil {
		return err
	}
	v, err := f.Verify(ctx)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	out := verified{control.Schema, path, len(v.Findings) == 0, v}
	if !out.OK {
		b.a.code = exitError
	}
	return b.a.show(out, func(p *page) {
		for _, x := range v.Findings {
			if x.At != "" {
				x.What += " (" + x.At + ")"
			}
			p.line("%s", x.What)
		}
		if out.OK {
			p.line("%s fits together: %d neighbors, %d entries.", path, v.Neighbors, v.Entries)
			return
		}
		p.line("%s is damaged. Stop cuttled, put back the newest backup that verifies, and see docs/money.md.", path)
	})
}

// rows prints values as CSV, as a list of JSON objects, or as a table.
type rows struct {
	head  []string
	cells func(i int) []string
	count int
}

func (b *books) print(name string, list any, r rows) error {
	if b.csv {
		w := csv.NewWriter(b.a.out)
		if err := w.Write(r.head); err != nil {
			return err
		}
		for i := range r.count {
			if err := w.Write(r.cells(i)); err != nil {
				return err
			}
		}
		w.Flush()
		return w.Error()
	}
	if b.a.json {
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		return b.a.show(map[string]any{"schema": control.Schema, name: json.RawMessage(text)}, nil)
	}
	return b.a.show(list, func(p *page) {
		if r.count == 0 {
			p.line("Nothing yet.")
			return
		}
		var lines []string
		for i := range r.count {
			c := r.cells(i)
			for j, s := range c {
				c[j] = dash(s)
			}
			lines = append(lines, strings.Join(c, "\t"))
		}
		p.table(strings.ToUpper(strings.Join(r.head, "\t")), lines)
	})
}

func (b *books) history(ctx context.Context, args []string, neighbor string) error {
	var id wire.NodeID
	if neighbor != "" {
		var err error
		if id, err = wire.ParseNodeID(neighbor); err != nil {
			return usageError{fmt.Errorf("--neighbor: %w", err)}
		}
	}
	f, _, err := b.open(args)
	if err != nil {
		return err
	}
	all := []billing.Movement{}
	err = f.History(ctx, id, func(m billing.Movement) error {
		all = append(all, m)
		return nil
	})
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return b.print("history", all, rows{[]string{"entry", "time", "kind", "account", "neighbor", "amount", "units", "ref"}, func(i int) []string {
		m := all[i]
		node := m.Node
		if !b.csv && node != "" {
			node = short(node)
		}
		return []string{strconv.FormatInt(m.Entry, 10), m.Time.Format(time.RFC3339), m.Kind, m.Account, node, m.Amount, strconv.FormatInt(m.Units, 10), m.Ref}
	}, len(all)})
}

func (b *books) positions(ctx context.Context, args []string) error {
	f, _, err := b.open(args)
	if err != nil {
		return err
	}
	all, err := f.Positions(ctx)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if all == nil {
		all = []billing.Position{}
	}
	return b.print("balances", all, rows{[]string{"neighbor", "owed", "due", "transit", "spent", "earned", "spent_per_gb", "earned_per_gb", "cells_we_pay", "cells_they_pay"}, func(i int) []string {
		p := all[i]
		node := p.Node
		if !b.csv {
			node = short(node)
		}
		return []string{node, p.Owed, p.Due, p.Transit, p.Spent, p.Earned, p.SpentPerGB, p.EarnedPerGB,
			strconv.FormatUint(p.CellsWePay, 10), strconv.FormatUint(p.CellsTheyPay, 10)}
	}, len(all)})
}

// accounts prints what the daemon says of each neighbor as CSV.
func (b *books) accounts(c *cobra.Command) error {
	d, err := control.Dial(b.a.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), askTimeout)
	defer cancel()
	l, err := d.Ledger(ctx)
	if err != nil {
		return err
	}
	return b.print("accounts", l.Accounts, rows{[]string{"neighbor", "state", "reason", "owed", "due", "spent", "earned", "spent_per_gb", "earned_per_gb", "agreed", "wallet"}, func(i int) []string {
		x := l.Accounts[i]
		return []string{x.Node, x.State, x.Reason, x.Owed, x.Due, x.Spent, x.Earned, x.SpentPerGB, x.EarnedPerGB, strconv.FormatBool(x.Agreed), x.Wallet}
	}, len(l.Accounts)})
}
