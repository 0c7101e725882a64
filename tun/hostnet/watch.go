package hostnet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	checkAlways = 5 * time.Second        // between checks although nothing was reported
	checkSleep  = 500 * time.Millisecond // between looks whether the machine has slept
	checkPause  = 20 * time.Millisecond  // between checks at least, if somebody changes things all the time
)

// errChanging says that the network changed all the time while it was read.
var errChanging = errors.New("the network changes all the time")

// lookAgain bounds how often in a row a look is repeated for that reason.
const lookAgain = 100

// Watch looks after the plan in force until ctx ends (nil): when somebody else
// has changed a part of it, the part is put in force again at once, and told to
// mended. The other layers keep traffic in meanwhile. An error says that a part
// cannot be mended, for example because the TUN has gone. Nothing else may be
// done with a before Watch has returned.
func (a *Applied) Watch(ctx context.Context, mended func(what string)) error {
	return a.Look(ctx, mended, nil, func(func(Plan) error) error { return nil })
}

// Look is Watch for a plan that changes: before each check, and when something
// comes from wake, revise is asked, which may call change to put another plan in
// force. Its error ends Look.
func (a *Applied) Look(ctx context.Context, mended func(what string), wake <-chan struct{}, revise func(change func(Plan) error) error) (err error) {
	changed, stop, err := a.kernel.events()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	names := make(chan []Step, 1)
	named := make(chan struct{})
	go func() { a.keepNames(names); close(named) }() // ends when names is closed
	defer func() { close(names); <-named }()
	regular := time.NewTicker(checkAlways)
	defer regular.Stop()
	sleep := time.NewTicker(checkSleep)
	defer sleep.Stop()
	asleep := a.kernel.asleep()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for again := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		err := revise(a.Change)
		if err == nil {
			err = a.mend(mended)
		}
		if again++; errors.Is(err, errChanging) && again < lookAgain {
			pause.Reset(checkPause)
			continue
		}
		if err != nil {
			return err
		}
		again = 0
		select {
		case names <- a.plan.Steps:
		default: // it is at work, maybe for long
		}
		pause.Reset(checkPause)
		for waiting := true; waiting; {
			waiting = false
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-wake:
			case <-regular.C:
			case <-sleep.C:
				// Nobody tells what happened while the machine slept.
				now := a.kernel.asleep()
				waiting, asleep = now-asleep < sleepStep, now
			}
		}
	}
}

// keepNames tells other daemons again of our name servers when they have forgotten
// them. It has a goroutine of its own, since those daemons may hang, and nothing
// leaks meanwhile. The resolver file is left to whoever has changed it.
func (a *Applied) keepNames(plans <-chan []Step) {
	for steps := range plans {
		for _, s := range steps {
			if !s.names() || s.Kind == Resolver {
				continue
			}
			if there, err := a.kernel.holds(s); err == nil && !there {
				_ = a.kernel.do(s) // it may be starting, of which we are told again
			}
		}
	}
}

// sleepStep is the shortest sleep that is looked after; less is the two clocks
// being read one after the other.
const sleepStep = 100 * time.Millisecond

// mend does again what does not hold any more, in the plan's order. When a part
// cannot be mended those that keep traffic in still are.
func (a *Applied) mend(mended func(what string)) error {
	var failed error
	for _, s := range a.plan.Steps {
		if s.names() || failed != nil && !s.keepsIn() {
			continue // whoever is asked for a name, the question ends in the TUN
		}
		there, err := a.kernel.holds(s)
		if err == nil && !there {
			if err = a.kernel.do(s); err == nil {
				mended(s.name())
			}
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("keep in force %s: %w", s.name(), err))
		}
	}
	removed, err := a.kernel.foreign(a.plan)
	if removed > 0 {
		mended("routes of others in our table")
	}
	return errors.Join(failed, err)
}
