package node

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stopTime is how long a part may take to end once it is told to.
const stopTime = 15 * time.Second

// part is one piece of a running node. run returns after its context has ended;
// returning before is a failure of the node unless the error is nil.
type part struct {
	name string
	run  func(ctx context.Context) error
}

type ended struct {
	index int
	err   error
}

// runParts starts parts in order and, when ctx ends or one fails, stops them in
// reverse order, each with a deadline.
func runParts(ctx context.Context, parts []part) error {
	base := context.WithoutCancel(ctx)
	stops := make([]context.CancelFunc, len(parts))
	done := make([]chan struct{}, len(parts))
	reports := make(chan ended, len(parts))
	for i, p := range parts {
		pctx, stop := context.WithCancel(base)
		stops[i], done[i] = stop, make(chan struct{})
		go func() { // ends after stop
			err := p.run(pctx)
			close(done[i])
			reports <- ended{i, err}
		}()
	}
	var failed error
	select {
	case <-ctx.Done():
	case e := <-reports:
		if failed = e.err; failed != nil {
			failed = fmt.Errorf("%s: %w", parts[e.index].name, failed)
		} else {
			failed = fmt.Errorf("%s: has ended by itself", parts[e.index].name)
		}
	}
	for i := len(parts) - 1; i >= 0; i-- {
		stops[i]()
		select {
		case <-done[i]:
		case <-time.After(stopTime):
			failed = errors.Join(failed, fmt.Errorf("%s: has not ended after %v", parts[i].name, stopTime))
		}
	}
	return failed
}
