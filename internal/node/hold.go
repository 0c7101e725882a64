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
	split    hostnet.Split      // of the newest plan
	unknown  int                // users and cgroups of the split that this machine does not have
	dry      bool               // only computes
	captured bool               // what is in force leads into the TUN

	wake      chan struct{} // capacity 1: something waits
	lanServer atomic.Pointer[lan.Server]
	neighbors neighbors
	turn      sync.Mutex // one change at a time; taken before mu

	mu        sync.Mutex // guards the fields below and turning the lock
	lacks     []string
	words     string         // the plan in force, for people
	let       hostnet.Filter // of the newest plan
	choices   choices
	unread    error           // why choices could not be read: nothing is let through until they can
	noLAN     bool            // the LAN's interface leads out: it is not served
	excluding bool            // somebody has excluded a program
	portal    *hostnet.Portal // open, or over
	portalEnd time.Time       // by a clock that only goes forward
	waiting   []request
	rerouted  chan struct{} // closed and made anew when the router changes
}

// newHold reads what operators have chosen before.
func newHold(cfg *config.Config, known map[wire.NodeID]obfs.Descriptor, log *slog.Logger) *hold {
	c, err := readChoices(cfg.Node.State)
	return &hold{cfg: cfg, known: known, log: log, choices: c, unread: err, neighbors: neighbors{ask: hostnet.HardwareAddress}, wake: make(chan struct{}, 1), rerouted: make(chan struct{})}
}

func tunMTU(cfg *config.Config) int {
	if cfg.Tun.MTU != 0 {
		return cfg.Tun.MTU
	}
	return stack.DefaultMTU
}

// plan computes what has to be in force for capturing.
func (h *hold) plan() (hostnet.Plan, error) {
	hc := h.base()
	if err := h.readAgain(); err != nil {
		return hostnet.Plan{}, err
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

// base is what a plan depends on when nothing is let through but links.
func (h *hold) base() hostnet.Config {
	hc := hostnet.Config{
		Device: h.cfg.Tun.Name, MTU: tunMTU(h.cfg), Mark: h.cfg.Tun.Mark, Table: h.cfg.Tun.Table, ResolvConf: h.cfg.Tun.ResolvConf,
	}
	hc.Peers = peerAddresses(h.cfg, h.known)
	for _, l := range h.cfg.Listen {
		if a, err := netip.ParseAddrPort(l.Address); err == nil && a.Port() != 0 {
			hc.Listen = append(hc.Listen, a.Port())
		}
	}
	return hc
}

// planBlock computes what keeps traffic in. When the plan cannot be computed it is
// one in which nothing is let through but links, and the error says why.
func (h *hold) planBlock() (hostnet.Plan, error) {
	p, err := h.plan()
	if err == nil {
		return p.Block(), nil
	}
	p, shutErr := hostnet.Shut(h.base())
	h.mu.Lock()
	h.lacks, h.let = p.Missing, p.Filter()
	h.mu.Unlock()
	return p, errors.Join(err, shutErr)
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
func (h *hold) resumes() bool {
	left, err := hostnet.Left(h.cfg.Node.State)
	closed := len(left.Steps) > 0 || err != nil
	switch {
	case err != nil:
		h.log.Warn("what an earlier run has left cannot be read; this machine stays closed", "err", err)
	case closed:
		h.log.Warn("an earlier run has left this machine closed")
	}
	return h.cfg.Client.Up || left.Captures() || closed && !h.locked()
}

// block closes the machine, or keeps it closed while the way into the TUN is undone.
// With an error it may be closed all the same: see closed.
func (h *hold) block() error {
	p, err := h.planBlock()
	return errors.Join(err, h.force(p, false))
}

// closed tells whether what is in force keeps traffic in.
func (h *hold) closed() bool { return h.applied != nil && h.applied.Closed() }

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

// open puts the host back as it was, and tries again what could not be put back
// before.
func (h *hold) open() error {
	var err error
	if h.applied != nil {
		err = h.applied.Revert()
		h.applied = nil
	} else if left, unread := hostnet.Left(h.cfg.Node.State); len(left.Steps) > 0 || unread != nil {
		_, err = hostnet.Recover(h.cfg.Node.State)
	}
	h.tellPlan("")
	if err != nil {
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
		err = syncFolder(h.cfg.Node.State)
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
	if !cfg.Client.Enabled {
		return nil
	}
	known, err := descriptors(cfg)
	if err != nil {
		log.Warn("the neighbors cannot be read", "err", err) // no link runs yet that would need them
	}
	h := newHold(cfg, known, log)
	left, err := hostnet.Left(cfg.Node.State)
	if err == nil && len(left.Steps) == 0 && !h.locked() && !(starts && cfg.Client.Up) {
		return nil
	}
	if err != nil {
		log.Warn("what an earlier run has left cannot be read; this machine is closed", "err", err)
	}
	p, err := h.planBlock()
	if err != nil {
		log.Warn("what is to be let through cannot be computed; nothing is", "err", err)
	}
	if err := hostnet.Close(cfg.Node.State, p); err != nil {
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
	_, unread := hostnet.Left(cfg.Node.State)
	if unread != nil {
		// Closing makes the journal whole, so that what closes is undone.
		if p, err := hostnet.Shut(h.base()); err == nil {
			_ = hostnet.Close(cfg.Node.State, p) // undone next
		}
	}
	if _, err := hostnet.Recover(cfg.Node.State); err != nil {
		return fmt.Errorf("open this machine: %w", err)
	}
	if unread != nil {
		return fmt.Errorf("this machine is open; some of what an earlier run has changed could not be read, and was not put back: %w", unread)
	}
	return nil
}
