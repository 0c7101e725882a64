package selftest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cuttle/internal/capture"
)

// quiet is how long after the last attempt its frames may still come: a neighbor
// is looked for first (three tries, a second each).
const quiet = 1500 * time.Millisecond

// controlName is what captures count the frame under that may leave.
const controlName = "control"

// Run tries everything once. It takes a few seconds; ctx ends it early. An error
// means that nothing could be tried, for example without root.
func Run(ctx context.Context, cfg Config) (Report, error) {
	say := cfg.Progress
	if say == nil {
		say = func(string) {}
	}
	report := Report{Devices: []string{}, Rows: []Row{}}
	devices, skipped, err := physical(cfg.TUN)
	if err != nil {
		return report, fmt.Errorf("selftest: %w", err)
	}
	var secret [8]byte
	_, _ = rand.Read(secret[:]) // never fails
	p := newProbes(secret)
	attempts := p.everywhere()
	for _, d := range devices {
		report.Devices = append(report.Devices, d.name)
		attempts = append(attempts, p.on(d)...)
	}
	for _, s := range skipped {
		report.add(Row{Name: "device " + s, Tried: "-", Answer: "not an Ethernet device", Wire: "not watched", Result: Untested})
	}
	if !cfg.Up {
		report.add(Row{Name: "Cuttle is not up", Tried: "asked cuttled", Answer: "off, connecting, blocked, or no answer", Wire: "-", Result: Bad})
	}
	say(fmt.Sprintf("%d attempts to get past Cuttle, watching %s", len(attempts), strings.Join(report.Devices, ", ")))
	watches, err := p.watch(devices, cfg)
	if err != nil {
		return report, fmt.Errorf("selftest: %w", err)
	}
	answers := make([]error, len(attempts))
	for i, a := range attempts {
		if ctx.Err() != nil {
			break
		}
		answers[i] = a.send()
	}
	var place []Row
	var sentence string
	if cfg.Up {
		say("asking the exit where it is")
		place, sentence = leaves(ctx, cfg)
	}
	select {
	case <-time.After(quiet):
	case <-ctx.Done():
	}
	seen, err := watches.stop()
	if err = errors.Join(err, ctx.Err()); err != nil {
		return report, fmt.Errorf("selftest: %w", err)
	}
	for i, a := range attempts {
		report.add(a.row(answers[i], seen.found[a.name]))
	}
	report.Rows = append(report.Rows, seen.rows(cfg)...)
	report.Rows = append(report.Rows, place...)
	report.judge(cfg.Up, len(attempts), sentence)
	return report, nil
}

// watches are the captures of one run.
type watches struct {
	devices  []device
	captures []*capture.Capture
}

// watch begins a capture on each device and shows each the frame that may leave.
func (p *probes) watch(devices []device, cfg Config) (w *watches, err error) {
	w = &watches{devices: devices}
	for _, d := range devices {
		rules := capture.Rules{Peers: cfg.Peers, Ports: cfg.Ports, Local: true, Out: true, Texts: p.texts, Targets: p.targets}
		if cfg.Any {
			rules.Peers = nil
		} else if rules.Peers == nil {
			rules.Peers = []netip.AddrPort{} // nobody, not anybody
		}
		s, err := capture.NewScanner(rules)
		if err == nil {
			var c *capture.Capture
			if c, err = capture.Start(d.name, s); err == nil {
				w.captures = append(w.captures, c)
				err = p.control(d)
			}
		}
		if err != nil {
			_, stopErr := w.stop()
			return nil, errors.Join(err, stopErr)
		}
	}
	return w, nil
}

// sight is what all captures have seen together.
type sight struct {
	found   map[string]uint64
	blind   []string // devices whose capture did not see the frame that may leave
	lost    uint64   // frames that could not be looked at
	foreign uint64
	allowed uint64
	example []string
}

func (w *watches) stop() (sight, error) {
	s := sight{found: make(map[string]uint64)}
	var failed error
	for i, c := range w.captures {
		r, err := c.Stop()
		failed = errors.Join(failed, err)
		if r.Found[controlName] == 0 {
			s.blind = append(s.blind, w.devices[i].name)
		}
		for name, n := range maps.All(r.Found) {
			s.found[name] += n
		}
		s.lost += r.Dropped + r.Cut
		s.foreign += r.Foreign
		s.allowed += r.Allowed
		s.example = append(s.example, r.Examples...)
	}
	return s, failed
}

// rows judge what was seen beside the attempts.
func (s sight) rows(cfg Config) []Row {
	control := Row{Name: "the captures see", Tried: "an ARP frame that may leave, on each device", Answer: "sent", Wire: "seen", Result: Good}
	if len(s.blind) > 0 {
		control.Wire, control.Result = "not seen on "+strings.Join(s.blind, ", "), Unknown
	}
	if s.lost > 0 {
		control.Wire, control.Result = fmt.Sprintf("%d frames were lost", s.lost), Unknown
	}
	others := Row{Name: "other programs meanwhile", Tried: "every frame that left", Answer: "-",
		Wire: fmt.Sprintf("%d frames to neighbors, the local link's own, and no other", s.allowed), Result: Good}
	var ours uint64
	for name, n := range s.found {
		if name != controlName {
			ours += n
		}
	}
	switch {
	case cfg.Any:
		others.Wire, others.Result = "this node may talk to anybody, so others' frames cannot be judged", Untested
	case s.foreign > ours:
		others.Wire, others.Result = fmt.Sprintf("%d frames to others: %s", s.foreign-ours, strings.Join(s.example, "; ")), Leak
	}
	return []Row{control, others}
}

// leaves asks where traffic leaves and, if a page was named, that page.
func leaves(ctx context.Context, cfg Config) ([]Row, string) {
	own := ownAddresses()
	seen, err := askExit(ctx)
	row, sentence := place(seen, own, err)
	rows := []Row{row}
	if cfg.Echo == "" {
		return rows, sentence
	}
	page := Row{Name: "a page sees", Tried: "GET " + cfg.Echo, Wire: "-", Result: Good}
	address, err := askPage(ctx, cfg.Echo)
	switch {
	case err != nil:
		page.Answer, page.Result = err.Error(), Unknown
	case slices.Contains(own, address):
		page.Answer, page.Result = address.String()+", an address of this machine", Bad
	default:
		page.Answer = address.String()
		if !slices.Contains(seen, address) {
			page.Answer += " (the exit does not name it: it may be behind NAT, or have several)"
		}
		sentence += " The page sees " + address.String() + "."
	}
	return append(rows, page), sentence
}
