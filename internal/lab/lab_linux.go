package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

// Lab is a network that exists. It belongs to one goroutine.
type Lab struct {
	opts  Options
	plan  Plan
	state *state
	lock  *os.File
	say   func(string)
}

// Plan is the network on paper.
func (l *Lab) Plan() Plan { return l.plan }

// Chain tells how to reach the chain; nil without billing.
func (l *Lab) Chain() *ChainInfo { return l.state.Chain }

// Wallets gives the consuming and earning address of a node, empty without
// billing.
func (l *Lab) Wallets(node string) (consuming, earning string) {
	w := l.state.Wallets[node]
	return w.Consuming, w.Earning
}

// Key gives the node address (52 characters) of a node, and NameOf the reverse.
func (l *Lab) Key(node string) string { return l.state.Keys[node] }

// NameOf gives the lab's name of a node address, or the address itself.
func (l *Lab) NameOf(key string) string {
	for name, k := range l.state.Keys {
		if k == key {
			return name
		}
	}
	return key
}

// Missing says in one sentence what this machine lacks, or gives nil.
func Missing() error {
	if os.Geteuid() != 0 {
		return errors.New("cuttle-lab needs root, since it makes network namespaces and TUN devices: run it with sudo")
	}
	info, err := os.Stat("/dev/net/tun")
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return errors.New("cuttle-lab needs /dev/net/tun, which is missing here: load the tun module with `modprobe tun`")
	}
	return nil
}

// Build makes everything but the daemons: namespaces and cables, the outside
// world, the emulator, keys, wallets, configurations and the network map. say is
// told what happens. If it fails, nothing is left behind.
func Build(ctx context.Context, opts Options, say func(string)) (*Lab, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	plan, err := NewPlan(opts)
	if err != nil {
		return nil, err
	}
	lock, err := takeLock(ctx, opts.State)
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: opts, plan: plan, lock: lock, say: say}
	if err := l.sweep(); err != nil {
		return nil, errors.Join(err, dropLock(lock))
	}
	l.state = &state{
		Version: stateVersion, Options: opts, Namespaces: plan.Namespaces(),
		Processes: map[string]process{}, Keys: map[string]string{}, Wallets: map[string]wallets{},
	}
	if err := l.build(ctx); err != nil {
		return nil, l.GiveUp(ctx, err)
	}
	return l, nil
}

// ErrInterrupted says that a lab was ended by its context, and is gone.
var ErrInterrupted = errors.New("interrupted; everything that was made is removed")

// GiveUp is Down after err: it gives the error to show. Once the context has
// ended, what failed because of that is of no interest.
func (l *Lab) GiveUp(ctx context.Context, err error) error {
	if left := l.Down(); left != nil {
		return errors.Join(err, left)
	}
	if err != nil && ctx.Err() != nil {
		return ErrInterrupted
	}
	return err
}

// Open finds a lab that Build has made, in this or another process, and locks
// it against other verbs.
func Open(ctx context.Context, folder string) (*Lab, error) {
	lock, err := takeLock(ctx, folder)
	if err != nil {
		return nil, err
	}
	l, err := View(folder)
	if err != nil {
		return nil, errors.Join(err, dropLock(lock))
	}
	l.lock = lock
	return l, nil
}

// View finds a lab without locking it: for verbs that only look.
func View(folder string) (*Lab, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	s, err := loadState(folder)
	if err != nil {
		return nil, err
	}
	plan, err := NewPlan(s.Options)
	if err != nil {
		return nil, err
	}
	return &Lab{opts: s.Options, plan: plan, state: s, say: func(string) {}}, nil
}

// Close lets go of the lab, which goes on running.
func (l *Lab) Close() error {
	if l.lock == nil {
		return nil
	}
	return l.lock.Close()
}

// lockPath is the file whose lock allows to change the lab in a folder.
func lockPath(folder string) string { return filepath.Clean(folder) + ".lock" }

// takeLock waits a moment for another verb to end.
func takeLock(ctx context.Context, folder string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	t := time.NewTicker(pollPeriod)
	defer t.Stop()
	for deadline := time.Now().Add(3 * time.Second); ; {
		f, err := tryLock(lockPath(folder))
		if f != nil || err != nil {
			return f, err
		}
		if time.Now().After(deadline) {
			return nil, errors.New("another cuttle-lab is at work on this lab; wait for it or end it")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}

// tryLock gives nil without an error when somebody else has the lock, or has
// just removed the file.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the lab: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the lab: %w", err), f.Close())
	}
	ours, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(ours, there) {
		return nil, f.Close()
	}
	return f, nil
}

// dropLock removes the lock's file, which only its holder may, and the lock.
func dropLock(f *os.File) error {
	if f == nil {
		return nil
	}
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("remove lock: %w", err), f.Close())
	}
	return f.Close()
}

// sweep makes room: it removes what a crashed lab has left in our folder, and
// refuses if a lab runs, or if somebody else owns what we would make.
func (l *Lab) sweep() error {
	old, err := loadState(l.opts.State)
	switch {
	case err == nil:
		for name, p := range old.Processes {
			if p.alive() {
				return fmt.Errorf("a lab is running already (%s is process %d): end it with cuttle-lab down", name, p.PID)
			}
		}
		l.say("removing what an earlier lab has left")
		if err := remove(old); err != nil {
			return err
		}
	case !errors.Is(err, ErrNoLab):
		return err
	}
	entries, err := os.ReadDir(l.opts.State)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look into the state folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty and no lab's: choose another folder with --state", l.opts.State)
	}
	for _, name := range l.plan.Namespaces() {
		if _, err := os.Lstat(netns.Path(name)); err == nil {
			return fmt.Errorf("the namespace %s exists already: it belongs to a lab with another --state, or remove it with cuttle-lab down --orphans", name)
		}
	}
	return nil
}

// build does the work of Build; the state is on disk before anything is made.
func (l *Lab) build(ctx context.Context) error {
	if err := os.MkdirAll(l.opts.State, 0o700); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	if err := l.state.save(); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"namespaces", l.buildNamespaces},
		{"outside world", l.startOutside},
		{"keys", l.makeKeys},
		{"wallets", l.makeWallets},
		{"configurations and map", l.writeConfigs},
		{"link emulation", l.shapeAll},
	}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.say(s.name)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return l.state.save()
}

// buildNamespaces makes the star: every node joined to the router.
func (l *Lab) buildNamespaces(ctx context.Context) error {
	for _, name := range l.plan.Namespaces() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := netns.Create(name); err != nil {
			return err
		}
	}
	if err := netns.Router(l.plan.Router); err != nil {
		return err
	}
	if err := l.buildLAN(); err != nil {
		return err
	}
	for _, n := range l.plan.Nodes {
		if n.Role == RoleHost {
			continue
		}
		router := netns.End{Namespace: l.plan.Router, Interface: "to-" + n.Name}
		for i, gw := range n.Gateways {
			router.Addresses = append(router.Addresses, netip.PrefixFrom(gw, n.Addrs[i].Bits()))
		}
		node := netns.End{Namespace: n.Namespace, Interface: Interface, Addresses: n.Addrs, Gateways: n.Gateways}
		if err := netns.Connect(router, node); err != nil {
			return err
		}
		resolv := fmt.Sprintf("# %s of the lab\nnameserver %s\n", n.Name, webV4)
		if err := netns.WriteFile(n.Namespace, "resolv.conf", resolv); err != nil {
			return err
		}
	}
	for network, silent := range map[string]bool{unreachable: false, unreachV6: false, blackhole: true, blackholeV6: true} {
		if err := netns.Refuse(l.plan.Router, netip.MustParsePrefix(network), silent); err != nil {
			return err
		}
	}
	return nil
}

// Down ends every process, removes every namespace and file, and gives up the
// lock. The Lab is of no use afterwards.
func (l *Lab) Down() error {
	if err := remove(l.state); err != nil {
		return errors.Join(err, l.Close())
	}
	return dropLock(l.lock)
}

// remove takes away what a state file tells of.
func remove(s *state) error {
	var running []process
	for _, p := range s.Processes {
		if p.alive() {
			running = append(running, p)
		}
	}
	if err := stop(running); err != nil {
		return err
	}
	for _, name := range s.Namespaces {
		if err := netns.Delete(name); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(s.Options.State); err != nil {
		return fmt.Errorf("remove state folder: %w", err)
	}
	return nil
}

// RemoveOrphans deletes namespaces with the prefix that no lab in folder knows
// of, and returns their names. Their processes, if any, live on.
func RemoveOrphans(ctx context.Context, folder, prefix string) ([]string, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	if o := Defaults(); prefix == "" || strings.ContainsAny(prefix, "/") {
		return nil, fmt.Errorf("--prefix must be a short word such as %q", o.Prefix)
	}
	lock, err := takeLock(ctx, folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dropLock(lock) }()
	if _, err := loadState(folder); !errors.Is(err, ErrNoLab) {
		return nil, errors.Join(errors.New("this folder has a lab: end it with cuttle-lab down"), err)
	}
	names, err := netns.List(prefix)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := netns.Delete(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}
