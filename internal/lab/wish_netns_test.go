//go:build linux && netns

package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cuttle/internal/control"
	"cuttle/internal/lab/netns"
)

// TestUpWaitSaysNoExit: `cuttle up --wait` with exits that are not there ends soon,
// with an error that says so, and leaves the machine captured and closed.
func TestUpWaitSaysNoExit(t *testing.T) {
	l := up(t, options(t))
	n, err := l.node("client")
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Control("client")
	if err != nil {
		t.Fatal(err)
	}
	cuttle := func(args ...string) (code int, said string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, filepath.Join(l.opts.Bin, "cuttle"), append([]string{"-s", l.opts.fileOf("client", controlSocket)}, args...)...).CombinedOutput()
		var ended *exec.ExitError
		if errors.As(err, &ended) && ctx.Err() == nil {
			return ended.ExitCode(), string(out)
		}
		if err != nil {
			t.Fatalf("cuttle %q: %v, %s", args, err, out)
		}
		return 0, string(out)
	}
	for _, from := range []string{"up", "off"} {
		if from == "off" {
			if code, said := cuttle("down"); code != 0 {
				t.Fatalf("down: code %d, %s", code, said)
			}
		}
		begun := time.Now()
		code, said := cuttle("up", "--wait", "--exit", "ZZ")
		if took := time.Since(begun); code != 5 || took > 20*time.Second || !strings.Contains(said, "no exit matches: wanted ZZ") || !strings.Contains(said, "there are exits ") {
			t.Errorf("from %s: code %d after %v, %q; want 5 soon, and which exits there are", from, code, took, said)
		}
		st, err := c.Status(t.Context())
		if err != nil || st.State != control.StateConnecting || st.TUN == "" {
			t.Errorf("from %s: then the node is %+v, %v; want it captured", from, st, err)
		}
		if err := netns.Do(n.Namespace, func() error {
			conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(t.Context(), "tcp", netip.AddrPortFrom(webV4, 80).String())
			if err == nil {
				_ = conn.Close()
				return errors.New("it is connected")
			}
			return nil
		}); err != nil {
			t.Errorf("from %s: then a program asks the web server: %v", from, err)
		}
		if code, said := cuttle("up", "--wait", "--exit", "any"); code != 0 {
			t.Errorf("from %s: any exit after that: code %d, %s", from, code, said)
		}
	}
}
