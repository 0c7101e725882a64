package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cuttle/internal/control"
)

func (w *purse) resumeCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "resume", Short: "send again from the consuming wallet, after another program has used it",
		Long: "When another program has used a number (nonce) that a payment of ours had, nothing more is sent from the consuming wallet.\n" +
			"This shows what was lost, and lets the wallet send again: each payment is a debt again and is paid under a new number, and\n" +
			"what channels need is done anew. It refuses while the chain does not show that somebody else has used the numbers, while\n" +
			"transactions of others wait there, and when more or less was lost since it was shown. Stop the other program first: two with one wallet do this to each other again and again.",
		RunE: func(c *cobra.Command, _ []string) error { return w.a.resume(c, yes) },
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) resume(c *cobra.Command, yes bool) error {
	d, err := control.Dial(a.socket)
	if err != nil {
		return err
	}
	lost, err := a.taken(c.Context(), d)
	if err != nil {
		return err
	}
	if len(lost.Taken) > 0 && lost.Digest == "" {
		return &control.Error{Text: "cuttled cannot be told what was shown here", Hint: "nothing was changed; cuttle and cuttled have to be of the same version"}
	}
	if len(lost.Taken) > 0 { // else the daemon says that there is nothing to resume
		p := &page{}
		p.taken(lost.Taken)
		fmt.Fprint(a.errOut, p.String())
		if err := a.confirmed(c.Context(), "What is listed was never paid by this node, and is paid again. Nothing else uses the wallet now.", yes); err != nil {
			return err
		}
	}
	_, err = answer(a, c, func(ctx context.Context, d *control.Client) (control.Done, error) { return d.Resume(ctx, lost.Digest) },
		func(p *page, _ control.Done) {
			p.line("The wallet sends again; cuttle ledger shows what is on its way.")
		})
	return err
}

func (a *app) taken(ctx context.Context, d *control.Client) (control.TakenAll, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	defer a.waitFor("cuttled answers")()
	return d.Taken(ctx)
}

func (p *page) taken(all []control.Taken) {
	var rows []string
	for _, t := range all {
		what := "payment"
		if t.Call {
			what = "call for channels"
		}
		rows = append(rows, cells(fmt.Sprint(t.Nonce), what, t.Amount, t.Payee))
	}
	p.table(cells("NONCE", "LOST", "TOKEN", "TO"), rows)
}
