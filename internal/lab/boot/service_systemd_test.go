//go:build linux && systemd

package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestService is the life of an installed Cuttle, in order, on one machine.
func TestService(t *testing.T) {
	m, config := newMachine(t)
	m.on()
	m.open("before anything is installed")
	before := m.snapshot()

	m.copyIn(need(t, "CUTTLE_DEB"), "opt/cuttle.deb", 0o644)
	m.copyIn(need(t, "CUTTLE_DEB_NEXT"), "opt/next.deb", 0o644)
	m.install("/opt/cuttle.deb")
	m.installed()
	m.open("installed")

	m.write("etc/cuttle/cuttled.toml", config)
	m.run("systemctl", "enable", "cuttled")
	m.open("enabled, not started")
	m.off("systemctl", "--no-block", "reboot")
	m.seen()
	m.again(relay)
	m.carries("booted")
	m.closed("from power-on until up")
	m.sandboxed()

	m.survives()
	m.guarded()
	m.upgraded()
	m.credential(config)
	m.routed()
	m.released()

	m.run("dpkg", "--purge", "cuttle")
	m.same(before)
	m.open("purged")
}

func (m *machine) install(deb string) {
	m.t.Helper()
	m.run("dpkg", "--force-confdef", "--force-confold", "-i", deb)
}

// installed looks at what the package has done, and not done.
func (m *machine) installed() {
	m.t.Helper()
	for unit, want := range map[string]string{"cuttled.service": "disabled", "cuttle-guard.service": "enabled", "cuttle-resolver.socket": "enabled"} {
		if got, _ := m.try("systemctl", "is-enabled", unit); strings.TrimSpace(got) != want {
			m.t.Errorf("%s is %s after the installation, want %s", unit, got, want)
		}
	}
	if got := m.property("cuttled", "ActiveState"); got != "inactive" {
		m.t.Errorf("the daemon is %s after the installation", got)
	}
	for path, want := range map[string]string{"/etc/cuttle": "750 root cuttle", "/etc/cuttle/cuttled.toml": "640 root cuttle", "/var/lib/cuttle": "700 cuttle cuttle"} {
		if got := m.run("stat", "-c", "%a %U %G", path); got != want {
			m.t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for _, path := range []string{"/usr/share/man/man1/cuttle.1.gz", "/usr/share/man/man8/cuttled.8.gz", "/usr/share/man/man5/cuttled.toml.5.gz",
		"/usr/share/bash-completion/completions/cuttle", "/usr/share/polkit-1/rules.d/50-cuttle.rules", "/usr/lib/systemd/networkd.conf.d/10-cuttle.conf"} {
		if out, err := m.try("test", "-s", path); err != nil {
			m.t.Errorf("the package lacks %s: %v %s", path, err, out)
		}
	}
	m.run("sh", "-c", "systemd-analyze verify /usr/lib/systemd/system/cuttled.service 2>&1 | grep -v 'man ' | grep -i cuttle && exit 1 || true")
	m.run("runuser", "-u", "cuttle", "--", "cuttled", "check", "-config", "/etc/cuttle/cuttled.toml")
}

// sandboxed looks at what the daemon may do.
func (m *machine) sandboxed() {
	m.t.Helper()
	// Tenths: 21 is an exposure of 2.1.
	for _, unit := range []string{"cuttled.service", "cuttle-guard.service", "cuttle-resolver@.service"} {
		out, err := m.try("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=21", "/usr/lib/systemd/system/"+unit)
		if err != nil {
			m.t.Errorf("%s is exposed by more than 2.1: %v\n%s", unit, err, out)
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		m.t.Log(lines[len(lines)-1])
	}
	process := m.run("cat", fmt.Sprintf("/proc/%d/status", m.daemon()))
	for _, want := range []string{"CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1", "Seccomp:\t2"} { // CAP_NET_ADMIN is 12
		if !strings.Contains(process, want) {
			m.t.Errorf("the daemon's process lacks %q:\n%s", want, process)
		}
	}
	if got := m.run("stat", "-c", "%U", fmt.Sprintf("/proc/%d", m.daemon())); got != "cuttle" {
		m.t.Errorf("the daemon runs as %s", got)
	}
	if got := m.run("cat", "/etc/resolv.conf"); !strings.Contains(got, "Written by cuttled") {
		m.t.Errorf("/etc/resolv.conf, by the deputy: %s", got)
	}
	m.eventually("the status line", func() bool { return m.property("cuttled", "StatusText") == "client: up" })
	if out, err := m.try("runuser", "-u", "nobody", "--", "cuttle", "status"); err == nil || !strings.Contains(out, "cuttle:") {
		m.t.Errorf("nobody may ask: %s (%v)", out, err)
	}
}

// survives kills, hangs and restarts the daemon, and disturbs it.
func (m *machine) survives() {
	m.t.Helper()
	index, restarts := m.tunIndex(), m.restarted()
	m.run("sh", "-c", fmt.Sprint("kill -KILL ", m.daemon()))
	m.restarts("killed", restarts)
	m.carries("killed")
	m.closed("killed")
	if got := m.tunIndex(); got != index {
		m.t.Errorf("the TUN is interface %s after a kill, want %s: it was not kept", got, index)
	}

	m.run("sh", "-c", "mkdir -p /run/systemd/system/cuttled.service.d; printf '[Service]\\nWatchdogSec=20\\n' > /run/systemd/system/cuttled.service.d/watchdog.conf; systemctl daemon-reload")
	m.run("systemctl", "restart", "cuttled")
	m.carries("restarted")
	m.closed("restarted")
	restarts = m.restarted()
	m.run("sh", "-c", fmt.Sprint("kill -STOP ", m.daemon()))
	m.restarts("stopped", restarts)
	m.carries("stopped")
	m.closed("stopped")
	if out := m.run("journalctl", "-b", "--no-pager", "-u", "cuttled"); !strings.Contains(out, "Watchdog timeout") {
		m.t.Errorf("no watchdog in the journal:\n%s", out)
	}
	m.run("sh", "-c", "rm -r /run/systemd/system/cuttled.service.d; systemctl daemon-reload")

	rules := m.run("ip", "rule")
	m.run("systemctl", "restart", "systemd-networkd")
	m.carries("networkd restarted")
	if got := m.run("ip", "rule"); got != rules {
		m.t.Errorf("rules after networkd's restart:\n%s\nwant\n%s", got, rules)
	}
	m.closed("networkd restarted")
}

// guarded is about boots without a daemon.
func (m *machine) guarded() {
	m.t.Helper()
	m.off() // the power fails while it is up
	m.judge("power cut")
	m.again(relay)
	m.carries("booted after a power cut")
	m.closed("booted after a power cut")

	m.off("systemctl", "--no-block", "reboot")
	m.judge("shut down")
	m.again(relay)
	m.carries("booted again")

	m.run("cuttle", "lock", "on")
	m.run("cuttle", "down")
	m.run("systemctl", "disable", "--now", "cuttled")
	m.closed("down, locked, disabled")
	m.off("systemctl", "--no-block", "reboot")
	m.seen()
	m.again(relay)
	if r := m.seen(); len(r.Found) != 0 || r.Foreign != 0 {
		m.t.Errorf("booted locked, without the daemon: %+v", r)
	}
	m.watch()
	m.run("cuttled", "release", "-config", "/etc/cuttle/cuttled.toml")
	m.run("chown", "-R", "cuttle:cuttle", "/var/lib/cuttle")
	m.open("released")
	m.run("systemctl", "enable", "--now", "cuttled")
	m.carries("enabled again")
	m.seen()
	m.watch(relay)
}

// upgraded installs the next version over the daemon that runs.
func (m *machine) upgraded() {
	m.t.Helper()
	m.run("sh", "-c", "echo '# mine' >> /etc/cuttle/cuttled.toml")
	pid := m.daemon()
	m.install("/opt/next.deb")
	m.carries("upgraded")
	m.closed("upgraded")
	if m.daemon() == pid {
		m.t.Error("the daemon of the old version still runs")
	}
	if got := m.run("tail", "-n", "1", "/etc/cuttle/cuttled.toml"); got != "# mine" {
		m.t.Errorf("the configuration ends in %q after an upgrade", got)
	}
	if got := m.run("stat", "-c", "%a %U %G", "/etc/cuttle/cuttled.toml"); got != "640 root cuttle" {
		m.t.Errorf("the configuration belongs to %s after an upgrade", got)
	}
}

// credential runs a daemon whose wallet opens with a credential only root can read.
func (m *machine) credential(config string) {
	m.t.Helper()
	m.run("sh", "-c", "umask 077; echo correct horse > /etc/cuttle/wallet-password; cuttled wallet -light -out /etc/cuttle/consuming.json -password-file /etc/cuttle/wallet-password; chown cuttle: /etc/cuttle/consuming.json")
	paid := config + "[billing]\nmode = \"paid\"\nrpc = [\"http://127.0.0.1:9\"]\nearning = \"0x00000000000000000000000000000000000000AA\"\n" +
		"consuming = \"/etc/cuttle/consuming.json\"\npassword_file = \"credential:wallet-password\"\n"
	m.write("etc/cuttle/cuttled.toml", paid)
	m.run("systemctl", "restart", "cuttled")
	if out, err := m.try("runuser", "-u", "cuttle", "--", "cat", "/etc/cuttle/wallet-password"); err == nil {
		m.t.Errorf("the daemon's user can read the password's file: %s", out)
	}
	if out := m.run("cuttle", "ledger"); !strings.Contains(strings.ToLower(out), "consuming") {
		m.t.Errorf("the ledger shows no wallet:\n%s", out)
	}
	m.run("rm", "/etc/cuttle/wallet-password", "/etc/cuttle/consuming.json")
	m.write("etc/cuttle/cuttled.toml", config)
	m.run("systemctl", "restart", "cuttled")
	m.carries("unpaid again")
	m.closed("with a wallet")
}

// advertises finds the socket of router advertisements in what ss prints.
var advertises = regexp.MustCompile(`\[fe80:[^\]]*\](%lan0)?:(58|ipv6-icmp)`)

// routed has the machine serve a network, which takes two capabilities more than it has.
func (m *machine) routed() {
	m.t.Helper()
	m.run("sh", "-c", "ip link add lan0 type veth peer name lan1; ip link set lan1 up")
	if out, err := m.try("cuttle", "router", "up", "--lan", "lan0"); err == nil || !strings.Contains(out, "CAP_NET_RAW") {
		m.t.Errorf("a router without its capabilities: %s (%v), want a refusal that names them", out, err)
	}
	const dropIn = "/etc/systemd/system/cuttled.service.d"
	again := func() {
		m.t.Helper()
		m.run("systemctl", "daemon-reload")
		m.run("systemctl", "restart", "cuttled")
	}
	m.run("install", "-D", "-m", "0644", "/usr/share/cuttle/router.conf", dropIn+"/router.conf")
	again()
	m.carries("with a router's capabilities")
	out, err := m.try("systemd-analyze", "security", "--no-pager", "--threshold=21", "cuttled.service")
	if err != nil {
		m.t.Errorf("a router is exposed by more than 2.1: %v\n%s", err, out)
	}
	process := m.run("cat", fmt.Sprintf("/proc/%d/status", m.daemon()))
	for _, want := range []string{"CapEff:\t0000000000003400", "CapBnd:\t0000000000003400"} { // CAP_NET_BIND_SERVICE is 10, CAP_NET_RAW 13
		if !strings.Contains(process, want) {
			m.t.Errorf("a router's process lacks %q:\n%s", want, process)
		}
	}
	m.run("cuttle", "router", "up", "--lan", "lan0")
	m.eventually("the LAN served", func() bool {
		out, err := m.try("ss", "-Hlnuw")
		return err == nil && strings.Contains(out, "%lan0:67") && advertises.MatchString(out)
	})
	m.closed("a router")
	m.run("cuttle", "router", "down")
	m.run("rm", "-r", dropIn)
	m.run("ip", "link", "del", "lan0")
	again()
	m.carries("no router any more")
	m.closed("no router any more")
}

// released is the operator's stop.
func (m *machine) released() {
	m.t.Helper()
	m.run("systemctl", "stop", "cuttled")
	m.open("stopped by the operator")
	if got := m.run("cat", "/etc/resolv.conf"); got != "# The operator's own.\nnameserver 9.9.9.9" {
		m.t.Errorf("/etc/resolv.conf after the stop: %s", got)
	}
	if out, err := m.try("test", "-e", "/sys/class/net/cuttle0"); err == nil {
		m.t.Errorf("the TUN is still there %s", out)
	}
	m.run("systemctl", "start", "cuttled")
	m.carries("started")
	m.seen()
	m.watch(relay)
}

// same compares the machine with what it was.
func (m *machine) same(before map[string]string) {
	m.t.Helper()
	m.must(os.RemoveAll(filepath.Join(m.root, "opt/cuttle.deb")))
	m.must(os.RemoveAll(filepath.Join(m.root, "opt/next.deb")))
	after := m.snapshot()
	for name, was := range before {
		if now, ok := after[name]; !ok {
			m.t.Errorf("%s has gone", name)
		} else if now != was {
			m.t.Errorf("%s is\n%s\nand was\n%s", name, now, was)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			m.t.Errorf("%s is left", name)
		}
	}
}
