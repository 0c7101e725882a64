//go:build linux && netns

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

// options are a small lab's, apart from any other on this machine.
func options(t *testing.T) Options {
	t.Helper()
	if err := Missing(); err != nil {
		t.Fatal(err)
	}
	o := Defaults()
	o.Bin = os.Getenv("CUTTLE_BIN")
	if o.Bin == "" {
		t.Fatal("CUTTLE_BIN must name the folder of cuttled and cuttle-lab-chain; use make test-root")
	}
	o.Prefix = fmt.Sprintf("cuttletest-%d-", os.Getpid())
	o.State = fmt.Sprintf("/run/cuttletest-%d", os.Getpid())
	o.Nodes, o.Exits, o.Mask = 4, 1, "plain"
	return o
}

// build makes a lab that is removed when the test ends.
func build(t *testing.T, o Options) *Lab {
	t.Helper()
	l, err := Build(t.Context(), o, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Errorf("Down: %v", err)
		}
	})
	return l
}

// up makes a lab whose daemons are ready.
func up(t *testing.T, o Options) *Lab {
	t.Helper()
	l := build(t, o)
	if err := errors.Join(l.Start(t.Context()), l.Wait(t.Context())); err != nil {
		t.Fatalf("start: %v", err)
	}
	return l
}

// get runs the plain HTTP client in a node's namespace and gives the body.
func get(t *testing.T, l *Lab, node, url string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	n, err := l.node(node)
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd := netns.Command(ctx, n.Namespace, "/proc/self/exe", load.VerbFetch, url)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// exitAddress tells whether an address is an exit's.
func exitAddress(p Plan, addr string) bool {
	return slices.ContainsFunc(p.Nodes, func(n Node) bool {
		return n.Role == RoleExit && slices.ContainsFunc(n.Addrs, func(a netip.Prefix) bool { return a.Addr().String() == addr })
	})
}

// TestNetworkCarriesAndIsControlled: what a program sends comes out of an exit, connections
// end as they should, and daemons are killed and started.
func TestNetworkCarriesAndIsControlled(t *testing.T) {
	l := up(t, options(t))
	ctx := t.Context()
	direct, err := get(t, l, "n1", "http://"+WebName+"/ip")
	if err != nil || exitAddress(l.plan, direct) {
		t.Errorf("from n1 the server sees %q, %v; want n1 itself", direct, err)
	}
	through, err := get(t, l, "client", "http://"+WebName+"/ip")
	if err != nil || !exitAddress(l.plan, through) {
		t.Errorf("from the client the server sees %q, %v; want an exit", through, err)
	}
	s, err := l.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Nodes) != 6 || len(s.Circuits) == 0 || len(s.Circuits[0].Hops) != 3 || s.Nodes[0].Interfaces[0].Name != Interface {
		t.Errorf("status %+v", s)
	}
	for _, n := range s.Nodes {
		if n.PID == 0 || n.Role != RoleWeb && len(n.Key) != 52 {
			t.Errorf("%s has process %d and key %q", n.Name, n.PID, n.Key)
		}
	}
	t.Run("ends", func(t *testing.T) { ends(t, l) })
	victim := s.Circuits[0].Hops[1]
	if err := l.Signal(ctx, victim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := l.Signal(ctx, victim, unix.SIGKILL); err == nil {
		t.Error("a daemon that has gone is killed")
	}
	if err := l.Start(ctx, victim); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(ctx, victim); err == nil {
		t.Error("a daemon that runs is started")
	}
	if err := l.Wait(ctx); err != nil {
		t.Error(err)
	}
	if _, err := get(t, l, "client", "http://"+WebName+"/ip"); err != nil {
		t.Errorf("after a relay's crash and return: %v", err)
	}
}

func TestLinksAreShaped(t *testing.T) {
	o := options(t)
	o.Shape = emulate.Shape{Delay: 20 * time.Millisecond}
	l := up(t, o)
	latency := func() float64 {
		t.Helper()
		r, _, err := l.Load(t.Context(), "client", "latency", load.Config{URL: "http://" + WebName, Count: 5})
		if err != nil {
			t.Fatal(err)
		}
		return r.Quantile(0)
	}
	// The name is known after the first time, and the connection is accepted early:
	// at least one round trip of three hops; at most what another session's noise adds.
	slow := latency()
	if slow < 2*3*20 {
		t.Errorf("a first byte over three hops of 20 ms takes %.0f ms, want at least 120", slow)
	}
	for _, pair := range l.plan.Shaped() {
		if err := l.SetLink(t.Context(), pair[0].Name, pair[1].Name, emulate.Shape{}); err != nil {
			t.Fatal(err)
		}
	}
	if fast := latency(); fast > slow/2 {
		t.Errorf("without delay a first byte takes %.0f ms, with it %.0f ms", fast, slow)
	}
	if err := l.SetLink(t.Context(), "n1", "n1", emulate.Shape{}); err == nil {
		t.Error("a link from a node to itself is taken")
	}
	if err := l.SetLink(t.Context(), "n1", "n9", emulate.Shape{}); err == nil {
		t.Error("a link to a node that is not there is taken")
	}
}

func TestPartitionCutsAndHeals(t *testing.T) {
	l := build(t, options(t))
	ask := func() error {
		_, err := get(t, l, "n1", "http://v4.lab/ip")
		return err
	}
	if err := ask(); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := l.SetLink(t.Context(), "n1", "web", emulate.Shape{Down: true}); err != nil {
		t.Fatal(err)
	}
	if ask() == nil {
		t.Error("a partition lets packets through")
	}
	if err := l.SetLink(t.Context(), "n1", "web", emulate.Shape{}); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Errorf("after: %v", err)
	}
}

func TestDownLeavesNothing(t *testing.T) {
	o := options(t)
	l, err := Build(t.Context(), o, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Start(t.Context()), l.Wait(t.Context())); err != nil {
		t.Error(err)
	}
	running := l.state.Processes
	if err := l.Close(); err != nil { // as another process would find it
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), o, func(string) {}); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second lab in the same folder: %v", err)
	}
	other := o
	other.State += "-other"
	if _, err := Build(t.Context(), other, func(string) {}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a second lab with the same names: %v", err)
	}
	again, err := Open(t.Context(), o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Down(); err != nil {
		t.Fatal(err)
	}
	checkGone(t, o, running)
	if _, err := Open(t.Context(), o.State); !errors.Is(err, ErrNoLab) {
		t.Errorf("opening what is gone gives %v, want ErrNoLab", err)
	}
}

func checkGone(t *testing.T, o Options, running map[string]process) {
	t.Helper()
	for name, p := range running {
		if p.alive() {
			t.Errorf("%s still runs as %d", name, p.PID)
		}
	}
	if names, err := netns.List(o.Prefix); err != nil || len(names) != 0 {
		t.Errorf("namespaces are left: %v, %v", names, err)
	}
	for _, path := range []string{o.State, o.State + ".lock", netns.Dir(o.Prefix + "client")} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left", path)
		}
	}
}

// A lab whose processes were all killed, as by a crash of everything, is swept
// away by the next one.
func TestLeftoversAreSwept(t *testing.T) {
	o := options(t)
	l, err := Build(t.Context(), o, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	running := l.state.Processes
	for name := range running {
		if p := running[name]; p.signal(unix.SIGKILL) != nil {
			t.Fatalf("kill %s", name)
		}
	}
	for _, p := range running {
		for p.alive() {
			time.Sleep(time.Millisecond)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := Build(t.Context(), o, func(string) {})
	if err != nil {
		t.Fatalf("the next lab: %v", err)
	}
	if err := next.Down(); err != nil {
		t.Fatal(err)
	}
	checkGone(t, o, next.state.Processes)
}

func TestInterruptedBuildLeavesNothing(t *testing.T) {
	o := options(t)
	for _, step := range []string{"namespaces", "outside world", "keys", "configurations and map"} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Build(ctx, o, func(what string) {
			if what == step {
				cancel()
			}
		})
		cancel()
		if err == nil {
			t.Fatalf("interrupted at %q: no error", step)
		}
		checkGone(t, o, nil)
	}
}

func TestStateFolderOfSomebodyElse(t *testing.T) {
	o := options(t)
	if err := os.MkdirAll(o.State, 0o700); err != nil {
		t.Fatal(err)
	}
	precious := o.State + "/precious"
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(o.State); _ = os.Remove(o.State + ".lock") })
	if _, err := Build(t.Context(), o, func(string) {}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a lab in a folder with other files: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}
