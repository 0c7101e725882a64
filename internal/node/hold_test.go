package node

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cuttle/internal/config"
	"cuttle/obfs"
	"cuttle/relay/wire"
)

func TestPeerAddresses(t *testing.T) {
	id := func(b byte) wire.NodeID { return wire.NodeID{b} }
	known := map[wire.NodeID]obfs.Descriptor{
		id(1): {Addresses: []string{"203.0.113.5:443", "[2001:db8::5]:443"}},
		id(2): {Addresses: []string{"198.51.100.1:8443"}},
		id(3): {},
	}
	cfg := new(config.Config)
	want := []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:8443"), netip.MustParseAddrPort("203.0.113.5:443"), netip.MustParseAddrPort("[2001:db8::5]:443")}
	for range 8 { // whatever the order of the map
		if got := peerAddresses(cfg, known); !slices.Equal(got, want) {
			t.Fatalf("peers are %v, want %v", got, want)
		}
	}
	cfg.Node.Exit = true
	if got := peerAddresses(cfg, known); got != nil {
		t.Errorf("an exit may connect to %v, want anybody", got)
	}
	cfg.Node.Exit = false
	known[id(4)] = obfs.Descriptor{Addresses: []string{"guard.example.org:443"}}
	if got := peerAddresses(cfg, known); got != nil {
		t.Errorf("with a neighbor known by name only %v are allowed, want anybody", got)
	}
}

func TestLockAndResume(t *testing.T) {
	cfg := new(config.Config)
	cfg.Node.State = t.TempDir()
	h := &hold{cfg: cfg, log: slog.New(slog.DiscardHandler)}
	for _, on := range []bool{false, true, true, false, false} {
		if err := h.setLock(on); err != nil || h.locked() != on {
			t.Errorf("after turning the lock to %v it is %v (%v)", on, h.locked(), err)
		}
	}
	const block = `{"step":{"kind":"rule","family":4,"table":7},"before":{}}` + "\n"
	const way = `{"step":{"kind":"route","family":4,"table":7,"device":"cuttle0"},"before":{}}` + "\n"
	for _, test := range []struct {
		name, journal  string
		up, lock, want bool
	}{
		{"nothing", "", false, false, false},
		{"wanted by the configuration", "", true, false, true},
		{"locked", block, false, true, false},
		{"was blocked", block, false, false, true},
		{"was capturing", block + way, false, false, true},
		{"was capturing, locked", block + way, false, true, true},
		{"cannot be read", "nonsense\n" + block, false, false, true},
		{"cannot be read, locked", "nonsense\n", false, true, false},
	} {
		cfg.Client.Up = test.up
		err := h.setLock(test.lock)
		if err == nil {
			err = os.WriteFile(filepath.Join(cfg.Node.State, "hostnet.journal"), []byte(test.journal), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := h.resumes(); got != test.want {
			t.Errorf("%s: captures at start: %v, want %v", test.name, got, test.want)
		}
	}
}
