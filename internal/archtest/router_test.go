package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// openWrt runs a script of the package with its paths below a folder that plays the
// router, and tells what it has called.
func openWrt(t *testing.T, root, script string, env ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../packaging", script))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/etc/", root+"/etc/", "/var/run/", root+"/run/").Replace(string(b))
	calls := filepath.Join(root, "calls")
	if err := os.WriteFile(calls, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", text)
	cmd.Env = append([]string{"PATH=" + root + "/bin:" + os.Getenv("PATH"), "CALLS=" + calls}, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	said, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

// router is such a folder: commands that write down how they are called, a lock
// and a journal.
func router(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	const note = "#!/bin/sh\necho \"$(basename \"$0\") $1 closed=${CUTTLE_CLOSED:-0}\" >>\"$CALLS\"\n"
	for path, content := range map[string]string{
		"etc/init.d/cuttled": note, "bin/cuttled": strings.Replace(note, "basename", "echo release; basename", 1),
		"etc/cuttle/state/lock": "", "etc/cuttle/state/hostnet.journal": "x\n", "run/none": "",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestRouterUpgradeStaysClosed wants an upgrade on OpenWrt to end the daemon
// closed and to start it again, and a removal to open.
func TestRouterUpgradeStaysClosed(t *testing.T) {
	root := router(t)
	got := openWrt(t, root, "scripts/ipk-prerm.sh", "PKG_UPGRADE=1")
	if want := "cuttled running closed=0\ncuttled stop closed=1\n"; got != want {
		t.Errorf("before an upgrade %q is called, want %q", got, want)
	}
	if got, want := openWrt(t, root, "scripts/ipk-postinst.sh", "PKG_UPGRADE=1"), "cuttled start closed=0\n"; got != want {
		t.Errorf("after an upgrade %q is called, want %q", got, want)
	}
	if got := openWrt(t, root, "scripts/ipk-postinst.sh"); got != "" {
		t.Errorf("a first installation calls %q", got)
	}
	if got := openWrt(t, root, "scripts/ipk-prerm.sh"); !strings.HasPrefix(got, "cuttled stop closed=0\n") || !strings.Contains(got, "release") {
		t.Errorf("a removal calls %q, want the daemon stopped and the machine released", got)
	}
	for _, script := range []string{"scripts/ipk-prerm.sh", "scripts/ipk-postinst.sh"} {
		if got := openWrt(t, root, script, "IPKG_INSTROOT="+root, "PKG_UPGRADE=1"); got != "" {
			t.Errorf("%s in an image calls %q", script, got)
		}
	}
}

// TestRouterServiceEndsClosed wants procd's service to be told to end closed before
// it is ended, but for a plain stop.
func TestRouterServiceEndsClosed(t *testing.T) {
	b, err := os.ReadFile("../../packaging/init/procd")
	if err != nil {
		t.Fatal(err)
	}
	// What OpenWrt's rc.common does.
	const common = `
procd_send_signal() { echo "signal $1 $3"; }
stop() { stop_service "$@"; echo "end $1"; }
start() { echo start; }
`
	for action, want := range map[string]string{
		"stop": "end \n", "restart": "signal cuttled USR1\nend \nstart\n", "shutdown": "signal cuttled USR1\nend \n", "CUTTLE_CLOSED=1; stop": "signal cuttled USR1\nend \n",
	} {
		out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", common+string(b)+"\n"+action).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s does %q (%v), want %q", action, out, err, want)
		}
	}
}
