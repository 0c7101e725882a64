package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cuttle/internal/config"
	"cuttle/internal/control"
)

const defaultConfig = "/etc/cuttle/cuttled.toml"

// setting is what config get --json prints.
type setting struct {
	Schema int    `json:"schema"`
	Key    string `json:"key"`
	Value  string `json:"value"` // as TOML
}

// settings is config get --json without a key, and check's answer.
type settings struct {
	Schema   int       `json:"schema"`
	File     string    `json:"file"`
	Settings []setting `json:"settings,omitempty"`
}

func configCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{Use: "config", Short: "check, read and change the daemon's configuration file",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errors.New("want check, get or set")
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("config: want check, get or set")} }}
	c.PersistentFlags().StringVar(&file, "config", defaultConfig, "the configuration file")
	keys := func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return config.Keys(), cobra.ShellCompDirectiveNoFileComp
	}
	c.AddCommand(
		&cobra.Command{Use: "check", Short: "say what is wrong with the file, if anything", RunE: func(*cobra.Command, []string) error {
			if _, err := config.Load(file); err != nil {
				return err
			}
			return a.show(settings{Schema: control.Schema, File: file}, func(p *page) { p.line("%s is fine.", file) })
		}},
		&cobra.Command{Use: "get [KEY]", Short: "the value that counts, the file's or the default; without a key all of them", Args: cobra.MaximumNArgs(1), ValidArgsFunction: keys,
			RunE: func(_ *cobra.Command, args []string) error { return configGet(a, file, args) }},
		&cobra.Command{Use: "set KEY VALUE", Short: "change one value in the file; comments stay, and nothing is written that the daemon would refuse", Args: cobra.ExactArgs(2), ValidArgsFunction: keys,
			RunE: func(_ *cobra.Command, args []string) error {
				if err := config.Set(file, args[0], args[1]); err != nil {
					return err
				}
				return a.show(setting{control.Schema, args[0], args[1]}, func(p *page) {
					p.line("%s is set in %s; cuttled reads the file when it starts.", args[0], file)
				})
			}},
	)
	return c
}

func configGet(a *app, file string, args []string) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	keys := args
	if len(keys) == 0 {
		keys = slices.Clone(config.Keys())
	}
	all := settings{Schema: control.Schema, File: file}
	for _, k := range keys {
		v, err := cfg.Get(k)
		if err != nil {
			return err
		}
		all.Settings = append(all.Settings, setting{control.Schema, k, v})
	}
	if len(args) == 1 {
		return a.show(all.Settings[0], func(p *page) { p.line("%s", all.Settings[0].Value) })
	}
	return a.show(all, func(p *page) {
		for _, s := range all.Settings {
			p.line("%s = %s", s.Key, strings.ReplaceAll(s.Value, "\n", " "))
		}
	})
}
