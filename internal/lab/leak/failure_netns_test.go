//go:build linux && netns

package leak

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cuttle/internal/control"
)

// TestFailuresStayClosed spoils what a plan is computed from, and wants guard and
// daemon to close the machine all the same, and an operator to be able to open it.
func TestFailuresStayClosed(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	probes := append(catalogue(), w.outsideProbes()...)
	w.open("no VPN", probes)
	journal, lock, choices := w.file("client/hostnet.journal"), w.file("client/lock"), w.file("client/choices.json")
	config := w.file("client.toml")

	w.must(os.WriteFile(journal, []byte("nonsense\n"), 0o600))
	w.run("guard", "-config", config)
	w.closed("guard, journal spoiled", probes)
	w.run("release", "-config", config)
	w.open("released", probes)

	w.must(os.WriteFile(journal, []byte("nonsense\n"), 0o600))
	w.start()
	w.await(control.StateUp) // nobody has told it to open
	w.closed("daemon, journal spoiled", probes)
	w.alive()
	w.down()
	w.await(control.StateOff)
	w.open("down", probes)
	w.end(unix.SIGTERM)

	w.configure("[lan]\nallow = true\n[split]\nusers = [\"nobody-has-this-name\"]\n")
	w.must(errors.Join(os.WriteFile(choices, []byte("nonsense"), 0o600), os.WriteFile(lock, nil, 0o600)))
	w.run("guard", "-config", config)
	w.closed("guard, choices spoiled", probes)
	w.start()
	w.up()
	w.await(control.StateBlocked)
	w.closed("daemon, choices spoiled", probes)
	w.must(os.Remove(choices))
	w.lanAccess(false)
	w.up()
	w.await(control.StateUp)
	w.alive()
	w.closed("up, choices moved away, no such user", probes)
	w.end(unix.SIGTERM)
	w.run("release", "-config", config)
	w.open("released", probes)

	w.must(errors.Join(os.Remove(w.file("map")), os.WriteFile(lock, nil, 0o600)))
	out, err := exec.CommandContext(t.Context(), filepath.Join(w.bin, "cuttled"), "-config", config).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "map") {
		t.Fatalf("a daemon without its map ended with %v: %s", err, out)
	}
	w.closed("daemon that cannot start", probes)
	w.run("release", "-config", config)
	w.open("released", probes)
}

// TestRouterRefusesUplink wants the way out of the machine not to be served as a
// LAN, nor what is no network.
func TestRouterRefusesUplink(t *testing.T) {
	w := newWorld(t)
	w.start()
	c, err := control.Dial(w.file("run-client/client.sock"))
	w.must(err)
	serve := func(device string) error {
		_, err := c.SetRouter(context.Background(), device)
		return err
	}
	for _, when := range []string{"off", "up"} {
		for _, device := range []string{"phys0", "lo", "cuttle0", "no-such-device"} {
			if err := serve(device); err == nil {
				t.Errorf("%s: %s is served as a LAN", when, device)
			}
		}
		if when == "off" {
			w.up()
			w.await(control.StateUp)
		}
	}
	if err := serve("lan0"); err != nil {
		t.Errorf("the network behind lan0 is not served: %v", err)
	}
	w.must(serve(""))
	w.down()
	w.await(control.StateOff)
	w.end(unix.SIGTERM)
}
