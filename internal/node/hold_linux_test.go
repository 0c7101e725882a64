package node

import (
	"os"
	"path/filepath"
	"testing"

	"cuttle/internal/control"
	"cuttle/tun/hostnet"
)

// TestDownTriesAgain wants what could not be put back to be tried again.
func TestDownTriesAgain(t *testing.T) {
	h := testHold(t)
	c := &client{hold: h, log: h.log, cfg: h.cfg, state: control.StateBlocked}
	path := filepath.Join(h.cfg.Node.State, "hostnet.journal")
	// Undoing it has nothing to do: there is no such interface.
	gone := `{"step":{"kind":"sysctl","key":"net/ipv4/conf/no-such-device/forwarding","value":"1"},"before":{"value":"0"}}` + "\n"
	stays := `{"step":{"kind":"no such kind"},"before":{}}` + "\n"
	for _, test := range []struct {
		name, journal string
		fails         bool
		left          int
	}{{"cannot be put back", gone + stays, true, 2}, {"can be put back", gone, false, 0}} {
		if err := os.WriteFile(path, []byte(test.journal), 0o600); err != nil {
			t.Fatal(err)
		}
		err := c.rest()
		left, unread := hostnet.Left(h.cfg.Node.State)
		if unread != nil || len(left.Steps) != test.left || (err != nil) != test.fails {
			t.Errorf("%s: %v, %d steps are left (%v), want %d", test.name, err, len(left.Steps), unread, test.left)
		}
		if state, _, _, problem := c.snapshot(); state != control.StateOff || (problem != nil) != test.fails {
			t.Errorf("%s: state %s (%v), want off, and the problem", test.name, state, problem)
		}
	}
}
