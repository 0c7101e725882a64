//go:build linux && netns

package hostnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cuttle/tun"
	"cuttle/tun/hostnet/hostnettest"
)

// dump writes down everything that a plan may change.
func dump(t *testing.T, resolver string) string {
	t.Helper()
	var b strings.Builder
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			fmt.Fprintf(&b, "rule %d %+v\n", family, r)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			fmt.Fprintf(&b, "route %d table %d type %d metric %d: %v\n", family, r.Table, r.Type, r.Priority, r)
		}
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev} {
		list, err := listTable(family)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(list)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "link %s mtu %d up %v: %v\n", l.Attrs().Name, l.Attrs().MTU, l.Attrs().Flags&net.FlagUp != 0, addresses)
	}
	for _, pattern := range []string{"net/ipv4/conf/*/*", "net/ipv6/conf/*/*"} {
		files, err := filepath.Glob(filepath.Join(sysctlRoot, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			// These two the kernel chooses itself when a TUN comes up first.
			chosen := strings.HasSuffix(f, "/cuttle0/addr_gen_mode") || strings.HasSuffix(f, "/cuttle0/stable_secret")
			if v, err := os.ReadFile(f); err == nil && !chosen {
				fmt.Fprintf(&b, "%s = %s", f, v)
			}
		}
	}
	if resolver != "" {
		fmt.Fprintf(&b, "resolver: %s\n", describe(t, resolver))
	}
	return b.String()
}

// difference shows the lines that only one of two dumps has.
func difference(a, b string) string {
	var out strings.Builder
	for sign, pair := range map[string][2]string{"-": {a, b}, "+": {b, a}} {
		for line := range strings.Lines(pair[0]) {
			if !strings.Contains(pair[1], line) {
				out.WriteString(sign + line)
			}
		}
	}
	return out.String()
}

func planFor(t *testing.T, cfg Config) Plan {
	t.Helper()
	host, err := Inspect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(cfg, host)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func openTUN(t *testing.T) tun.Device {
	t.Helper()
	d, err := tun.Open("cuttle0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func strict(t *testing.T, value string) {
	t.Helper()
	for _, name := range []string{"all", "phys0"} {
		if err := writeSysctl("net/ipv4/conf/"+name+"/rp_filter", value); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRevertIsExact compares all there is before and after, for each form that
// the resolver file takes.
func TestRevertIsExact(t *testing.T) {
	hostnettest.NewOutside(t)
	strict(t, "1")
	defer strict(t, "0")
	openTUN(t)
	for _, form := range []string{"file", "link", "mount", "nothing"} {
		t.Run(form, func(t *testing.T) {
			resolver := makeResolver(t, form)
			before := dump(t, resolver)
			p := planFor(t, Config{Device: "cuttle0", MTU: 9000, ResolvConf: resolver})
			state := t.TempDir()
			for range 2 { // a second time over a rule that is there already
				leaveRule(t, p)
				a, err := Apply(state, p)
				if err != nil {
					t.Fatal(err)
				}
				if dump(t, resolver) == before {
					t.Fatal("plan changed nothing")
				}
				if b, err := os.ReadFile(resolver); err != nil || !strings.Contains(string(b), "nameserver 10.255.255.53\n") {
					t.Fatalf("resolver file is %q (%v)", b, err)
				}
				if err := a.Revert(); err != nil {
					t.Fatal(err)
				}
				if d := difference(before, dump(t, resolver)); d != "" {
					t.Fatalf("host differs after revert:\n%s", d)
				}
			}
		})
	}
}

// leaveRule leaves a rule of p behind, as a process without a journal would.
func leaveRule(t *testing.T, p Plan) {
	t.Helper()
	for _, s := range p.Steps {
		if s.Kind == Rule && s.Family == 4 {
			if err := netlink.RuleAdd(rule(s)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func makeResolver(t *testing.T, form string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	const content = "nameserver 192.0.2.53\noptions edns0\n"
	var err error
	switch form {
	case "file":
		err = os.WriteFile(path, []byte(content), 0o640)
	case "link":
		err = os.Symlink("../run/stub.conf", path)
	case "mount":
		source := filepath.Join(dir, "source")
		err = errors.Join(os.WriteFile(source, []byte(content), 0o644), os.WriteFile(path, nil, 0o644),
			unix.Mount(source, path, "", unix.MS_BIND, ""))
		t.Cleanup(func() {
			if err := unix.Unmount(path, 0); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// echo listens and echoes until the end of the test.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends when l is closed
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

func exchange(c net.Conn) error {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	b := make([]byte, 4)
	_, err := io.ReadFull(c, b)
	return err
}

// TestMarkedSockets checks that our own links work both ways while everything
// else goes into the TUN, also with the strict filter of reverse paths.
func TestMarkedSockets(t *testing.T) {
	o := hostnettest.NewOutside(t)
	for i, filter := range []string{"0", "1", "2"} {
		strict(t, filter)
		openedTUN := openTUN(t)
		a, err := Apply(t.TempDir(), planFor(t, Config{Device: "cuttle0", Listen: listenPorts}))
		if err != nil {
			t.Fatal(err)
		}
		for j, addr := range [][2]string{{hostnettest.Near4, hostnettest.Far4}, {hostnettest.Near6, hostnettest.Far6}} {
			markedOut(t, o, filter, addr[1])
			markedIn(t, o, filter, addr[0], addr[1], fmt.Sprint(listenPorts[2*i+j]))
		}
		// The machine's own addresses and loopback stay reachable, unmarked.
		for _, own := range []string{"127.0.0.1", "::1", hostnettest.Near4, hostnettest.Near6} {
			l, err := net.Listen("tcp", net.JoinHostPort(own, "0"))
			if err != nil {
				t.Fatal(err)
			}
			echo(t, l)
			c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
			if err == nil {
				err = exchange(c)
			}
			if err != nil {
				t.Errorf("own address %s: %v", own, err)
			}
		}
		if err := a.Revert(); err != nil {
			t.Fatal(err)
		}
		_ = openedTUN.Close()
	}
	strict(t, "0")
}

// markedOut connects to the outside with and without the mark.
func markedOut(t *testing.T, o hostnettest.Outside, filter, far string) {
	t.Helper()
	var l net.Listener
	o.In(t, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(far, "0"))
		return err
	})
	echo(t, l)
	c, err := (&net.Dialer{Control: Control(DefaultMark), Timeout: 5 * time.Second}).Dial("tcp", l.Addr().String())
	if err == nil {
		err = exchange(c)
	}
	if err != nil {
		t.Errorf("marked connection to %s with rp_filter %s: %v", far, filter, err)
	}
	// Nobody reads the TUN here, so an unmarked one must hang.
	if c, err := net.DialTimeout("tcp", l.Addr().String(), 200*time.Millisecond); err == nil {
		_ = c.Close()
		t.Errorf("an unmarked connection to %s went past the TUN", far)
	}
}

// listenPorts are for the listeners of markedIn, one each: those of both
// families for each filter of reverse paths.
var listenPorts = []uint16{4430, 4431, 4432, 4433, 4434, 4435}

// markedIn accepts a connection from the outside.
func markedIn(t *testing.T, o hostnettest.Outside, filter, near, far, port string) {
	t.Helper()
	l, err := (&net.ListenConfig{Control: Control(DefaultMark)}).Listen(context.Background(), "tcp", net.JoinHostPort(near, port))
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	var c net.Conn
	o.In(t, func() error {
		// From an address that only our default route reaches.
		c, err = (&net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(far)}}).Dial("tcp", l.Addr().String())
		return nil
	})
	if err == nil {
		err = exchange(c)
	}
	if err != nil {
		t.Errorf("connection from %s to a marked listener with rp_filter %s: %v", far, filter, err)
	}
}

const childState = "CUTTLE_TEST_CHILD_STATE"

// holdPlan is what the child of TestRecoverAfterKill does: it applies a plan and
// waits to be killed.
func holdPlan(state string) error {
	d, err := tun.Open("cuttle0", 1500)
	if err != nil {
		return err
	}
	defer d.Close()
	cfg := Config{Device: "cuttle0", ResolvConf: filepath.Join(state, "resolv.conf")}
	host, err := Inspect(cfg)
	if err != nil {
		return err
	}
	p, err := NewPlan(cfg, host)
	if err != nil {
		return err
	}
	if _, err := Apply(state, p); err != nil {
		return err
	}
	fmt.Println("applied")
	_, err = io.ReadAll(os.Stdin)
	return err
}

func TestRecoverAfterKill(t *testing.T) {
	hostnettest.NewOutside(t)
	strict(t, "1")
	defer strict(t, "0")
	state := t.TempDir()
	resolver := filepath.Join(state, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := dump(t, resolver)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childState+"="+state)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said += lines.Text() + "\n"
		if lines.Text() == "applied" {
			break
		}
	}
	if _, err := Recover(state); err == nil {
		t.Error("recovered the plan of a process that is alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if !strings.HasSuffix(said, "applied\n") {
		t.Fatalf("child said %q, want that it has applied its plan", said)
	}
	if dump(t, resolver) == before {
		t.Fatal("nothing was left behind: the test shows nothing")
	}
	// The TUN has gone with the process; nothing may leave by the main table.
	for _, far := range []string{hostnettest.Far4, hostnettest.Far6} {
		if c, err := net.DialTimeout("udp", net.JoinHostPort(far, "9"), time.Second); err == nil {
			_ = c.Close()
			t.Errorf("a way to %s is open after the kill, want unreachable", far)
		}
	}
	if list, err := listTable(nftables.TableFamilyNetdev); err != nil || !strings.Contains(list, egressChain("phys0")) {
		t.Errorf("rules of devices after the kill are %q (%v), want some for phys0", list, err)
	}
	found, err := Recover(state)
	if err != nil || !found {
		t.Fatalf("recover: %v, %v; want that something was found", found, err)
	}
	if d := difference(before, dump(t, resolver)); d != "" {
		t.Fatalf("host differs after recovery:\n%s", d)
	}
}

// TestIPv6TurnedOff keeps IPv6 in although the administrator has turned it off.
func TestIPv6TurnedOff(t *testing.T) {
	hostnettest.NewOutside(t)
	if err := writeSysctl("net/ipv6/conf/all/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := writeSysctl("net/ipv6/conf/all/disable_ipv6", "0"); err != nil {
			t.Error(err)
		}
	}()
	openTUN(t)
	before := dump(t, "")
	a, err := Apply(t.TempDir(), planFor(t, Config{Device: "cuttle0"}))
	if err != nil {
		t.Fatal(err)
	}
	if rules, err := netlink.RuleList(netlink.FAMILY_V6); err != nil || len(rules) != 3 {
		t.Errorf("%d rules of IPv6 (%v), want 3", len(rules), err)
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	if d := difference(before, dump(t, "")); d != "" {
		t.Fatalf("host differs after revert:\n%s", d)
	}
}

// TestForwardingComesBack wants forwarding of IPv6 put back interface by interface
// when a kernel knows no other way than to let all forward.
func TestForwardingComesBack(t *testing.T) {
	hostnettest.NewOutside(t)
	openTUN(t)
	for name, value := range map[string]string{"phys0": "1", "lo": "0"} {
		if err := writeSysctl("net/ipv6/conf/"+name+"/forwarding", value); err != nil {
			t.Fatal(err)
		}
	}
	before := dump(t, "")
	cfg := Config{Device: "cuttle0", Router: &Router{Device: "phys0", Addresses: []netip.Prefix{netip.MustParsePrefix("fd77:1:2:3::1/64"), netip.MustParsePrefix("192.168.77.1/24")}}}
	host, err := Inspect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	host.ForceForwarding = false
	p, err := NewPlan(cfg, host)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Apply(t.TempDir(), p)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := readSysctl("net/ipv6/conf/lo/forwarding"); err != nil || v != "1" {
		t.Fatalf("forwarding of all does not reach the others (%q, %v), so the test shows nothing", v, err)
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	if d := difference(before, dump(t, "")); d != "" {
		t.Fatalf("host differs after revert:\n%s", d)
	}
}
