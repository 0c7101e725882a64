//go:build linux && netns

package leak

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cuttle/internal/control"
	"cuttle/internal/selftest"
	"cuttle/tun/hostnet/hostnettest"
)

// selftest runs the command as a person does.
func (w *world) selftest() (selftest.Report, int) {
	w.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(w.bin, "cuttle"), "-s", w.file("run-client/client.sock"), "selftest", "--json")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		w.t.Fatal(err)
	}
	var r selftest.Report
	if err := json.Unmarshal(out, &r); err != nil {
		w.t.Fatalf("selftest: %v\n%s%s", err, out, stderr.String())
	}
	return r, cmd.ProcessState.ExitCode()
}

// leaked names the rows with a leak, without their device.
func leaked(r selftest.Report) (names []string) {
	for _, row := range r.Rows {
		if row.Result == selftest.Leak {
			names = append(names, strings.TrimSuffix(row.Name, " on phys0"))
		}
	}
	return names
}

func (w *world) wantLeaks(what string, past, held []string) {
	w.t.Helper()
	r, code := w.selftest()
	names := leaked(r)
	w.t.Logf("%s: %s %q", what, r.Verdict, names)
	if r.Result != selftest.Leak || code != 5 || !strings.HasPrefix(r.Verdict, "THIS MACHINE LEAKS") {
		w.t.Errorf("%s: result %q, exit code %d, %q", what, r.Result, code, r.Verdict)
	}
	for _, n := range past {
		if !slices.Contains(names, n) {
			w.t.Errorf("%s: %q is not among the leaks", what, n)
		}
	}
	for _, n := range held {
		if slices.Contains(names, n) {
			w.t.Errorf("%s: %q is among the leaks", what, n)
		}
	}
}

// TestSelftest: the command's verdict is good while all is in force, and names
// what gets past when a layer is taken away under a daemon that cannot mend it.
func TestSelftest(t *testing.T) {
	w := newWorld(t)
	w.outside.In(t, func() error { // the exit's own way to the internet, by which it knows its address
		link, err := netlink.LinkByName("out0")
		if err != nil {
			return err
		}
		_, dst, err := net.ParseCIDR("198.41.0.0/24")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: link.Attrs().Index, Src: net.ParseIP(hostnettest.Far4), Scope: unix.RT_SCOPE_LINK})
	})
	w.start()
	w.wantLeaks("off", []string{"UDP over IPv4", "TCP over IPv4", "frame over IPv6", "DNS to the router over IPv4", "frame past the queue", "broadcast"}, nil)

	w.up()
	w.await(control.StateUp)
	r, code := w.selftest()
	if r.Result != selftest.Good || code != 0 || !strings.Contains(r.Verdict, "Destinations see "+hostnettest.Far4) || !slices.Contains(r.Devices, "phys0") {
		t.Errorf("up: %q, exit code %d, devices %q: %s", r.Result, code, r.Devices, r.Verdict)
		for _, row := range r.Rows {
			if row.Result != selftest.Good {
				t.Logf("%+v", row)
			}
		}
	}
	t.Logf("up: %d rows: %s", len(r.Rows), r.Verdict)

	w.must(w.daemon.Process.Signal(syscall.SIGSTOP))
	w.flush(nftables.TableFamilyNetdev)
	w.wantLeaks("without the egress chain", []string{"frame over IPv4", "frame over IPv6", "frame that claims to be ARP", "frame past the queue"}, []string{"UDP over IPv4", "UDP over IPv4 by device"})
	w.flush(nftables.TableFamilyINet)
	w.wantLeaks("without any filter", []string{"UDP over IPv4 by device", "UDP over IPv4 by control message", "DNS by device to the router over IPv4", "broadcast"}, []string{"UDP over IPv4"})
	w.deleteRules()
	w.wantLeaks("without filter and rules", []string{"UDP over IPv4", "ping over IPv4", "DNS to the router over IPv4", "DNS by TCP to the router over IPv4"}, nil)
	w.must(w.daemon.Process.Signal(syscall.SIGCONT))
	w.await(control.StateUp)
	w.eventually("the mended machine", func() bool {
		r, code := w.selftest()
		return r.Result == selftest.Good && code == 0
	})
	w.down()
	w.await(control.StateOff)
}

// flush deletes our table of a family, as another program might.
func (w *world) flush(family nftables.TableFamily) {
	w.t.Helper()
	var c nftables.Conn
	c.DelTable(&nftables.Table{Name: "cuttle", Family: family})
	w.must(c.Flush())
}

// deleteRules takes away the routing.
func (w *world) deleteRules() {
	w.t.Helper()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		w.must(err)
		for _, r := range rules {
			if r.Priority >= 5000 && r.Priority < 6000 {
				w.must(netlink.RuleDel(&r))
			}
		}
	}
}
