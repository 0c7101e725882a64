package main

import (
	"github.com/spf13/cobra"

	"cuttle/internal/control"
)

// pathFlags are those of up that say how circuits are to go.
func pathFlags(c *cobra.Command, o *control.UpOptions) {
	c.Flags().IntVar(&o.Hops, "hops", 0, "relays on a path, 1 to 6, until cuttled ends (0: as it is)")
	c.Flags().StringSliceVar(&o.Exit, "exit", nil, "countries or node addresses of exits in order of preference, or any; until cuttled ends")
}

func newPathCommand(a *app) *cobra.Command {
	return question(a, "newpath", "have new connections use new circuits; those that are open stay", (*control.Client).NewPath,
		func(p *page, _ control.Done) { p.line("New connections use new circuits.") })
}
