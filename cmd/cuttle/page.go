package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"cuttle/internal/control"
)

// shortKey is how many characters of a node address tables show.
const shortKey = 12

// page collects what a person reads.
type page struct {
	strings.Builder
	now time.Time
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// table prints rows with aligned columns; cells are separated by tabs.
func (p *page) table(head string, rows []string) {
	w := tabwriter.NewWriter(p, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, head) // a strings.Builder takes everything
	for _, r := range rows {
		_, _ = fmt.Fprintln(w, r)
	}
	_ = w.Flush()
}

// facts prints names and values in two columns.
func (p *page) facts(pairs ...[2]string) {
	wide := 0
	for _, f := range pairs {
		wide = max(wide, len(f[0]))
	}
	for _, f := range pairs {
		if f[1] != "" {
			p.line("%-*s  %s", wide, f[0], f[1])
		}
	}
}

func (p *page) problems(all []control.Problem) {
	for _, one := range all {
		p.line("! %s", one.Text)
		if one.Hint != "" {
			p.line("  %s", one.Hint)
		}
	}
}

func stateWords(s control.State) string {
	switch s {
	case control.StateOff:
		return "Off: traffic is not captured."
	case control.StateConnecting:
		return "Connecting: traffic is captured and waits for a circuit."
	case control.StateUp:
		return "Up: traffic goes through the network."
	case control.StateBlocked:
		return "Blocked: traffic is captured and cannot be carried."
	case control.StateDraining:
		return "Going down."
	}
	return string(s)
}

func lockWords(on bool) string {
	if on {
		return "The lock is on: this machine stays closed while cuttle is down, and after a reboot if cuttle-guard.service is enabled."
	}
	return "The lock is off: this machine is open while cuttle is down."
}

func (p *page) status(st control.Status) {
	p.line("%s", stateWords(st.State))
	if st.Locked && st.State == control.StateOff && len(ofTraffic(st.Problems)) == 0 {
		p.line("The lock is on: nothing gets out; `cuttle up` connects, `cuttle lock off` opens.")
	}
	p.problems(st.Problems)
	var listens []string
	for _, l := range st.Listen {
		listens = append(listens, l.Mask+" "+l.Address)
	}
	circuits := fmt.Sprintf("%d of ours", st.Circuits)
	if st.Relayed > 0 {
		circuits += fmt.Sprintf(", %d relayed", st.Relayed)
	}
	p.facts(
		[2]string{"node", st.Node},
		[2]string{"roles", strings.Join(st.Roles, ", ")},
		[2]string{"since", p.ago(st.Since)},
		[2]string{"links", fmt.Sprint(st.Links)},
		[2]string{"circuits", circuits},
		[2]string{"exit", short(st.Exit)},
		[2]string{"seen as", strings.Join(st.Seen, ", ")},
		[2]string{"interface", st.TUN},
		[2]string{"listening", strings.Join(listens, ", ")},
		[2]string{"daemon", fmt.Sprintf("cuttled %s, process %d, started %s", st.Version, st.PID, p.ago(st.Started))},
	)
}

// leaves tells where traffic leaves the network.
func (p *page) leaves(st control.Status) {
	switch {
	case st.Exit != "" && len(st.Seen) > 0:
		p.line("Destinations see %s (exit %s).", strings.Join(st.Seen, " and "), short(st.Exit))
	case st.Exit != "":
		p.line("The exit is %s; it does not know under which address destinations see it.", short(st.Exit))
	}
}

func (p *page) exits(all []control.Exit) {
	if len(all) == 0 {
		p.line("The network map has no exits.")
		return
	}
	var rows []string
	for _, e := range all {
		path := "yes"
		if !e.Reachable {
			path = "no: " + e.Reason
		}
		rows = append(rows, cells(short(e.Node), dash(e.Country), dash(strings.Join(e.Families, ",")), e.Tier, dash(e.Price), path))
	}
	p.table(cells("EXIT", "COUNTRY", "FAMILIES", "TIER", "TOKEN/GB", "PATH"), rows)
}

func (p *page) circuits(all []control.Circuit) {
	if len(all) == 0 {
		p.line("No circuits.")
		return
	}
	var rows []string
	for _, c := range all {
		var hops []string
		for _, h := range c.Hops {
			name := short(h.Node)
			if h.Country != "" {
				name += " (" + h.Country + ")"
			}
			hops = append(hops, name)
		}
		rows = append(rows, cells(c.ID, c.State, p.ago(c.Since), c.Streams, strings.Join(hops, " > ")))
	}
	p.table(cells("CIRCUIT", "STATE", "SINCE", "STREAMS", "HOPS"), rows)
}

func (p *page) neighbors(all []control.Neighbor) {
	if len(all) == 0 {
		p.line("No neighbors.")
		return
	}
	var rows []string
	for _, n := range all {
		var sent, received uint64
		for _, c := range n.Cells {
			sent, received = sent+c.Sent, received+c.Received
		}
		state := string(n.State)
		if n.Error != "" {
			state += ": " + n.Error
		}
		rows = append(rows, cells(short(n.Node), n.Mask, p.ago(n.Since), millis(n.RTT), n.Circuits,
			fmt.Sprintf("%d/%d", sent, received), state))
	}
	p.table(cells("NEIGHBOR", "MASK", "SINCE", "RTT", "CIRCUITS", "CELLS out/in", "STATE"), rows)
}

func (p *page) ledger(l control.Ledger) {
	p.problems(l.Problems)
	if l.Mode == "none" {
		p.line("Nothing is billed (mode none).")
		return
	}
	chain := fmt.Sprintf("%d, block %d", l.ChainID, l.Block)
	if !l.ChainOK {
		chain = fmt.Sprintf("%d, does not answer", l.ChainID)
	}
	p.facts([2]string{"chain", chain}, [2]string{"token", l.Token},
		[2]string{"we owe", l.TotalOwed}, [2]string{"owed to us", l.TotalDue}, [2]string{"fees", dash(l.Fees)})
	var wallets, accounts, payments []string
	for _, w := range l.Wallets {
		wallets = append(wallets, cells(w.Purpose, w.Address, dash(w.Token), dash(w.Gas), p.ago(w.Checked)))
	}
	for _, a := range l.Accounts {
		var ours, theirs uint64
		for _, t := range a.Tallies {
			ours, theirs = ours+t.Ours, theirs+t.Theirs
		}
		equal := "yes"
		if !a.Agreed {
			equal = "NO"
		}
		state := a.State
		if a.Reason != "" {
			state += ": " + a.Reason
		}
		if a.TheirLate != "" && a.TheirLate != "0" {
			state += "; it says that it pays " + a.TheirLate + " when fees are lower"
		}
		accounts = append(accounts, cells(short(a.Node), a.Owed, a.Due, a.Spent, a.Earned, dash(a.SpentPerGB), ours, theirs, equal, state))
		for _, y := range a.Payments {
			way := "to"
			if y.Direction == "in" {
				way = "from"
			}
			payments = append(payments, cells(way+" "+short(a.Node), y.Amount, y.State, dashZero(y.Block), dashZero(y.Confirmations), dash(y.Tx)))
		}
	}
	p.section("WALLET\tADDRESS\tTOKEN\tGAS\tCHECKED", wallets)
	p.section("NEIGHBOR\tWE OWE\tOWES US\tSPENT\tEARNED\tCOST/GB\tCELLS ours\tCELLS theirs\tEQUAL\tACCOUNT", accounts)
	p.section("PAYMENT\tAMOUNT\tSTATE\tBLOCK\tCONFIRMATIONS\tTRANSACTION", payments)
}

// section is a table with an empty line before it, left out when it has no rows.
func (p *page) section(head string, rows []string) {
	if len(rows) > 0 {
		p.line("")
		p.table(head, rows)
	}
}

func cells(values ...any) string {
	text := make([]string, len(values))
	for i, v := range values {
		text[i] = fmt.Sprint(v)
	}
	return strings.Join(text, "\t")
}

func short(key string) string { return key[:min(len(key), shortKey)] }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func dashZero(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// ago tells how long ago a Unix time was, in one unit.
func (p *page) ago(unix int64) string {
	if unix <= 0 {
		return "-"
	}
	return span(p.now.Sub(time.Unix(unix, 0))) + " ago"
}

func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func millis(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", ms)
}
