package node

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/tun/hostnet"
)

func testHold(t *testing.T) *hold {
	t.Helper()
	cfg := new(config.Config)
	cfg.Node.State, cfg.Tun.Name = t.TempDir(), "cuttle0"
	h := newHold(cfg, nil, slog.New(slog.DiscardHandler))
	h.dry = true // makes no cgroups
	return h
}

// remembered is what a daemon that starts now would find.
func remembered(t *testing.T, h *hold) bool {
	t.Helper()
	c, err := readChoices(h.cfg.Node.State)
	if err != nil {
		t.Fatal(err)
	}
	return c.LAN != nil && *c.LAN
}

func lanChoice(h *hold, on bool) func() func() {
	return func() func() {
		old := h.choices.LAN
		h.choices.LAN = &on
		return func() { h.choices.LAN = old }
	}
}

// TestAdoptKeepsTheNarrower wants a choice that widens to be kept only once it is
// in force, and one that narrows before it is.
func TestAdoptKeepsTheNarrower(t *testing.T) {
	h := testHold(t)
	for _, on := range []bool{true, false} {
		done := make(chan error, 1)
		go func() { done <- h.adopt(t.Context(), !on, lanChoice(h, on)) }() // ends when it is answered
		<-h.wake
		w := h.takeWaiting()
		if remembered(t, h) {
			t.Errorf("before LAN access turned %v is in force it is kept as on", on)
		}
		answerAll(w, nil)
		if err := <-done; err != nil || remembered(t, h) != on {
			t.Errorf("LAN access turned %v: %v, kept as %v", on, err, remembered(t, h))
		}
	}
}

// TestAdoptRefused wants the choice to be what it was, also on the disk.
func TestAdoptRefused(t *testing.T) {
	h := testHold(t)
	yes := true
	h.choices.LAN = &yes
	if err := h.choices.write(h.cfg.Node.State); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- h.adopt(t.Context(), true, lanChoice(h, false)) }() // ends when it is answered
	<-h.wake
	no := errors.New("the kernel says no")
	for _, r := range h.takeWaiting() {
		h.mu.Lock()
		r.back()
		h.mu.Unlock()
		r.done <- no
	}
	if err := <-done; !errors.Is(err, no) || !*h.choices.LAN || !remembered(t, h) {
		t.Errorf("a choice that was refused: %v, is %v and kept as %v", err, *h.choices.LAN, remembered(t, h))
	}
}

// TestAdoptTimesOut wants a request that nobody has taken up to be taken back, and
// what may have been planned with it to be planned again; and one that is being put
// in force to be finished and remembered.
func TestAdoptTimesOut(t *testing.T) {
	h := testHold(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.adopt(ctx, false, lanChoice(h, true)) }() // ends with ctx
	<-h.wake
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || h.choices.LAN != nil || len(h.takeWaiting()) != 1 {
		t.Errorf("a request that was given up: %v, the choice is %v", err, h.choices.LAN)
	}
	<-h.wake
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- h.adopt(ctx, false, lanChoice(h, true)) }() // ends when it is answered
	<-h.wake
	w := h.takeWaiting()
	cancel()
	answerAll(w, nil)
	if err := <-done; err != nil || !remembered(t, h) {
		t.Errorf("a request that was given up while it was carried out: %v, kept: %v", err, remembered(t, h))
	}
}

// TestAdoptThatCannotBeKept wants what would be forgotten to be closed again.
func TestAdoptThatCannotBeKept(t *testing.T) {
	h := testHold(t)
	done := make(chan error, 1)
	go func() { done <- h.adopt(t.Context(), false, lanChoice(h, true)) }() // ends when it is answered
	<-h.wake
	w := h.takeWaiting()
	h.cfg.Node.State = filepath.Join(h.cfg.Node.State, "gone")
	answerAll(w, nil)
	if err := <-done; err == nil || h.choices.LAN != nil {
		t.Errorf("a choice that cannot be kept: %v, is %v", err, h.choices.LAN)
	}
	if again := h.takeWaiting(); len(again) != 1 {
		t.Errorf("%d requests to close it again, want one", len(again))
	}
}

// TestUnreadableChoices wants nothing to be let through, and nothing to be written
// over them, until they can be read.
func TestUnreadableChoices(t *testing.T) {
	h := testHold(t)
	path := filepath.Join(h.cfg.Node.State, choicesFile)
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.cfg.LAN.Allow, h.cfg.Router.LAN = true, "lan0"
	h = newHold(h.cfg, nil, h.log)
	p, err := h.planBlock()
	if f := p.Filter(); err == nil || len(p.Steps) == 0 || len(f.LAN) > 0 || f.Router != nil || f.Past != 0 {
		t.Errorf("with choices that cannot be read (%v) the block is\n%s", err, p)
	}
	var e *control.Error
	if err := h.adopt(t.Context(), true, lanChoice(h, false)); !errors.As(err, &e) {
		t.Errorf("another choice over those: %v, want a refusal", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "nonsense" {
		t.Errorf("the file was written over: %q, %v", b, err)
	}
	if err := os.WriteFile(path, []byte(`{"lan": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.readAgain(); err != nil || h.choices.LAN == nil {
		t.Errorf("the repaired file is not read: %v", err)
	}
}

func TestSplitOfUnknown(t *testing.T) {
	h := testHold(t)
	h.cfg.Split.Users = []string{"0", "nobody-has-this-name"}
	h.cfg.Split.Cgroups = []string{"cuttle-test/no/such/cgroup"}
	if s, unknown := h.findSplit(); unknown != 2 || len(s.Users) != 1 || len(s.Cgroups) != 0 {
		t.Errorf("split is %+v with %d unknown, want one user and two unknown", s, unknown)
	}
	h.cfg.Split.Mode = modeOnly
	if s, unknown := h.findSplit(); unknown != 2 || s.Only {
		t.Errorf("split is %+v with %d unknown, want nothing past the tunnel", s, unknown)
	}
	h.cfg.Split.Users, h.cfg.Split.Cgroups = []string{"0"}, nil
	if s, unknown := h.findSplit(); unknown != 0 || !s.Only {
		t.Errorf("split is %+v with %d unknown, want the mode only", s, unknown)
	}
}

// TestFailedSaysWhetherClosed wants no word of blocked where nothing is in force.
func TestFailedSaysWhetherClosed(t *testing.T) {
	h := testHold(t)
	c := &client{hold: h, log: h.log, cfg: h.cfg}
	c.failed(errors.New("no such thing"))
	if state, _, _, problem := c.snapshot(); state == control.StateBlocked || !strings.Contains(problem.Error(), "NOT closed") {
		t.Errorf("with nothing in force the state is %s (%v)", state, problem)
	}
}

// TestLANThatCannotBeServed wants capture to go on without the LAN.
func TestLANThatCannotBeServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := testHold(t)
		h.cfg.Router.LAN = "lan0" // and no address for it
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.serveLAN(ctx) }() // ends with ctx
		time.Sleep(10 * lanPause)
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("serving the LAN has ended: %v", err)
		default:
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	})
}

// TestPortalEnds wants the portal closed when its time is over by either clock.
func TestPortalEnds(t *testing.T) {
	h, now := testHold(t), time.Now()
	for _, test := range []struct {
		wall, steady time.Duration
		over         bool
	}{{time.Hour, time.Hour, false}, {time.Hour, -time.Second, true}, {-time.Second, time.Hour, true}} {
		h.portal, h.portalEnd = &hostnet.Portal{Until: now.Add(test.wall).UnixNano()}, now.Add(test.steady)
		if got := h.portalStatus().Until == 0; got != test.over {
			t.Errorf("with %v left by the wall and %v by the steady clock it is over: %v", test.wall, test.steady, got)
		}
		if moved, err := h.moved(); err != nil || moved != test.over {
			t.Errorf("with %v and %v left the plan changes: %v (%v)", test.wall, test.steady, moved, err)
		}
	}
}
