package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/internal/config"
	"cuttle/obfs"
	"cuttle/relay/wire"
	"cuttle/stack"
	"cuttle/tun/hostnet"
	"cuttle/tun/lan"
)

// lockFile is there, in the state directory, while the lock is on.
const lockFile = "lock"

// logPause is between two lines of the log about what other programs change.
const logPause = time.Second

// hold is what this node has in force on the host: nothing, the block, or the
// whole capture. All but locked, setLock and missing is for one goroutine.
type hold struct {
	cfg     *config.Config
	known   map[wire.NodeID]obfs.Descriptor
	log     *slog.Logger
	applied *hostnet.Applied // nil: open
	logged  time.Time

	networks []hostnet.Attached // that the plan in force was computed for
	dry      bool               // only computes
	captured bool               // what is in force leads into the TUN

	wake      chan struct{} // capacity 1: something waits
	lanServer atomic.Pointer[lan.Server]
	turn      sync.Mutex // one change at a time; taken before mu

	mu        sync.Mutex // guards the fields below and turning the lock
	lacks     []string
	words     string         // the plan in force, for people
	let       hostnet.Filter // of the newest plan
	choices   choices
	excluding bool            // somebody has excluded a program
	portal    *hostnet.Portal // open, or over
	waiting   []request
	rerouted  chan struct{} // closed and made anew when the router changes
}

// newHold reads what operators have chosen before.
func newHold(cfg *config.Config, known map[wire.NodeID]obfs.Descriptor, log *slog.Logger) (*hold, error) {
	c, err := readChoices(cfg.Node.State)
	return &hold{cfg: cfg, known: known, log: log, choices: c, wake: make(chan struct{}, 1), rerouted: make(chan struct{})}, err
}

func tunMTU(cfg *config.Config) int {
	if cfg.Tun.MTU != 0 {
		return cfg.Tun.MTU
	}
	return stack.DefaultMTU
}

// plan computes what has to be in force for capturing.
func (h *hold) plan() (hostnet.Plan, error) {
	hc := hostnet.Config{
		Device: h.cfg.Tun.Name, MTU: tunMTU(h.cfg), Mark: h.cfg.Tun.Mark, Table: h.cfg.Tun.Table, ResolvConf: h.cfg.Tun.ResolvConf,
	}
	hc.Peers = peerAddresses(h.cfg, h.known)
	for _, l := range h.cfg.Listen {
		if a, err := netip.ParseAddrPort(l.Address); err == nil && a.Port() != 0 {
			hc.Listen = append(hc.Listen, a.Port())
		}
	}
	if err := h.fillHost(&hc); err != nil {
		return hostnet.Plan{}, err
	}
	host, err := hostnet.InspectOver(h.cfg.Node.State, hc)
	if err != nil {
		return hostnet.Plan{}, err
	}
	p, err := hostnet.NewPlan(hc, host)
	if err != nil {
		return p, err
	}
	h.networks = host.Attached
	h.mu.Lock()
	h.lacks, h.let = p.Missing, p.Filter()
	h.mu.Unlock()
	return p, nil
}

// peerAddresses is where our marked sockets may connect to: the neighbors. An
// exit connects to anybody, and a neighbor known by name may be anywhere; then
// the mark alone counts (nil).
func peerAddresses(cfg *config.Config, known map[wire.NodeID]obfs.Descriptor) []netip.AddrPort {
	if cfg.Node.Exit {
		return nil
	}
	var out []netip.AddrPort
	for _, d := range known {
		for _, text := range d.Addresses {
			a, err := netip.ParseAddrPort(text)
			if err != nil {
				return nil
			}
			out = append(out, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare) // the order of a map would make every plan a new one
	return out
}

// resumes tells whether to capture at once: by configuration, or because an
// earlier run was capturing when it died. Nobody has told it to open.
func (h *hold) resumes() (bool, error) {
	left, err := hostnet.Left(h.cfg.Node.State)
	if err != nil {
		return false, err
	}
	if len(left.Steps) > 0 {
		h.log.Warn("an earlier run has left this machine closed")
	}
	return h.cfg.Client.Up || left.Captures() || len(left.Steps) > 0 && !h.locked(), nil
}

// block closes the machine, or keeps it closed while the way into the TUN is undone.
func (h *hold) block() error {
	p, err := h.plan()
	if err != nil {
		return err
	}
	return h.force(p.Block(), false)
}

// capture leads everything into the TUN, which must be there.
func (h *hold) capture() error {
	p, err := h.plan()
	if err != nil {
		return err
	}
	return h.force(p, true)
}

func (h *hold) force(p hostnet.Plan, captured bool) (err error) {
	h.captured = captured
	h.tellPlan(p.String())
	if h.applied != nil {
		return h.applied.Change(p)
	}
	h.applied, err = hostnet.Apply(h.cfg.Node.State, p)
	return err
}

func (h *hold) tellPlan(words string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.words = words
}

// watch looks after what is in force until ctx ends.
func (h *hold) watch(ctx context.Context) error {
	for h.applied == nil {
		answerAll(h.takeWaiting(), nil) // it counts from the next time on
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		}
	}
	return h.applied.Look(ctx, func(what string) {
		if time.Since(h.logged) > logPause {
			h.logged = time.Now()
			h.log.Warn("another program has changed this machine's network; it is mended", "what", what)
		}
	}, h.wake, h.revise)
}

// open puts the host back as it was.
func (h *hold) open() error {
	if h.applied == nil {
		return nil
	}
	a := h.applied
	h.applied = nil
	h.tellPlan("")
	if err := a.Revert(); err != nil {
		return fmt.Errorf("put the host back: %w; the next start or `cuttle down` tries again", err)
	}
	return nil
}

// leave ends with the machine closed, if it is.
func (h *hold) leave() error {
	if h.applied == nil {
		return nil
	}
	err := h.block()
	a := h.applied
	h.applied = nil
	return errors.Join(err, a.Leave())
}

func (h *hold) locked() bool {
	_, err := os.Lstat(filepath.Join(h.cfg.Node.State, lockFile))
	return !errors.Is(err, fs.ErrNotExist) // what cannot be known counts as locked
}

// setLock turns the lock and returns when that will survive a crash.
func (h *hold) setLock(on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	path := filepath.Join(h.cfg.Node.State, lockFile)
	if !on {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("turn the lock off: %w", err)
		}
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err == nil {
		var dir *os.File
		if dir, err = os.Open(h.cfg.Node.State); err == nil {
			err = errors.Join(dir.Sync(), dir.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("turn the lock on: %w", err)
	}
	return nil
}

// missing is what this kernel cannot do for the plan.
func (h *hold) missing() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lacks
}

// Guard closes the machine as long as no node runs: it is for the time between
// boot and the daemon's start. It does so if the lock is on, if an earlier run
// was capturing when the machine went off (nobody has told it to open), and, when
// a daemon will start, if that will capture.
func Guard(cfg *config.Config, starts bool, log *slog.Logger) error {
	known, err := descriptors(cfg)
	if err != nil {
		return err
	}
	h, err := newHold(cfg, known, log)
	if err != nil {
		return err
	}
	if !cfg.Client.Enabled {
		return nil
	}
	left, err := hostnet.Left(cfg.Node.State)
	if err == nil && len(left.Steps) == 0 && !h.locked() && !(starts && cfg.Client.Up) {
		return nil
	}
	if err == nil {
		var p hostnet.Plan
		if p, err = h.plan(); err == nil {
			err = hostnet.Close(cfg.Node.State, p.Block())
		}
	}
	if err != nil {
		return fmt.Errorf("close this machine: %w", err)
	}
	return nil
}

// Release turns the lock off and undoes what a node that runs no more has left.
func Release(cfg *config.Config) error {
	h := &hold{cfg: cfg}
	if err := h.setLock(false); err != nil {
		return err
	}
	if _, err := hostnet.Recover(cfg.Node.State); err != nil {
		return fmt.Errorf("open this machine: %w", err)
	}
	return nil
}
