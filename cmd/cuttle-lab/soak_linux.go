package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"cuttle/internal/lab"
)

// soak builds a lab that bills, tries it, and removes it.
func soak(ctx context.Context, c *cli) error {
	c.opts.Clients, c.opts.Mask = 2, "plain"
	c.topology()
	s := lab.Soak{}
	c.flags.DurationVar(&s.For, "for", time.Minute, "how long, with traffic and crashes")
	c.flags.DurationVar(&s.Every, "every", 4*time.Second, "a relay crashes about so often; 0: none does")
	c.flags.IntVar(&s.Bytes, "bytes", 4<<20, "of one download")
	if _, err := c.parse(0, 0); err != nil {
		return err
	}
	if s.For <= 0 || s.Every < 0 || s.Bytes <= 0 {
		return errors.New("--for and --bytes must be above zero, and --every not below")
	}
	s.Seed = c.opts.Seed
	c.opts.Account = !c.opts.Billing
	if err := c.checkBinaries(); err != nil {
		return err
	}
	l, err := lab.Build(ctx, c.opts, func(what string) { fmt.Fprintln(os.Stderr, what) })
	if err != nil {
		return err
	}
	r, err := func() (lab.SoakResult, error) {
		if err := errors.Join(l.Start(ctx), l.Wait(ctx)); err != nil {
			return lab.SoakResult{}, err
		}
		return l.Soak(ctx, s)
	}()
	if err = l.GiveUp(ctx, err); err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%d crashes, %d downloads: %d accounts are equal from both sides and paid, %d units in all\n", r.Crashes, r.Downloads, r.Accounts, r.Spent)
	if err == nil && c.opts.Billing {
		_, err = fmt.Fprintf(os.Stdout, "%d transfers, %d vouchers cashed, %d units left in the hub: %d wallets hold what their ledgers say, which all verify and sum to zero\n",
			r.Transfers, r.Cashed, r.Hub, r.Wallets)
	}
	return err
}
