package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

func TestPartsStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		mk := func(name string) part {
			return part{name, func(ctx context.Context) error {
				<-ctx.Done()
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
				return ctx.Err()
			}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- runParts(ctx, []part{mk("a"), mk("b"), mk("c")}) }()
		synctest.Wait()
		cancel()
		if err := <-result; err != nil {
			t.Errorf("orderly end: %v, want nil", err)
		}
		if want := []string{"c", "b", "a"}; !slices.Equal(order, want) {
			t.Errorf("stopped in order %v, want %v", order, want)
		}
	})
}

func TestPartsNameTheCulprit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		hang := make(chan struct{})
		err := runParts(t.Context(), []part{
			{"stuck", func(context.Context) error { <-hang; return nil }},
			{"bad", func(context.Context) error { return broken }},
		})
		close(hang)
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "bad: broken") {
			t.Errorf("err = %v, want one that names the part that failed", err)
		}
		if !strings.Contains(err.Error(), "stuck: has not ended") {
			t.Errorf("err = %v, want one that names the part that hangs", err)
		}
	})
}
