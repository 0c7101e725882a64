//go:build linux && netns

package demo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/netns"
)

func options(t *testing.T) lab.Options {
	t.Helper()
	if err := lab.Missing(); err != nil {
		t.Fatal(err)
	}
	o := lab.Defaults()
	o.Bin = os.Getenv("CUTTLE_BIN")
	if o.Bin == "" {
		t.Fatal("CUTTLE_BIN must name the folder of cuttled and cuttle-lab-chain; use make test-root")
	}
	o.Billing = true
	o.Prefix = fmt.Sprintf("cuttledemo-%d-", os.Getpid())
	o.State = fmt.Sprintf("/run/cuttledemo-%d", os.Getpid())
	return o
}

func checkGone(t *testing.T, o lab.Options) {
	t.Helper()
	if names, err := netns.List(o.Prefix); err != nil || len(names) != 0 {
		t.Errorf("namespaces are left: %v, %v", names, err)
	}
	if _, err := os.Lstat(o.State); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state folder is left: %v", err)
	}
}

func TestDemoHoldsTwiceInARow(t *testing.T) {
	for _, mask := range []string{"https", "plain"} {
		o := options(t)
		o.Mask = mask
		if err := Run(t.Context(), Config{Options: o, Bytes: 20_000_000}); err != nil {
			t.Errorf("mask %s: %v", mask, err)
		}
		checkGone(t, o)
	}
}

func TestInterruptedDemoCleansUp(t *testing.T) {
	for _, after := range []time.Duration{300 * time.Millisecond, 4 * time.Second} {
		o := options(t)
		ctx, cancel := context.WithTimeout(t.Context(), after)
		err := Run(ctx, Config{Options: o, Bytes: 10_000_000_000})
		cancel()
		if !errors.Is(err, lab.ErrInterrupted) {
			t.Errorf("interrupted after %v: %v, want %v", after, err, lab.ErrInterrupted)
		}
		checkGone(t, o)
	}
}
