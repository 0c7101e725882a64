package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cuttle/internal/control"
	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

// Start starts the daemons of the named nodes; without names those of all that
// do not run.
func (l *Lab) Start(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		for _, n := range l.plan.Nodes {
			if n.Runs() && !l.state.Processes[n.Name].alive() {
				names = append(names, n.Name)
			}
		}
	}
	for _, name := range names {
		n, err := l.node(name)
		if err != nil {
			return err
		}
		if !n.Runs() {
			return fmt.Errorf("%s runs as long as the lab does; it cannot be started anew", name)
		}
		if p := l.state.Processes[name]; p.alive() {
			return fmt.Errorf("%s runs already (process %d)", name, p.PID)
		}
		argv := []string{filepath.Join(l.opts.Bin, "cuttled"), "-config", l.opts.fileOf(name, configFile)}
		if l.opts.Profile != "" {
			argv = append([]string{"env", "CUTTLE_CPUPROFILE=" + filepath.Join(l.opts.Profile, name+".pprof")}, argv...)
		}
		err = l.start(ctx, name, n.Namespace, nil, argv...)
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) node(name string) (Node, error) {
	n, ok := l.plan.Node(name)
	if !ok {
		var names []string
		for _, n := range l.plan.Nodes {
			names = append(names, n.Name)
		}
		return Node{}, fmt.Errorf("there is no node %q; there are %s", name, strings.Join(names, ", "))
	}
	return n, nil
}

// Control is a client for the node's control socket.
func (l *Lab) Control(name string) (*control.Client, error) {
	return control.Dial(l.opts.fileOf(name, controlSocket))
}

// waitTimeout bounds Wait. Slow links need several round trips per hop.
const waitTimeout = 90 * time.Second

// Wait returns when the daemons of the named nodes (none: of all) are ready:
// relays have a link to every neighbor that runs, clients are up. If one has
// ended, the error has the end of its log.
func (l *Lab) Wait(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		for _, n := range l.plan.Nodes {
			if n.Runs() && l.state.Processes[n.Name].alive() {
				names = append(names, n.Name)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	t := time.NewTicker(pollPeriod)
	defer t.Stop()
	for _, name := range names {
		n, err := l.node(name)
		if err != nil {
			return err
		}
		for {
			ready, state := l.ready(ctx, n)
			if ready {
				break
			}
			if p := l.state.Processes[name]; !p.alive() {
				return fmt.Errorf("%s has ended: %s%s", name, state, l.lastWords(name))
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not get ready (%s): %w%s", name, state, ctx.Err(), l.lastWords(name))
			case <-t.C:
			}
		}
	}
	return nil
}

// ready asks a node how it is, and says it for people.
func (l *Lab) ready(ctx context.Context, n Node) (bool, string) {
	c, err := l.Control(n.Name)
	if err != nil {
		return false, err.Error()
	}
	s, err := c.Status(ctx)
	if err != nil {
		return false, err.Error()
	}
	want := 0 // neighbors that run
	for _, name := range n.Neighbors {
		if l.state.Processes[name].alive() {
			want++
		}
	}
	var problems []string
	for _, p := range s.Problems {
		problems = append(problems, p.Text)
	}
	text := fmt.Sprintf("%s, %d of %d links, %d circuits", s.State, s.Links, want, s.Circuits)
	if len(problems) > 0 {
		text += ": " + strings.Join(problems, "; ")
	}
	if n.Role == RoleClient {
		return s.State == control.StateUp && s.Circuits > 0 && s.Links > 0, text
	}
	return s.Links >= want, text
}

// Signal sends a signal to the daemon of a node, or to the web server or chain.
// After a deadly one it returns when the process has gone.
func (l *Lab) Signal(ctx context.Context, name string, sig syscall.Signal) error {
	if _, err := l.node(name); err != nil {
		return err
	}
	p := l.state.Processes[name]
	if !p.alive() {
		return fmt.Errorf("%s does not run", name)
	}
	if err := p.signal(sig); err != nil {
		return err
	}
	if sig != unix.SIGKILL && sig != unix.SIGTERM {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*termTimeout)
	defer cancel()
	t := time.NewTicker(pollPeriod)
	defer t.Stop()
	for p.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not end: %w", name, ctx.Err())
		case <-t.C:
		}
	}
	return nil
}

// SetLink shapes the path between two nodes, both ways; the zero shape gives it
// back to the kernel.
func (l *Lab) SetLink(ctx context.Context, a, b string, s emulate.Shape) error {
	na, err := l.node(a)
	if err != nil {
		return err
	}
	nb, err := l.node(b)
	if err != nil {
		return err
	}
	if a == b {
		return errors.New("a link needs two different nodes")
	}
	if err := s.Check(); err != nil {
		return err
	}
	return l.shape(ctx, s, [2]Node{na, nb})
}

// Readdress gives a node another IPv4 address in the place of its own, on paths of
// the same shape.
func (l *Lab) Readdress(ctx context.Context, name string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	old := n.Addrs[0]
	b := old.Addr().As4()
	b[3] = movedHost
	fresh := netip.PrefixFrom(netip.AddrFrom4(b), old.Bits())
	n.Addrs = []netip.Prefix{fresh}
	var pairs [][2]Node
	for _, p := range l.plan.Shaped() {
		for i := range p {
			if p[i].Name == name {
				p[i] = n
				pairs = append(pairs, p)
			}
		}
	}
	if len(pairs) > 0 && !l.opts.Shape.IsZero() {
		if err := l.shape(ctx, l.opts.Shape, pairs...); err != nil {
			return err
		}
	}
	if err := netns.SetDevice(n.Namespace, Interface, 0, fresh); err != nil {
		return err
	}
	return netns.RemoveAddress(n.Namespace, Interface, old)
}

// Exec replaces this process by a program inside a node's namespace. It returns
// only if that failed.
func (l *Lab) Exec(name string, argv []string) error {
	if name == "net" {
		return netns.Become(l.plan.Router, argv)
	}
	n, err := l.node(name)
	if err != nil {
		return err
	}
	return netns.Become(n.Namespace, argv)
}
