//go:build linux && netns

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

// harm is done to the circuit that carries a download: hops are its names.
type harm struct {
	name  string
	at    int64 // bytes that have come
	most  time.Duration
	apply func(l *Lab, hops []string) error
}

func killed(hop int) func(*Lab, []string) error {
	return func(l *Lab, hops []string) error { return l.Signal(context.Background(), hops[hop], unix.SIGKILL) }
}

// parted cuts the path between two nodes: packets vanish, nobody is told.
func parted(a, b int) func(*Lab, []string) error {
	return func(l *Lab, hops []string) error {
		path := append([]string{"client"}, hops...)
		return l.SetLink(context.Background(), path[a], path[b], emulate.Shape{Down: true})
	}
}

// TestDownloadSurvives: whatever relay or link fails under a download, it goes on
// after a moment, and the bytes are right.
func TestDownloadSurvives(t *testing.T) {
	const visible, silent = 2 * time.Second, 5 * time.Second
	for _, tt := range []struct {
		name  string
		harms []harm
	}{
		{"relays killed", []harm{{"middle killed", 50e6, visible, killed(1)}, {"guard killed", 150e6, visible, killed(0)}}},
		{"link cut behind the guard", []harm{{"guard and middle parted", 50e6, silent, parted(1, 2)}}},
		{"link cut before the guard", []harm{{"client and guard parted", 50e6, silent, parted(0, 1)}}},
		{"link cut before the exit", []harm{{"middle and exit parted", 50e6, silent, parted(2, 3)}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t)
			o.Nodes, o.Exits = 5, 2
			survive(t, up(t, o), tt.harms)
		})
	}
}

func survive(t *testing.T, l *Lab, harms []harm) {
	const size = 300e6
	n, err := l.node("client")
	if err != nil {
		t.Fatal(err)
	}
	var headers strings.Builder
	cmd := netns.Command(t.Context(), n.Namespace, "/proc/self/exe", load.VerbFetch, fmt.Sprintf("http://%s/bytes/%d", WebName, int64(size)))
	cmd.Stderr = &headers
	body, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sum, total := sha256.New(), int64(0)
	buf := make([]byte, 64<<10)
	last, stall := time.Now(), time.Duration(0)
	var due *harm
	report := func() {
		if due == nil {
			return
		}
		t.Logf("%s: stalled %v", due.name, stall.Round(time.Millisecond))
		if stall > due.most {
			t.Errorf("%s: stalled %v, want at most %v", due.name, stall, due.most)
		}
	}
	for {
		k, err := body.Read(buf)
		_, _ = sum.Write(buf[:k])
		total += int64(k)
		if now := time.Now(); k > 0 {
			stall, last = max(stall, now.Sub(last)), now
		}
		if err != nil {
			if err != io.EOF {
				t.Errorf("after %d bytes: %v", total, err)
			}
			break
		}
		if len(harms) > 0 && total >= harms[0].at {
			report()
			due, harms = &harms[0], harms[1:]
			hops := inUse(t, l)
			last, stall = time.Now(), 0 // the time it takes to harm counts
			if err := due.apply(l, hops); err != nil {
				t.Fatalf("%s: %v", due.name, err)
			}
		}
	}
	report()
	if err := cmd.Wait(); err != nil {
		t.Errorf("fetch: %v: %s", err, headers.String())
	}
	if total != size || !strings.Contains(headers.String(), hex.EncodeToString(sum.Sum(nil))) {
		t.Errorf("%d bytes came with another sum than the server's; want %d", total, int64(size))
	}
}

// inUse gives the hops of the circuit with streams.
func inUse(t *testing.T, l *Lab) []string {
	t.Helper()
	circuits, err := l.Circuits(t.Context(), "client")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range circuits {
		if c.Streams > 0 && c.State == "open" {
			return c.Hops
		}
	}
	t.Fatalf("no circuit is in use: %+v", circuits)
	return nil
}
