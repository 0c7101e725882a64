// Package selftest finds out, from inside a running machine, whether anything
// gets past Cuttle: it tries the ways out that programs have, watches the physical
// devices meanwhile, and asks through the tunnel where traffic leaves. What was
// tried, what the kernel answered and what was seen on the wire are all told; a
// person gets one sentence.
//
// Every attempt goes to an address that is nobody's (RFC 2544, RFC 3849) or to the
// router, with a TTL of 1, so that what does leak ends at the first router. A frame
// that may leave is sent first: a capture that does not see it shows nothing, and
// then the verdict is that it cannot tell.
//
// It needs root (CAP_NET_RAW), runs on Linux, changes nothing on the machine and
// speaks to nobody but the device that captures traffic. cmd/cuttle is its caller.
// Run works by itself and in its caller's goroutine; captures have one each, which
// ends with it.
package selftest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Config is what the daemon says about itself. The zero value is a daemon that
// does not answer.
type Config struct {
	TUN   string           // device that captures traffic; "": not known
	Up    bool             // the daemon says that it carries traffic
	Any   bool             // the node may talk to anybody, so that only our own attempts can be judged
	Peers []netip.AddrPort // its neighbors
	Ports []uint16         // where neighbors reach it
	Echo  string           // URL of a page that says from which address it is asked; "": none

	// Progress, if set, is told what is being done.
	Progress func(what string)
}

// Result is what became of one attempt.
type Result string

// The results.
const (
	Good     Result = "ok"
	Leak     Result = "LEAK"
	Bad      Result = "BAD"      // not a leak, and not what it should be
	Unknown  Result = "unknown"  // it could not be found out
	Untested Result = "untested" // there was nothing to try
)

// Row is one attempt.
type Row struct {
	Name   string `json:"name"`   // "UDP over IPv4 by device on eth0"
	Tried  string `json:"tried"`  // how
	Answer string `json:"answer"` // what the kernel, or the far end, said
	Wire   string `json:"wire"`   // what was seen on the physical devices
	Result Result `json:"result"`
}

// Report is the outcome.
type Report struct {
	Schema  int      `json:"schema"`
	Devices []string `json:"devices"` // that were watched
	Rows    []Row    `json:"rows"`
	Result  Result   `json:"result"`
	Verdict string   `json:"verdict"` // for a person
}

func (r *Report) add(row Row) { r.Rows = append(r.Rows, row) }

// judge draws the conclusion from the rows, of which so many are attempts to get
// past Cuttle; exit is a sentence about where traffic leaves.
func (r *Report) judge(up bool, attempts int, exit string) {
	r.Schema = 1
	var leaks, bad, unknown []string
	for _, row := range r.Rows {
		switch row.Result {
		case Leak:
			leaks = append(leaks, row.Name)
		case Bad:
			bad = append(bad, row.Name)
		case Unknown:
			unknown = append(unknown, row.Name)
		case Good, Untested:
		}
	}
	devices := strings.Join(r.Devices, ", ")
	switch {
	case len(leaks) > 0:
		r.Result = Leak
		r.Verdict = fmt.Sprintf("THIS MACHINE LEAKS: %d of %d attempts got out past Cuttle, the first being %q.", len(leaks), attempts, leaks[0])
		if !up {
			r.Verdict += " Cuttle does not say that it is up: `cuttle status` tells why."
		}
	case len(bad) > 0:
		r.Result = Bad
		r.Verdict = fmt.Sprintf("Nothing got out past Cuttle in %d attempts, but not all is well: %s.", attempts, strings.Join(bad, "; "))
	case len(unknown) > 0 || len(r.Devices) == 0:
		r.Result = Unknown
		r.Verdict = "This test cannot tell: " + strings.Join(unknown, "; ") + "."
		if len(r.Devices) == 0 {
			r.Verdict = "This test cannot tell: there is no physical device that is up."
		}
	default:
		r.Result = Good
		r.Verdict = fmt.Sprintf("Nothing leaks: %d attempts, and none was seen on %s. %s", attempts, devices, exit)
	}
}

// attempt is one way out.
type attempt struct {
	name  string
	tried string
	send  func() error
	blind bool // the capture cannot see its frames: the kernel's answer decides
}

// notTried is a failure of ours before anything was sent: it proves nothing.
type notTried struct{ error }

// row judges an attempt by what was seen of it.
func (a attempt) row(err error, frames uint64) Row {
	row := Row{Name: a.name, Tried: a.tried, Answer: "accepted", Wire: "not seen", Result: Good}
	if err != nil {
		row.Answer = "refused: " + err.Error()
	}
	var failed *notTried
	switch {
	case errors.As(err, &failed):
		row.Answer, row.Result = "could not be tried: "+err.Error(), Unknown
	case frames > 0:
		row.Wire, row.Result = fmt.Sprintf("%d frames seen", frames), Leak
	case a.blind:
		row.Wire = "cannot be seen from inside"
		if err == nil {
			row.Result = Leak
		}
	}
	return row
}

// place judges the addresses under which destinations see us.
func place(seen, own []netip.Addr, err error) (row Row, sentence string) {
	row = Row{Name: "where traffic leaves", Tried: "DNS question for exit.cuttle through the tunnel, answered by the exit itself", Wire: "-", Result: Good}
	if err != nil {
		row.Answer, row.Result = err.Error(), Bad
		return row, ""
	}
	if len(seen) == 0 {
		row.Answer = "the exit answers, but does not know its public address (it is behind NAT)"
		return row, "An exit answers through the tunnel; it does not know its own public address, so it could not be compared with yours (--echo URL asks a page)."
	}
	var text []string
	for _, a := range seen {
		text = append(text, a.String())
		if slices.Contains(own, a) {
			row.Result = Bad
		}
	}
	row.Answer = "destinations see " + strings.Join(text, " and ")
	if row.Result == Bad {
		row.Answer += ", an address of this machine"
		row.Name = "traffic leaves under an address of this machine"
		return row, ""
	}
	return row, "Destinations see " + strings.Join(text, " and ") + ", which is not an address of this machine."
}
