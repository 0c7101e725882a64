//go:build linux && systemd

package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cuttle/internal/control"
	"cuttle/internal/lab/netns"
)

// The words by which this program, started again, knows what it is.
const (
	probeVerb = "_probe" // sends what must not get out, all the time
	dialVerb  = "_dial"  // connects once, as any program would
)

func TestMain(m *testing.M) {
	if done, err := netns.Inside(os.Args); done {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if len(os.Args) > 1 && os.Args[1] == probeVerb {
		probe()
	}
	if len(os.Args) > 2 && os.Args[1] == dialVerb {
		os.Exit(dial(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// probe sends a packet by the routes and one by the device, each 20 ms, to an
// address, a name server and the local network.
func probe() {
	for ; ; time.Sleep(20 * time.Millisecond) {
		for _, to := range []string{far.Addr().String() + ":9", "9.9.9.9:53", routerNet.Addr().String() + ":53"} {
			for _, bound := range []bool{false, true} {
				d := net.Dialer{}
				if bound {
					d.Control = toDevice
				}
				c, err := d.Dial("udp", to)
				if err != nil {
					continue
				}
				_, _ = c.Write([]byte(secret))
				_ = c.Close()
			}
		}
	}
}

func toDevice(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), wire) }); err != nil {
		return err
	}
	return failed
}

func dial(to string) int {
	c, err := net.DialTimeout("tcp", to, time.Minute)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	b, err := io.ReadAll(io.LimitReader(c, 5))
	fmt.Printf("%s", b)
	if err != nil || string(b) != "hello" {
		return 1
	}
	return 0
}

// need gives an environment variable that the Makefile sets.
func need(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: run make test-systemd", name)
	}
	return v
}

// newMachine unpacks the tree, and starts the router with a relay that is the exit.
func newMachine(t *testing.T) (m *machine, config string) {
	t.Helper()
	dir := t.TempDir()
	m = &machine{t: t, root: filepath.Join(dir, "root"), log: filepath.Join(dir, "console.log"), tun: filepath.Join(dir, "tun")}
	m.must(unix.Mknod(m.tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
	m.must(os.Chmod(m.tun, 0o666))
	m.must(os.Mkdir(m.root, 0o755))
	if out, err := exec.Command("tar", "-C", m.root, "-xf", need(t, "CUTTLE_TREE")).CombinedOutput(); err != nil {
		t.Fatalf("unpack the tree: %v\n%s", err, out)
	}
	for _, name := range []string{inside, outside} {
		_ = netns.Delete(name) // what an interrupted run has left
	}
	m.must(netns.Create(outside))
	t.Cleanup(m.end)
	m.must(netns.Do(outside, func() error {
		return exec.Command("ip", "address", "add", far.String(), "dev", "lo").Run()
	}))
	m.must(os.MkdirAll(filepath.Join(m.root, "etc/systemd/network"), 0o755))
	m.write("etc/systemd/network/50-wire.network", fmt.Sprintf("[Match]\nName=%s\n[Network]\nAddress=%s\nGateway=%s\nLinkLocalAddressing=ipv6\n", wire, machineNet, routerNet.Addr()))
	m.write("etc/resolv.conf", "# The operator's own.\nnameserver 9.9.9.9\n")
	m.write("etc/hostname", "boottest\n")
	self, err := os.Executable()
	m.must(err)
	m.copyIn(self, "usr/local/bin/boottest", 0o755)
	m.write("etc/systemd/system/probe.service", "[Unit]\nDefaultDependencies=no\nBefore=network-pre.target\n[Service]\nExecStart=/usr/local/bin/boottest "+probeVerb+
		"\nRestart=always\nRestartSec=0\nIgnoreOnIsolate=yes\n[Install]\nWantedBy=sysinit.target\n")
	for unit, target := range map[string]string{"probe.service": "sysinit.target.wants", "/lib/systemd/system/systemd-networkd.service": "multi-user.target.wants"} {
		wants := filepath.Join(m.root, "etc/systemd/system", target)
		m.must(os.MkdirAll(wants, 0o755))
		path := unit
		if !filepath.IsAbs(unit) {
			path = "/etc/systemd/system/" + unit
		}
		m.must(os.Symlink(path, filepath.Join(wants, filepath.Base(unit))))
	}
	return m, m.startRelay(filepath.Join(dir, "relay"))
}

// startRelay runs a relay and what is behind it on the router, and gives the
// configuration of a client whose only hop it is.
func (m *machine) startRelay(dir string) string {
	m.t.Helper()
	cuttled := filepath.Join(need(m.t, "CUTTLE_BIN"), "cuttled")
	m.must(os.Mkdir(dir, 0o700))
	text := func(args ...string) string {
		out, err := exec.Command(cuttled, args...).Output()
		m.must(err)
		return strings.TrimSpace(string(out))
	}
	file := filepath.Join(dir, "relay.toml")
	id := text("identity", "-state", filepath.Join(dir, "state"))
	conf := fmt.Sprintf("[node]\nstate = %q\ncontrol = %q\nmap = %q\nrelay = true\nexit = true\naccept_clients = true\n"+
		"[[listen]]\nmask = \"plain\"\naddress = %q\n[exit]\nallow = [\"%s\"]\nresolver = \"127.0.0.1:53\"\n",
		filepath.Join(dir, "state"), filepath.Join(dir, "run/control.sock"), filepath.Join(dir, "map"), "0.0.0.0:4000", far)
	m.must(os.WriteFile(filepath.Join(dir, "map"), nil, 0o600))
	m.must(os.WriteFile(file, []byte(conf), 0o600))
	record := text("record", "-config", file)
	m.must(os.WriteFile(filepath.Join(dir, "map"), []byte(record+"\n"), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	m.must(err)
	cmd := netns.Command(m.t.Context(), outside, cuttled, "-config", file)
	cmd.Stdout, cmd.Stderr = log, log
	m.must(errors.Join(cmd.Start(), log.Close()))
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b, err := os.ReadFile(filepath.Join(dir, "log")); m.t.Failed() && err == nil {
			m.t.Logf("the relay says:\n%s", b)
		}
	})
	m.serve()
	m.write("etc/cuttle-map", record+"\n") // where dpkg does not look
	return fmt.Sprintf("[node]\nmap = \"/etc/cuttle-map\"\ncontrol_group = \"cuttle-admin\"\n[[neighbor]]\ndescriptor = \"cuttle://%s@%s?mask=plain\"\n[client]\nenabled = true\nhops = 1\npool = 1\n", id, relay)
}

func (m *machine) serve() {
	m.t.Helper()
	var l net.Listener
	m.must(netns.Do(outside, func() (err error) {
		l, err = net.Listen("tcp", served.String())
		return err
	}))
	done := make(chan struct{})
	go func() { // ends when l is closed
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	m.t.Cleanup(func() { _ = l.Close(); <-done })
}

func (m *machine) status() (s control.Status) {
	out, _ := m.try("cuttle", "status", "--json")
	_ = json.Unmarshal([]byte(out), &s) // not running: the zero status
	return s
}

// carries waits for the tunnel and sends something through it.
func (m *machine) carries(when string) {
	m.t.Helper()
	m.eventually(when+": state up", func() bool { return m.status().State == control.StateUp })
	if out := m.run("/usr/local/bin/boottest", dialVerb, served.String()); out != "hello" {
		m.t.Errorf("%s: through the tunnel came %q", when, out)
	}
}

// restarts waits until systemd has started the daemon once more.
func (m *machine) restarts(when string, before int) {
	m.t.Helper()
	m.eventually(when+": the daemon started again", func() bool {
		n, _ := strconv.Atoi(m.property("cuttled", "NRestarts"))
		return n > before && m.property("cuttled", "ActiveState") == "active"
	})
}

func (m *machine) restarted() int {
	n, err := strconv.Atoi(m.property("cuttled", "NRestarts"))
	m.must(err)
	return n
}

func (m *machine) daemon() int {
	pid, err := strconv.Atoi(m.property("cuttled", "MainPID"))
	m.must(err)
	return pid
}

func (m *machine) tunIndex() string { return m.run("cat", "/sys/class/net/cuttle0/ifindex") }

// snapshot is what a package must leave as it was: files with their owners,
// users, rules.
func (m *machine) snapshot() map[string]string {
	m.t.Helper()
	all := make(map[string]string)
	for _, dir := range []string{"etc", "usr", "var/lib", "run/systemd/system", "opt", "root"} {
		m.must(filepath.WalkDir(filepath.Join(m.root, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, m.root)
			if slices.ContainsFunc([]string{"/var/lib/dpkg", "/var/lib/systemd", "/etc/machine-id", "/etc/.pwd.lock"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			what := info.Mode().String()
			if info.Mode().IsRegular() && strings.HasPrefix(name, "/etc") && !strings.HasSuffix(name, "-") {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				what += " " + string(b)
			}
			if !strings.HasSuffix(name, "-") { // passwd-, group-: what was before the last change
				all[name] = what
			}
			return nil
		}))
	}
	all["nft"] = m.run("nft", "list", "ruleset")
	all["rules"] = m.run("sh", "-c", "ip rule; ip -6 rule; ip route show table all type unreachable")
	all["sysctls"] = m.run("sh", "-c", "cd /proc/sys/net; cat ipv4/conf/all/rp_filter ipv4/conf/all/arp_ignore ipv6/conf/all/disable_ipv6")
	all["units"] = m.run("sh", "-c", "systemctl list-unit-files --no-legend --plain | grep -i cuttle || true")
	return all
}
