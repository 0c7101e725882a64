package systemd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCapabilities wants each unit to have the capabilities that it needs, inherited
// and as its bound, and none beside.
func TestCapabilities(t *testing.T) {
	for unit, want := range map[string][2]string{
		"cuttled.service":      {"CAP_NET_ADMIN", "CAP_NET_ADMIN"},
		"cuttle-guard.service": {"CAP_NET_ADMIN", "CAP_NET_ADMIN"},
		"router.conf":          {"CAP_NET_BIND_SERVICE CAP_NET_RAW", "CAP_NET_BIND_SERVICE CAP_NET_RAW"}, // added to those of cuttled.service
		// Root, with what it takes to put a file in the place of another's.
		"cuttle-resolver@.service": {"", "CAP_CHOWN CAP_FOWNER"},
	} {
		settings := settingsOf(t, unit)
		for i, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
			if got := strings.Join(settings[key], " "); got != want[i] {
				t.Errorf("%s: %s is %q, want %q", unit, key, got, want[i])
			}
		}
	}
	if got := settingsOf(t, "router.conf"); len(got) != 2 {
		t.Errorf("router.conf sets more than capabilities: %q", got)
	}
}

// settingsOf reads a unit file, systemd.syntax(7): the values of each key.
func settingsOf(t *testing.T, unit string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../systemd", unit))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]string)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			out[key] = append(out[key], value)
		}
	}
	return out
}
