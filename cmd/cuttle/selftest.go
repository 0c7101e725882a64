package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cuttle/internal/control"
	"cuttle/internal/selftest"
)

// hungTime is how long a test waits for a daemon that may hang.
const hungTime = 3 * time.Second

func selftestCommand(a *app) *cobra.Command {
	var echo string
	var all bool
	c := &cobra.Command{
		Use: "selftest", Short: "try to get past Cuttle on this machine, and say whether anything leaks (root)",
		Long: `selftest tries the ways out of this machine that programs have, watches its physical devices meanwhile, and asks through
the tunnel under which address destinations see it. What it sends goes to addresses that are nobody's and ends at the
first router. It takes some seconds, changes nothing, and needs root.

Exit codes: 0 nothing leaks, 5 something leaks, is wrong or could not be found out, 10 not permitted.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return control.NotPermitted("selftest opens raw sockets and watches devices", "run it as root: sudo cuttle selftest")
			}
			cfg := a.ground(c.Context())
			cfg.Echo = echo
			cfg.Progress = func(what string) { fmt.Fprintln(a.errOut, what, "...") }
			report, err := selftest.Run(c.Context(), cfg)
			if err != nil {
				return err
			}
			if report.Result != selftest.Good {
				a.code = exitError
			}
			return a.show(report, func(p *page) { p.selftest(report, all) })
		},
	}
	c.Flags().StringVar(&echo, "echo", "", "URL of a page that says from which address it is asked, for an exit behind NAT")
	c.Flags().BoolVarP(&all, "verbose", "v", false, "show every attempt, with the kernel's answer")
	return c
}

// ground asks the daemon what may be seen. One that hangs or is gone gets no
// benefit of the doubt: nothing may then.
func (a *app) ground(ctx context.Context) selftest.Config {
	var cfg selftest.Config
	ctx, cancel := context.WithTimeout(ctx, hungTime)
	defer cancel()
	d, err := control.Dial(a.socket)
	if err != nil {
		return cfg
	}
	allowed, err := d.Allowed(ctx)
	if err != nil {
		return cfg
	}
	cfg.TUN, cfg.Any, cfg.Ports = allowed.TUN, allowed.Any, allowed.Listen
	for _, text := range allowed.Peers {
		if p, err := netip.ParseAddrPort(text); err == nil {
			cfg.Peers = append(cfg.Peers, p)
		}
	}
	if st, err := d.Status(ctx); err == nil {
		cfg.Up = st.State == control.StateUp
	}
	return cfg
}

// selftest prints the verdict first, then what it rests on.
func (p *page) selftest(r selftest.Report, all bool) {
	p.line("%s", r.Verdict)
	var rows []string
	for _, row := range r.Rows {
		if all || row.Result != selftest.Good {
			rows = append(rows, cells(row.Result, row.Name, row.Tried, row.Answer, row.Wire))
		}
	}
	p.section(cells("RESULT", "ATTEMPT", "HOW", "ANSWER", "ON THE WIRE"), rows)
	if !all {
		p.line("(-v shows all %d rows)", len(r.Rows))
	}
}
