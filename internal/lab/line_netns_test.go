//go:build linux && netns

package lab

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

// TestLine: in a row of nodes, packets between the ends pass those in the middle
// and not the router.
func TestLine(t *testing.T) {
	o := options(t)
	o.Nodes, o.Exits, o.Guards = 3, 1, 1
	l := build(t, o)
	if err := l.Line("client", "n1", "n2", "n3", "web"); err != nil {
		t.Fatal(err)
	}
	router := received(t, l.plan.Router, "to-client")
	for _, server := range []string{webV4.String(), "[" + webV6.String() + "]"} {
		before := received(t, l.namespaceOf(t, "n2"), "left0")
		if _, _, err := l.Load(t.Context(), "client", "latency", load.Config{URL: "http://" + server, Count: 5}); err != nil {
			t.Fatal(err)
		}
		if got := received(t, l.namespaceOf(t, "n2"), "left0") - before; got < 500 {
			t.Errorf("%d bytes to %s have passed the middle node, want the requests", got, server)
		}
	}
	if got := received(t, l.plan.Router, "to-client") - router; got > 10_000 {
		t.Errorf("%d bytes have passed the router", got)
	}
}

// TestGuest: a program that is not ours runs in a node's namespace until the lab
// ends.
func TestGuest(t *testing.T) {
	o := options(t)
	o.Nodes, o.Exits, o.Hops = 1, 1, 1
	l, err := Build(t.Context(), o, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	down := false
	defer func() {
		if !down {
			_ = l.Down()
		}
	}()
	if err := l.Guest(t.Context(), "guest", "n1", "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	if lives, last := l.Lives("guest"); !lives {
		t.Errorf("the guest does not live: %s", last)
	}
	if err := l.Guest(t.Context(), "guest", "n1", "sleep", "1000"); err == nil {
		t.Error("a second guest of the same name is started")
	}
	p := l.state.Processes["guest"]
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	down = true
	if p.alive() {
		t.Error("the guest outlives the lab")
		_ = p.signal(unix.SIGKILL)
	}
}

func (l *Lab) namespaceOf(t *testing.T, name string) string {
	t.Helper()
	n, err := l.node(name)
	if err != nil {
		t.Fatal(err)
	}
	return n.Namespace
}

// received are the bytes that a device has received.
func received(t *testing.T, namespace, device string) (bytes int64) {
	t.Helper()
	err := netns.Do(namespace, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		for line := range strings.Lines(string(text)) {
			if name, rest, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == device {
				bytes, err = strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
