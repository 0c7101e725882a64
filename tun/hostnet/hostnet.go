// Package hostnet is the only editor of the host's network: the addresses of
// the TUN interface, our routing table, the rules that send every packet but
// our own links' into it, a few sysctls and the resolver file.
//
// What is to be changed is a Plan, plain data that a pure function computes
// and that people can read. Apply carries it out step by step; each step is
// written to a journal in the state directory, with what was there before, and
// synced, before it is done. So Revert, and Recover after a crash of any kind
// (SIGKILL, power), undo exactly what was done.
//
// The order of steps keeps traffic in: first an unreachable default route in
// our table, then the rules that send everything there, then the way through
// the TUN. From the rule on, the main table is never asked for a packet without
// our mark, and when the TUN dies with its process the unreachable route stays.
// A later layer (packet filter) is one more kind of step.
//
// It refuses to touch the main table, other programs' rules, and a resolver
// file or sysctl that somebody else has changed meanwhile. It opens no
// interface and reads no packet. internal/node calls it, from one goroutine; a
// file lock in the state directory keeps a second process out.
package hostnet

import (
	"errors"
	"fmt"
)

// ErrUnsupported says that this system cannot be captured yet.
var ErrUnsupported = errors.New("capturing the host's traffic is not supported on this system yet")

// kernel carries out single steps. The system's is one implementation; tests
// have one in memory.
type kernel interface {
	// before reads what do will change.
	before(s Step) (Before, error)
	// do makes the change. A change that is already there is no error.
	do(s Step) error
	// undo brings back what before has read. A change that is not there, or was
	// changed again by somebody else, is left alone and is no error.
	undo(s Step, b Before) error
}

// Applied is a plan that is in force.
type Applied struct {
	kernel  kernel
	journal *journal
}

// Apply carries out p and keeps its journal in stateDir. If a step fails, what
// was done is undone. What an earlier process left behind is undone first.
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
	if err := a.undo(); err != nil {
		return nil, errors.Join(fmt.Errorf("undo leftovers: %w", err), j.close())
	}
	for _, s := range p.Steps {
		if err := a.step(s); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", s, err), a.Revert())
		}
	}
	return a, nil
}

func (a *Applied) step(s Step) error {
	b, err := a.kernel.before(s)
	if err != nil {
		return err
	}
	if err := a.journal.append(record{Step: s, Before: b}); err != nil {
		return err
	}
	return a.kernel.do(s)
}

// Revert undoes the plan. If something cannot be undone the journal stays, and
// Recover tries again.
func (a *Applied) Revert() error {
	return errors.Join(a.undo(), a.journal.close())
}

// undo undoes the journal's records, newest first, and empties it.
func (a *Applied) undo() error {
	records, err := a.journal.read()
	if err != nil {
		return err
	}
	var failed error
	for i := len(records) - 1; i >= 0; i-- {
		if err := a.kernel.undo(records[i].Step, records[i].Before); err != nil {
			failed = errors.Join(failed, fmt.Errorf("undo %s: %w", records[i].Step, err))
		}
	}
	if failed != nil {
		return failed
	}
	return a.journal.empty()
}

// Recover undoes what a process that died has left behind, and tells whether
// there was anything. It is called at every start, before Apply.
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
