//go:build linux && systemd

package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cuttle/internal/capture"
	"cuttle/internal/lab/netns"
)

// The two namespaces, and the wire between them.
const (
	inside  = "cuttle-boot-m" // the machine: made anew for every boot, as a kernel would be
	outside = "cuttle-boot-r" // the router, the relay and what is behind it
	wire    = "phys0"
)

var (
	machineNet = netip.MustParsePrefix("10.66.0.2/24")
	routerNet  = netip.MustParsePrefix("10.66.0.1/24")
	relay      = netip.MustParseAddrPort("10.66.0.1:4000")
	far        = netip.MustParsePrefix("198.51.100.7/32") // behind the router
	served     = netip.AddrPortFrom(far.Addr(), 7777)     // says hello
)

const (
	patience = 5 * time.Minute // for anything, on a slow machine
	step     = 50 * time.Millisecond
)

// secret is in every packet that must not be seen on the wire.
const secret = "CUTTLE-BOOT-PROBE"

// machine is a Debian tree that boots.
type machine struct {
	t      *testing.T
	root   string
	log    string
	tun    string // the device node, as udev makes it: mode 0666
	nspawn *exec.Cmd
	leader int // its first process, as this machine numbers it
	wire   *capture.Capture
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) eventually(what string, holds func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(step) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: not within %v\n%s", what, patience, m.words())
		}
	}
}

// words is what the machine has to say when something failed.
func (m *machine) words() string {
	if m.nspawn == nil {
		b, _ := os.ReadFile(m.log)
		return string(b)
	}
	out, _ := m.try("sh", "-c", "journalctl -b --no-pager -n 60; systemctl status --no-pager cuttled cuttle-guard; nft list ruleset; ip rule; ip addr")
	return out
}

// on switches the machine on: a new kernel's network, a wire to the router that
// is watched from before, and systemd.
func (m *machine) on(allowed ...netip.AddrPort) {
	m.t.Helper()
	m.must(netns.Create(inside))
	m.must(netns.Connect(
		netns.End{Namespace: outside, Interface: wire, Addresses: []netip.Prefix{routerNet}},
		netns.End{Namespace: inside, Interface: wire}))
	// Nobody brings a device up before whoever configures it does.
	m.must(netns.Do(inside, func() error { return exec.Command("ip", "link", "set", wire, "down").Run() }))
	m.watch(allowed...)
	log, err := os.OpenFile(m.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	m.must(err)
	defer log.Close()
	m.nspawn = exec.Command("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe",
		"--network-namespace-path="+netns.Path(inside), "--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--bind="+m.tun+":/dev/net/tun",
		"--machine=boottest", "--resolv-conf=off", "--timezone=off", "--directory="+m.root)
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")
	m.nspawn.Stdout, m.nspawn.Stderr = log, log
	m.must(m.nspawn.Start())
	m.eventually("a first process", func() bool {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.nspawn.Process.Pid))
		_, err := fmt.Sscan(string(children), &m.leader)
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", m.leader))
		return err == nil && string(name) == "systemd\n" // and not what nspawn makes it with
	})
	m.eventually("a started system", func() bool {
		out, _ := m.try("systemctl", "is-system-running")
		out = strings.TrimSpace(out)
		return out == "running" || out == "degraded"
	})
	if out, err := m.try("systemctl", "--failed", "--no-legend", "--plain"); err != nil || out != "" {
		m.t.Errorf("units that failed: %s (%v)\n%s", out, err, m.words())
	}
}

// watch begins to capture.
func (m *machine) watch(allowed ...netip.AddrPort) {
	m.t.Helper()
	s, err := capture.NewScanner(capture.Rules{Peers: allowed, Texts: []capture.Text{{Name: "probe", Bytes: []byte(secret)}}})
	m.must(err)
	m.must(netns.Do(outside, func() (err error) {
		m.wire, err = capture.Start(wire, s)
		return err
	}))
}

// seen ends the capture and gives what was on the wire.
func (m *machine) seen() capture.Report {
	m.t.Helper()
	report, err := m.wire.Stop()
	m.must(err)
	m.wire = nil
	return report
}

// closed wants nothing on the wire but what belongs to the relay, until now, and
// goes on watching.
func (m *machine) closed(when string) {
	m.t.Helper()
	m.judge(when)
	m.watch(relay)
}

func (m *machine) judge(when string) {
	m.t.Helper()
	if r := m.seen(); !r.Clean() || r.Frames == 0 {
		m.t.Errorf("%s: on the wire: %+v\n%s", when, r, m.words())
	}
}

// open wants the probes on the wire: now, and so that a capture without them
// means something.
func (m *machine) open(when string) {
	m.t.Helper()
	m.seen()
	m.eventually(when+": probes on the wire", func() bool {
		m.watch()
		time.Sleep(10 * step)
		return m.seen().Found["probe"] > 0
	})
	m.watch(relay)
}

// off waits for the machine's end after a verb that leads there.
func (m *machine) off(verb ...string) {
	m.t.Helper()
	if len(verb) > 0 {
		_, _ = m.try(verb...) // it may be gone before it answers
	} else {
		m.must(syscall.Kill(m.leader, syscall.SIGKILL)) // the power fails
	}
	done := make(chan struct{})
	go func() { // ends with the process
		_ = m.nspawn.Wait() // 133 for a reboot
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		_ = m.nspawn.Process.Kill()
		<-done
		m.t.Errorf("%v: the machine does not end", verb)
	}
	m.nspawn = nil
}

// unplug removes what the kernel would forget.
func (m *machine) unplug() {
	m.t.Helper()
	m.must(netns.Delete(inside))
	// The wire goes with the namespace, once the kernel gets to it.
	m.eventually("the wire gone", func() bool {
		return netns.Do(outside, func() error {
			_, err := os.Stat("/proc/thread-self/net/dev_snmp6/" + wire)
			return err
		}) != nil
	})
}

// again is a boot after the machine's end.
func (m *machine) again(allowed ...netip.AddrPort) {
	m.t.Helper()
	m.unplug()
	m.on(allowed...)
}

// try runs a program in the machine and gives all that it writes.
func (m *machine) try(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	args := append([]string{"-t", fmt.Sprint(m.leader), "-m", "-u", "-i", "-n", "-p", "--",
		"/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// run is try for what has to go well.
func (m *machine) run(argv ...string) string {
	m.t.Helper()
	out, err := m.try(argv...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s\n%s", strings.Join(argv, " "), err, out, m.words())
	}
	return strings.TrimSpace(out)
}

// write puts a file into the tree.
func (m *machine) write(path, text string) {
	m.t.Helper()
	full := filepath.Join(m.root, path)
	m.must(os.MkdirAll(filepath.Dir(full), 0o755))
	m.must(os.WriteFile(full, []byte(text), 0o644))
}

// copyIn copies a file of this machine into the tree.
func (m *machine) copyIn(from, to string, mode os.FileMode) {
	m.t.Helper()
	b, err := os.ReadFile(from)
	m.must(err)
	full := filepath.Join(m.root, to)
	m.must(os.MkdirAll(filepath.Dir(full), 0o755))
	m.must(os.WriteFile(full, b, mode))
}

// property asks systemd for one property of a unit.
func (m *machine) property(unit, name string) string {
	m.t.Helper()
	return m.run("systemctl", "show", "--value", "-p", name, unit)
}

// end is for the end of the test, however it ends.
func (m *machine) end() {
	if m.nspawn != nil {
		m.off("systemctl", "--no-block", "poweroff")
	}
	if m.wire != nil {
		_, _ = m.wire.Stop()
	}
	if err := errors.Join(netns.Delete(inside), netns.Delete(outside)); err != nil {
		m.t.Error(err)
	}
}
