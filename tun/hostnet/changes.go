package hostnet

import (
	"context"
	"time"
)

// Pauses of Changes.
const (
	changesPause = 100 * time.Millisecond // between two calls at least
	changesPoll  = 5 * time.Second        // between calls although nothing was reported
)

// Changes calls moved, in this goroutine, soon after addresses, routes or devices of
// this machine have changed, and now and then without a reason, until ctx ends.
// Where the system reports nothing only the latter is left. It changes nothing.
func Changes(ctx context.Context, moved func()) {
	reported, stop := routeEvents()
	defer stop()
	regular := time.NewTicker(changesPoll)
	defer regular.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-reported:
		case <-regular.C:
		}
		moved()
		select {
		case <-ctx.Done():
			return
		case <-time.After(changesPause):
		}
	}
}
