// Package hostnet is the only editor of the host's network: the addresses of
// the TUN interface, our routing table, the rules that send every packet but
// our own links' into it, a few sysctls and the resolver file.
//
// What is to be changed is a Plan, plain data that a pure function computes
// and that people can read. Apply carries it out step by step; each step is
// written to a journal in the state directory, with what was there before, and
// synced, before it is done. So Revert, and Recover after a crash of any kind
// (SIGKILL, power), undo exactly what was done; a start that goes on capturing
// takes over what is in force and opens nothing in between. Watch looks after a
// plan and mends what others have changed of it.
//
// Three layers keep traffic in, each by itself:
//
//   - a packet filter (nftables, table "inet cuttle"): everything is dropped or
//     refused but the TUN, loopback, our own links and what the local network
//     needs (filter.go);
//   - the same on the way out of every device but the TUN (table "netdev
//     cuttle"), which packet sockets pass too, where the kernel has that hook;
//   - routing: an unreachable default route in our table, then rules that send
//     everything unmarked there, then the way through the TUN. From the rule on,
//     the main table is never asked for a packet without our mark, and when the
//     TUN dies with its process the unreachable route stays.
//
// The steps are done in this order and undone in reverse.
//
// It refuses to touch the main table, other programs' rules and nftables, and a
// resolver file or sysctl that somebody else has changed meanwhile. It opens no
// interface and reads no packet. internal/node calls it, from one goroutine at a
// time; a file lock in the state directory keeps a second process out.
package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// ErrUnsupported says that this system cannot be captured yet.
var ErrUnsupported = errors.New("capturing the host's traffic is not supported on this system yet")

// ErrNoNeighbor says that nobody has an address, as far as was asked.
var ErrNoNeighbor = errors.New("no neighbor has this address")

// errUnknownStep is for a kind that this system does not have.
var errUnknownStep = errors.New("unknown kind of step")

// kernel carries out single steps. The system's is one implementation; tests
// have one in memory.
type kernel interface {
	// before reads what do will change.
	before(s Step) (Before, error)
	// do makes the change. A change that is already there is no error.
	do(s Step) error
	// holds tells whether the change is there, whole.
	holds(s Step) (bool, error)
	// undo brings back what before has read. A change that is not there, or was
	// changed again by somebody else, is left alone and is no error.
	undo(s Step, b Before) error
	// foreign removes what others have put where only p belongs.
	foreign(p Plan) (removed int, err error)
	// events sends after anything a plan depends on may have changed, until stop.
	events() (changed <-chan struct{}, stop func() error, err error)
	// asleep tells how long the machine has slept since it was started.
	asleep() time.Duration
}

// Applied is a plan that is in force.
type Applied struct {
	kernel  kernel
	journal *journal
	plan    Plan
}

// Apply carries out p and keeps its journal in stateDir. What an earlier process
// left behind is taken over without a gap: what is the same stays, what is
// different is changed in place, the rest is undone at the end. If a step fails,
// what was done stays, since that is closed; the caller, who gets an Applied
// with the error, may revert it. Without an Applied nothing was changed.
func Apply(stateDir string, p Plan) (*Applied, error) {
	k, err := newKernel()
	if err != nil {
		return nil, err
	}
	return apply(k, stateDir, p)
}

func apply(k kernel, stateDir string, p Plan) (*Applied, error) {
	j, err := openJournal(stateDir)
	if err != nil {
		return nil, err
	}
	a := &Applied{kernel: k, journal: j}
	return a, a.Change(p)
}

// Change puts p in force in place of what is, as Apply does.
func (a *Applied) Change(p Plan) error {
	records, err := a.journal.read()
	a.plan = p
	failed := errors.Join(err, a.carryOut(p, records, err != nil))
	wanted := make(map[string]bool)
	for _, s := range p.Steps {
		wanted[s.target()] = true
	}
	whole := failed == nil
	for i := len(records) - 1; i >= 0; i-- {
		r := records[i]
		if wanted[r.Step.target()] || !whole && !r.Step.widens() {
			continue
		}
		if err := a.kernel.undo(r.Step, r.Before); err != nil {
			failed = errors.Join(failed, fmt.Errorf("undo %s: %w", r.Step.name(), err))
		}
	}
	if failed != nil {
		return errors.Join(failed, a.forget(func(record) bool { return false }))
	}
	return a.forget(func(r record) bool { return !wanted[r.Step.target()] })
}

// carryOut makes the plan's changes. After one that fails those that keep traffic
// in are still made, and no other. only wants these from the beginning.
func (a *Applied) carryOut(p Plan, records []record, only bool) error {
	var failed error
	for _, s := range p.Steps {
		if (only || failed != nil) && !s.keepsIn() {
			continue
		}
		if err := a.step(s, records); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name(), err))
		}
	}
	return failed
}

// Closed tells whether what is in force keeps traffic in: the packet filter, or
// routing of every family that the plan is for. A plan that is not in force whole
// may still.
func (a *Applied) Closed() bool {
	filter, routed := false, true
	routes := 0
	pf, pfs := 0, 0
	for _, s := range a.plan.Steps {
		if !s.keepsIn() || s.Kind == EgressFilter {
			continue
		}
		there, err := a.kernel.holds(s)
		there = there && err == nil
		switch s.Kind {
		case PacketFilter:
			filter = there
			continue
		case MacHook, MacFilter, MacOn:
			if pfs++; there {
				pf++
			}
			continue
		case MacReject:
			continue // longer routes and sockets of one interface go past it
		default:
		}
		routes++
		routed = routed && there
	}
	return filter || pfs > 0 && pf == pfs || routes > 0 && routed
}

// forget removes from the journal what has been undone, and all filters but the
// newest of each kind: undoing that one undoes every other, since each takes the
// place of the one before. Otherwise each change of what is let through would stay.
func (a *Applied) forget(undone func(record) bool) error {
	records, err := a.journal.read()
	if err != nil {
		return err
	}
	newest := make(map[Kind]int)
	for i, r := range records {
		newest[r.Step.Kind] = i
	}
	var kept []record
	for i, r := range records {
		old := slices.Contains([]Kind{PacketFilter, EgressFilter, MacFilter}, r.Step.Kind) && newest[r.Step.Kind] != i
		if !old && !undone(r) {
			kept = append(kept, r)
		}
	}
	if len(kept) == len(records) {
		return nil
	}
	return a.journal.replace(kept)
}

// step makes one change. If an earlier process has made it already and it is
// still there, what that one found before is what counts.
func (a *Applied) step(s Step, records []record) error {
	known := slices.ContainsFunc(records, func(r record) bool { return r.Step.same(s) })
	if known {
		there, err := a.kernel.holds(s)
		if err != nil {
			return err
		}
		if there {
			return nil
		}
	}
	b, err := a.kernel.before(s)
	if err != nil {
		return err
	}
	r := record{Step: s, Before: b}
	// A journal that grew with each crash would be full one day.
	if !slices.ContainsFunc(records, func(old record) bool { return reflect.DeepEqual(old, r) }) {
		// What keeps traffic in does not wait for a disk: to undo it needs nothing
		// of before.
		if err = a.journal.append(r); err != nil && !s.keepsIn() {
			return err
		}
	}
	return errors.Join(err, a.kernel.do(s))
}

// Revert undoes the plan. If something cannot be undone the journal stays, and
// Recover tries again.
func (a *Applied) Revert() error {
	return errors.Join(a.undo(), a.journal.close())
}

// Leave ends the work on the plan and leaves it in force, for a later process to
// take over.
func (a *Applied) Leave() error { return a.journal.close() }

// undo undoes the journal's records, newest first, and empties it.
func (a *Applied) undo() error {
	records, err := a.journal.read()
	if err != nil {
		return err
	}
	var failed error
	for i := len(records) - 1; i >= 0; i-- {
		if err := a.kernel.undo(records[i].Step, records[i].Before); err != nil {
			failed = errors.Join(failed, fmt.Errorf("undo %s: %w", records[i].Step.name(), err))
		}
	}
	if failed != nil {
		return failed
	}
	return a.journal.empty()
}

// Left returns the steps that the journal in stateDir says are in force: what an
// earlier process, or the guard, has left. With an error the journal cannot be
// read whole, and something may have been left that is not named. It changes
// nothing.
func Left(stateDir string) (Plan, error) {
	f, err := os.Open(filepath.Join(stateDir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return Plan{}, nil
	}
	if err != nil {
		return Plan{}, fmt.Errorf("read journal of network changes: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	records, err := readJournal(f)
	if err != nil {
		records = salvage(stateDir)
	}
	var p Plan
	for _, r := range records {
		p.Steps = append(p.Steps, r.Step)
	}
	return p, err
}

// Captures tells whether the plan leads into a TUN, and does not only block.
func (p Plan) Captures() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == TunRoute || s.Kind == MacRoute })
}

// Recover undoes what a process that died has left behind, which opens the
// machine, and tells whether there was anything. It is for a start that shall
// capture nothing; Apply takes over what is left without opening.
func Recover(stateDir string) (bool, error) {
	k, err := newKernel()
	if err != nil {
		return false, err
	}
	return recoverWith(k, stateDir)
}

func recoverWith(k kernel, stateDir string) (bool, error) {
	j, err := openJournal(stateDir)
	if err != nil {
		return false, err
	}
	records, err := j.read()
	if err != nil {
		return false, errors.Join(err, j.close())
	}
	a := &Applied{kernel: k, journal: j}
	return len(records) > 0, a.Revert()
}

// withoutPlan corrects what Inspect has read for what an earlier process, by
// its journal, has changed and not undone.
func (h Host) withoutPlan(records []record) Host {
	for _, r := range records {
		if r.Step.Kind == Sysctl && strings.HasSuffix(r.Step.Key, "/all/rp_filter") {
			h.StrictFilter = true
		}
		if r.Step.Kind == Sysctl && strings.HasSuffix(r.Step.Key, "/all/arp_ignore") {
			h.AnswersAll = true
		}
		if r.Step.Kind == Sysctl && strings.HasSuffix(r.Step.Key, "/accept_ra") && r.Step.Value == "2" {
			h.AcceptsRA = append(h.AcceptsRA, r.Step.Device)
		}
	}
	slices.Sort(h.AcceptsRA)
	h.AcceptsRA = slices.Compact(h.AcceptsRA)
	return h
}
