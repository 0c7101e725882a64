package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"cuttle/internal/control"
)

func statusCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "what the node is doing", RunE: func(c *cobra.Command, _ []string) error {
		if a.watch {
			return watch(a, c, "status", (*page).status)
		}
		st, err := answer(a, c, func(ctx context.Context, d *control.Client) (control.Status, error) { return d.Status(ctx) }, (*page).status)
		if err == nil {
			a.code = stateCode(st)
		}
		return err
	}}
	watchFlag(a, c)
	return c
}

func exitsCommand(a *app) *cobra.Command {
	text := func(p *page, all control.Exits) { p.exits(all.Exits) }
	return watched(a, question(a, "exits", "the exits of the network map, and whether there is a path to them", (*control.Client).Exits, text), "exits", text)
}

func circuitsCommand(a *app) *cobra.Command {
	text := func(p *page, all control.Circuits) { p.circuits(all.Circuits) }
	return watched(a, question(a, "circuits", "our circuits, hop by hop", (*control.Client).Circuits, text), "circuits", text)
}

func neighborsCommand(a *app) *cobra.Command {
	text := func(p *page, all control.Neighbors) { p.neighbors(all.Neighbors) }
	return watched(a, question(a, "neighbors", "the links to other nodes", (*control.Client).Neighbors, text), "neighbors", text)
}

func metricsCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "metrics", Short: "the metrics of the control socket, as Prometheus reads them",
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := control.Dial(a.socket)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), askTimeout)
			defer cancel()
			text, err := d.Metrics(ctx)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.out, text)
			return err
		}}
}

func watchFlag(a *app, c *cobra.Command) {
	c.Flags().BoolVarP(&a.watch, "watch", "w", false, "go on, and print whenever something changes; with --json one object a line")
}

// watched gives a question the flag --watch.
func watched[T any](a *app, c *cobra.Command, name string, text func(*page, T)) *cobra.Command {
	watchFlag(a, c)
	once := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if a.watch {
			return watch(a, c, name, text)
		}
		return once(c, args)
	}
	return c
}

// watch prints an answer whenever it has changed, until it is interrupted (which
// is no error) or the daemon ends.
func watch[T any](a *app, c *cobra.Command, name string, text func(*page, T)) error {
	d, err := control.Dial(a.socket)
	if err != nil {
		return err
	}
	err = d.Watch(c.Context(), name, func(line []byte) error {
		if a.json {
			_, err := fmt.Fprintf(a.out, "%s\n", line)
			return err
		}
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		p := &page{now: time.Now()}
		p.line("-- %s", p.now.Format(time.TimeOnly))
		text(p, v)
		_, err := io.WriteString(a.out, p.String())
		return err
	})
	if err == nil {
		a.code = exitDisconnected
		fmt.Fprintln(a.errOut, "cuttle: cuttled has ended")
	}
	return unlessEnded(c.Context(), err)
}

// unlessEnded is err, or nil if it is because somebody pressed Ctrl-C.
func unlessEnded(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

// versions is what version --json prints.
type versions struct {
	Schema int    `json:"schema"`
	Client string `json:"cuttle"`
	Daemon string `json:"cuttled"` // "" when none answers
	Go     string `json:"go"`
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "the versions of this program and of the daemon", RunE: func(c *cobra.Command, _ []string) error {
		v := versions{control.Schema, ownVersion(), "", runtime.Version()}
		if d, err := control.Dial(a.socket); err == nil { // without a daemon, ours is all there is to say
			ctx, cancel := context.WithTimeout(c.Context(), askTimeout)
			defer cancel()
			if st, err := d.Status(ctx); err == nil {
				v.Daemon = st.Version
			}
		}
		return a.show(v, func(p *page) {
			p.line("cuttle   %s (%s)", v.Client, v.Go)
			if v.Daemon != "" {
				p.line("cuttled  %s", v.Daemon)
			}
		})
	}}
}
