package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cuttle/internal/config"
	"cuttle/internal/control"
)

func bugreportCommand(a *app) *cobra.Command {
	var out, file string
	var yes bool
	c := &cobra.Command{
		Use: "bugreport", Short: "collect what helps to find a fault, show it, and write it to a file if you agree",
		Long: `bugreport collects versions, states, counts and settings. Keys, addresses, names, wallets, amounts and paths are left out;
in texts they are replaced. It is shown in full before anything is written, and it is sent nowhere.`,
		RunE: func(c *cobra.Command, _ []string) error {
			text := a.collect(c.Context(), file)
			if _, err := io.WriteString(a.out, text); err != nil {
				return err
			}
			if !yes {
				fmt.Fprintf(a.errOut, "\nThis is all of it. Write it to %s? [y/N] ", out)
				line, err := bufio.NewReader(a.in).ReadString('\n')
				if err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
					fmt.Fprintln(a.errOut, "Nothing was written.")
					return nil
				}
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.WriteString(text)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			fmt.Fprintf(a.errOut, "Written to %s.\n", out)
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "cuttle-bugreport.txt", "the file to write, which must not exist")
	c.Flags().StringVar(&file, "config", defaultConfig, "the configuration file")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "write it without asking")
	return c
}

// redaction replaces what identifies in texts that come from elsewhere. What is
// not taken over at all needs none.
var redactions = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[a-z][a-z0-9+.-]*://\S+`), "<url>"},
	{regexp.MustCompile(`\b0x[0-9a-fA-F]{4,}`), "<hex>"},
	{regexp.MustCompile(`\b[0-9a-fA-F]{24,}\b`), "<hex>"},
	{regexp.MustCompile(`\b[a-zA-Z2-7]{12,}\b`), "<key>"},
	{regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}(/\d+)?(:\d+)?\b`), "<ip>"},
	{regexp.MustCompile(`\[?\b[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){2,7}(%\w+)?\]?(:\d+)?`), "<ip>"},
	{regexp.MustCompile(`(^|\s|["'(=])(/[^\s"'):]+)+`), "$1<path>"},
	{regexp.MustCompile(`\b([a-zA-Z0-9_-]+\.)+[a-zA-Z][a-zA-Z0-9-]+\b\.?`), "<name>"},
	{regexp.MustCompile(`\b\d+\.\d{3,}\b`), "<amount>"},
}

// knownWords are long or dotted words of our own that are no secret.
var knownWords = regexp.MustCompile(`^[a-z]+$`)

func redact(text string) string {
	for _, r := range redactions {
		text = r.pattern.ReplaceAllStringFunc(text, func(found string) string {
			if r.with == "<key>" && knownWords.MatchString(found) && len(found) < 40 {
				return found // a long English word; keys in full are longer, and short ones have digits or are removed by name
			}
			return r.pattern.ReplaceAllString(found, r.with)
		})
	}
	return text
}

// collect writes the report.
func (a *app) collect(ctx context.Context, file string) string {
	p := &page{now: time.Now()}
	p.line("cuttle bug report, %s", p.now.UTC().Format(time.DateOnly))
	p.facts(
		[2]string{"cuttle", ownVersion()},
		[2]string{"system", runtime.GOOS + "/" + runtime.GOARCH + ", kernel " + kernel()},
		[2]string{"go", runtime.Version()},
	)
	var secrets []string
	d, err := control.Dial(a.socket)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		var st control.Status
		if st, err = d.Status(ctx); err == nil {
			secrets = append(secrets, st.Node, st.Exit)
			p.reportStatus(st)
			secrets = append(secrets, p.reportParts(ctx, d)...)
		}
	}
	if err != nil {
		p.line("\ncuttled: %s", redact(err.Error()))
	}
	p.reportConfig(file)
	return without(p.String(), secrets)
}

// without is the last look: nothing that was told to us as a key, a wallet or an
// address is in the text, whole or as tables shorten it.
func without(text string, secrets []string) string {
	for _, s := range secrets {
		if len(s) < 4 {
			continue
		}
		text = strings.ReplaceAll(text, s, "<redacted>")
		if len(s) > shortKey {
			text = strings.ReplaceAll(text, short(s), "<redacted>")
		}
	}
	return text
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func (p *page) reportStatus(st control.Status) {
	p.line("\n== status")
	p.facts(
		[2]string{"cuttled", st.Version},
		[2]string{"state", fmt.Sprintf("%s since %s, locked %v", st.State, p.ago(st.Since), st.Locked)},
		[2]string{"started", p.ago(st.Started)},
		[2]string{"roles", strings.Join(st.Roles, ", ")},
		[2]string{"hops", fmt.Sprint(st.Hops)},
		[2]string{"links", fmt.Sprint(st.Links)},
		[2]string{"circuits", fmt.Sprintf("%d own, %d relayed", st.Circuits, st.Relayed)},
		[2]string{"exit", fmt.Sprintf("in use: %v, knows its address: %v", st.Exit != "", len(st.Seen) > 0)},
	)
	for _, l := range st.Listen {
		p.line("listens: %s", l.Mask)
	}
	p.reportProblems(st.Problems)
}

func (p *page) reportProblems(all []control.Problem) {
	for _, one := range all {
		p.line("problem: %s", redact(one.Text))
	}
}

// reportParts tells of circuits, neighbors and money, and gives what must not be
// in the report.
func (p *page) reportParts(ctx context.Context, d *control.Client) (secrets []string) {
	if t, err := d.Traffic(ctx); err == nil {
		p.line("traffic: carries %v", t.Sent > 0 && t.Received > 0)
	}
	if all, err := d.Circuits(ctx); err == nil {
		p.line("\n== circuits")
		for _, c := range all.Circuits {
			p.line("%s since %s, %d hops, %d streams", c.State, p.ago(c.Since), len(c.Hops), c.Streams)
			for _, h := range c.Hops {
				secrets = append(secrets, h.Node)
			}
		}
	}
	if all, err := d.Neighbors(ctx); err == nil {
		p.line("\n== neighbors")
		for i, n := range all.Neighbors {
			p.line("%d: %s, %s, opened by us %v, since %s, round trip %s, %d circuits %s", i+1, n.State, dash(n.Mask), n.Initiator,
				p.ago(n.Since), millis(n.RTT), n.Circuits, redact(n.Error))
			secrets = append(secrets, n.Node)
		}
	}
	if l, err := d.Ledger(ctx); err == nil {
		p.line("\n== ledger")
		p.line("mode %s, chain answers %v", l.Mode, l.ChainOK)
		states := map[string]int{}
		for _, acc := range l.Accounts {
			states[fmt.Sprintf("%s, counts agreed %v", acc.State, acc.Agreed)]++
			secrets = append(secrets, acc.Node, acc.Wallet)
			for _, y := range acc.Payments {
				states[fmt.Sprintf("payment %s, %s", y.Direction, y.State)]++
				secrets = append(secrets, y.Tx)
			}
		}
		for _, w := range l.Wallets {
			secrets = append(secrets, w.Address)
		}
		for _, k := range sortedKeys(states) {
			p.line("%d: %s", states[k], k)
		}
		secrets = append(secrets, l.Token)
		p.reportProblems(l.Problems)
	}
	return secrets
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// reportConfig tells settings that are numbers and switches; texts may identify.
func (p *page) reportConfig(file string) {
	p.line("\n== configuration")
	cfg, err := config.Load(file)
	if err != nil {
		p.line("%s", redact(err.Error()))
		return
	}
	for _, k := range config.Keys() {
		v, err := cfg.Get(k)
		if err != nil {
			continue
		}
		if k != "node.log" && k != "billing.mode" && strings.ContainsAny(v, `"'[`) {
			v = fmt.Sprintf("(set: %v)", v != `''` && v != `""` && v != "[]")
		}
		p.line("%s = %s", k, v)
	}
	p.line("%d [[listen]], %d [[neighbor]]", len(cfg.Listen), len(cfg.Neighbor))
}
