package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/load"
)

// Profile writes a CPU profile of every daemon of the lab that the options
// describe to folder/NODE.pprof. Nearly all samples are of 8 flows, that are
// downloads or uploads by mode: a daemon that waits uses no CPU.
func Profile(ctx context.Context, c Config, mode, folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make folder for profiles: %w", err)
	}
	earlier, err := profiles(folder)
	if err != nil {
		return err
	}
	for _, f := range earlier {
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("remove earlier profile: %w", err)
		}
	}
	c.Options.Profile = folder
	if err := profiled(ctx, c, mode); err != nil {
		return err
	}
	files, err := profiles(folder)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "\nLook at them with: go tool pprof -top %s/NODE.pprof\n", folder)
	for _, f := range files {
		fmt.Fprintln(os.Stdout, f)
	}
	return nil
}

func profiles(folder string) ([]string, error) {
	return filepath.Glob(filepath.Join(folder, "*.pprof"))
}

// profiled builds the lab, loads it and ends it, at which the profiles are
// written.
func profiled(ctx context.Context, c Config, mode string) (err error) {
	o := c.Options
	l, err := lab.Build(ctx, o, func(string) {})
	if err != nil {
		return err
	}
	defer func() { err = l.GiveUp(ctx, err) }()
	clients := l.Plan().Clients()
	if len(clients) == 0 {
		return errors.New("a measurement needs a client")
	}
	if err := errors.Join(l.Start(ctx), l.Wait(ctx)); err != nil {
		return err
	}
	client := clients[0].Name
	if _, _, err := l.Load(ctx, client, "prepare", load.Config{URL: server(l)}); err != nil {
		return err
	}
	window := 8 * time.Second
	if c.Quick {
		window = 2 * time.Second
	}
	before := l.Usages()
	got, own, err := l.Load(ctx, client, mode, load.Config{URL: server(l), Flows: 8, Warmup: time.Second, Window: window})
	if err != nil {
		return err
	}
	after := l.Usages()
	all, daemons := perGigabyte(before, after, own, got.Total)
	fmt.Fprintf(os.Stdout, "%d hops, %s, %s: 8 flows, %s, %.2f Gbit/s, CPU %.2f s/GB, daemons %.2f\n\n| process | CPU s/GB |\n|---|---|\n", o.Hops, o.Mask, describe(o.Shape), mode, got.Gbits(), all, daemons)
	for _, n := range l.Plan().Nodes {
		if used := (after[n.Name].CPU - before[n.Name].CPU).Seconds(); used > 0 {
			fmt.Fprintf(os.Stdout, "| %s | %.2f |\n", n.Name, used/(float64(got.Total)/1e9))
		}
	}
	return nil
}
