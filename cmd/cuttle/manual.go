package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// manualCommand prints what help says of every command, for manual pages and for
// people who read from the beginning.
func manualCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "manual", Short: "the help of all commands in one text", RunE: func(c *cobra.Command, _ []string) error {
		return manual(a.out, c.Root())
	}}
}

func manual(w io.Writer, c *cobra.Command) error {
	about := c.Long
	if about == "" {
		about = c.Short
	}
	if _, err := fmt.Fprintf(w, "%s\n\n%s\n\n%s\n", c.CommandPath(), about, c.UsageString()); err != nil {
		return err
	}
	for _, sub := range c.Commands() {
		if !sub.IsAvailableCommand() || sub.Name() == "completion" || sub.Name() == "help" {
			continue
		}
		if err := manual(w, sub); err != nil {
			return err
		}
	}
	return nil
}
