//go:build linux && netns

package stack

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cuttle/tun/hostnet/hostnettest"
)

// peersVariable names the folder of other VPNs' programs; make peers fills it.
const peersVariable = "CUTTLE_PEERS"

// singBox sends what goes to the outside through sing-box's TUN and its gVisor
// stack to its direct outbound, until the end of b, and gives its process.
func singBox(b *testing.B, mtu int) (pid int) {
	b.Helper()
	const device = "sing0"
	config := filepath.Join(b.TempDir(), "config.json")
	text := fmt.Sprintf(`{"log": {"level": "error"},
		"inbounds": [{"type": "tun", "interface_name": %q, "address": ["172.19.0.1/30"], "mtu": %d, "stack": "gvisor", "auto_route": false}],
		"outbounds": [{"type": "direct", "bind_interface": "phys0"}]}`, device, mtu)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(b.Context(), filepath.Join(os.Getenv(peersVariable), "sing-box"), "run", "-c", config)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { // b's context has ended
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) && !errors.Is(err, b.Context().Err()) {
			b.Errorf("sing-box: %v: %s", err, log.String())
		}
	})
	target, err := netlink.ParseIPNet(hostnettest.Far4 + "/32")
	if err != nil {
		b.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		<-tick.C
		link, err := netlink.LinkByName(device)
		if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
			continue
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: target, Scope: netlink.SCOPE_LINK}); err != nil {
			b.Fatal(err)
		}
		return cmd.Process.Pid
	}
	b.Fatalf("sing-box made no device: %s", log.String())
	return 0
}

// cpuOf is the CPU time that another process has used.
func cpuOf(b *testing.B, pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // proc(5), from the third field on
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * time.Second / 100
}
