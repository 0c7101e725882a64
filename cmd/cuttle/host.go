package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cuttle/internal/control"
)

// probeURL answers "success" where no portal is in the way.
const probeURL = "http://detectportal.firefox.com/success.txt"

// hostQuestion is a command that shows what the daemon says of this machine.
func (a *app) hostQuestion(c *cobra.Command, change func(context.Context, *control.Client) error) error {
	_, err := answer(a, c, func(ctx context.Context, d *control.Client) (control.HostStatus, error) {
		if change != nil {
			if err := change(ctx, d); err != nil {
				return control.HostStatus{}, err
			}
		}
		return d.Host(ctx)
	}, func(p *page, h control.HostStatus) { p.host(topic(c), h) })
	return err
}

// topic is the first word of a command after cuttle.
func topic(c *cobra.Command) string {
	for c.HasParent() && c.Parent().HasParent() {
		c = c.Parent()
	}
	return c.Name()
}

func planCommand(a *app) *cobra.Command {
	return question(a, "plan", "what is in force on this machine: packet filter, rules, routes", (*control.Client).Plan,
		func(p *page, t control.PlanText) { p.line("%s", strings.TrimSuffix(t.Plan, "\n")) })
}

func lanCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "lan [on|off]", Short: "let programs reach private networks that this machine is in, but for DNS", ValidArgs: []string{"on", "off"},
		Args: cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(c *cobra.Command, args []string) error {
			return a.hostQuestion(c, func(ctx context.Context, d *control.Client) error {
				if len(args) == 0 {
					return nil
				}
				_, err := d.SetLAN(ctx, args[0] == "on")
				return err
			})
		},
	}
}

func splitCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "split", Short: "what goes past the tunnel (the configuration's [split])", RunE: func(c *cobra.Command, _ []string) error {
		return a.hostQuestion(c, nil)
	}}
}

func excludeCommand(a *app, env func(string) string) *cobra.Command {
	return &cobra.Command{
		Use: "exclude -- CMD...", Short: "run a program whose traffic goes past the tunnel, but for DNS", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := control.Dial(a.socket)
			if err != nil {
				return err
			}
			if err := join(c.Context(), d, false); err != nil {
				return err
			}
			return becomeWith(args, nil, env)
		},
	}
}

func portalCommand(a *app, env func(string) string) *cobra.Command {
	var open time.Duration
	var probe string
	c := &cobra.Command{
		Use: "portal [-- BROWSER...]", Short: "let one program log in to the local network, for a time", Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return portal(a, c, open, probe, args, env) },
	}
	c.Flags().DurationVar(&open, "for", 5*time.Minute, "how long it stays open")
	c.Flags().StringVar(&probe, "probe", probeURL, "page that is asked for to find the portal")
	c.AddCommand(&cobra.Command{Use: "close", Short: "close it before its time", RunE: func(c *cobra.Command, _ []string) error {
		_, err := answer(a, c, func(ctx context.Context, d *control.Client) (control.PortalStatus, error) {
			return d.OpenPortal(ctx, 0)
		},
			func(p *page, _ control.PortalStatus) { p.line("The portal is closed.") })
		return err
	}})
	return c
}

func routerCommand(a *app) *cobra.Command {
	set := func(use, short string, change func(context.Context, *control.Client, []string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, RunE: func(c *cobra.Command, args []string) error {
			return a.hostQuestion(c, func(ctx context.Context, d *control.Client) error { return change(ctx, d, args) })
		}}
	}
	c := set("router", "the network behind this machine, and its devices", func(context.Context, *control.Client, []string) error { return nil })
	var lan, name string
	var exit []string
	up := set("up --lan IFACE", "be the router of the network behind an interface", func(ctx context.Context, d *control.Client, _ []string) error {
		_, err := d.SetRouter(ctx, lan)
		return err
	})
	up.Flags().StringVar(&lan, "lan", "", "interface to the network")
	_ = up.MarkFlagRequired("lan") // the flag exists
	device := set("device MAC tunnel|direct|blocked", "what is done with a device's traffic", func(ctx context.Context, d *control.Client, args []string) error {
		_, err := d.SetDevice(ctx, control.Device{MAC: args[0], Policy: control.Policy(args[1]), Name: name, Exit: exit})
		return err
	})
	device.Args = cobra.ExactArgs(2)
	device.Flags().StringVar(&name, "name", "", "what to call it")
	device.Flags().StringSliceVar(&exit, "exit", nil, "countries or addresses of wanted exits")
	c.AddCommand(up, set("down", "be no router", func(ctx context.Context, d *control.Client, _ []string) error {
		_, err := d.SetRouter(ctx, "")
		return err
	}), device)
	return c
}

// host shows what goes past the tunnel, or the LAN.
func (p *page) host(verb string, h control.HostStatus) {
	switch verb {
	case "lan":
		if !h.LAN {
			p.line("Programs reach nothing on the local network.")
			return
		}
		p.line("Programs reach private networks that this machine is in, but for DNS:")
		for _, n := range h.Networks {
			p.line("  %s", n)
		}
	case "split":
		if h.Split.Mode == "only" {
			p.line("Only this goes into the tunnel (and all DNS):")
		} else {
			p.line("This goes past the tunnel (but no DNS):")
		}
		p.line("  users     %s", listOr(h.Split.Users))
		p.line("  networks  %s", listOr(h.Split.Networks))
		p.line("  cgroups   %s", listOr(h.Split.Cgroups))
	case "router":
		if h.Router.LAN == "" {
			p.line("This machine is no router.")
			return
		}
		p.line("Router of the network behind %s (%s)", h.Router.LAN, strings.Join(h.Router.Addresses, ", "))
		for _, d := range h.Router.Devices {
			p.line("  %-17s  %-15s  %-8s  %-10s  %s", d.MAC, orDash(d.Address), d.Policy, orDash(strings.Join(d.Exit, ",")), d.Name)
			if d.Problem != "" {
				p.line("    refused: %s", d.Problem)
			}
		}
	}
}

func listOr(list []string) string { return orDash(strings.Join(list, ", ")) }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// portal opens the way to a login page, looks for one, and runs the browser.
func portal(a *app, c *cobra.Command, open time.Duration, probe string, argv []string, env func(string) string) error {
	d, err := control.Dial(a.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), askTimeout)
	defer cancel()
	st, err := d.OpenPortal(ctx, open)
	if err != nil {
		return err
	}
	if len(st.Resolvers) == 0 {
		fmt.Fprintln(a.out, "The local network has given this machine no name server; a portal may be found by its address only.")
	}
	if err := join(ctx, d, true); err != nil {
		return err
	}
	page, err := findPortal(ctx, probe, st.Resolvers)
	switch {
	case err != nil:
		fmt.Fprintf(a.out, "The probe got no answer (%v).\n", err)
		page = probe
	case page == "":
		fmt.Fprintln(a.out, "No login page is in the way.")
	default:
		fmt.Fprintf(a.out, "A login page is in the way: %s\n", page)
	}
	if len(argv) == 0 {
		fmt.Fprintf(a.out, "The portal is open until %s for programs that `sudo cuttle portal -- BROWSER` starts.\n", time.Unix(st.Until, 0).Format(time.TimeOnly))
		return nil
	}
	if page != "" {
		argv = append(argv, page)
	}
	return becomeWith(argv, st.Resolvers, env)
}

// findPortal asks for a page without following it anywhere; "" says that the
// real one came.
func findPortal(ctx context.Context, url string, resolvers []string) (string, error) {
	names := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var failed error = errors.New("no name server")
		for _, r := range resolvers {
			a, err := netip.ParseAddr(r)
			if err != nil {
				continue
			}
			c, err := new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(a, 53).String())
			if err == nil {
				return c, nil
			}
			failed = err
		}
		return nil, failed
	}}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client := http.Client{
		Transport:     &http.Transport{DialContext: (&net.Dialer{Resolver: names}).DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	if to, err := resp.Location(); err == nil && (to.Scheme == "http" || to.Scheme == "https") {
		return to.String(), nil
	}
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusOK && strings.HasPrefix(string(b), "success") {
		return "", nil
	}
	return url, nil
}

// join puts this process into the group, by the daemon or, where that lacks the
// rights, by ours.
func join(ctx context.Context, d *control.Client, portal bool) error {
	j, err := d.Exclude(ctx, portal)
	if err != nil || j.Joined {
		return err
	}
	if err := joinBy(j.File); err != nil {
		return &control.Error{Text: "this process cannot be moved: " + err.Error(), Hint: "run it with sudo; the program runs as you all the same"}
	}
	return nil
}
