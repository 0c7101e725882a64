//go:build linux && netns

package leak

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cuttle/tun/hostnet"
)

// TestEachLayerAlone puts one layer in force at a time, without a daemon, and
// compares what gets past it with what it is for.
func TestEachLayerAlone(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	probes := append(catalogue(), w.outsideProbes()...)
	w.open("no VPN", probes)
	cfg := hostnet.Config{Device: "cuttle0", Peers: []netip.AddrPort{guard}}
	host, err := hostnet.Inspect(cfg)
	w.must(err)
	if !host.Egress {
		t.Fatal("this kernel has no egress hook (CONFIG_NETFILTER_EGRESS, CONFIG_NF_TABLES_NETDEV), which the suite needs")
	}
	whole, err := hostnet.NewPlan(cfg, host)
	w.must(err)
	for _, layer := range []struct {
		name  string
		kinds []hostnet.Kind
		past  []string // what the layer cannot hold, by the beginning of the probe's name
	}{
		{"packet filter", []hostnet.Kind{hostnet.PacketFilter}, []string{"10 ", "34 "}},
		{"egress", []hostnet.Kind{hostnet.EgressFilter}, nil},
		{"routing", []hostnet.Kind{hostnet.UnreachableRoute, hostnet.Rule}, []string{
			"03 dns to the gateway by device", "06 ", "08 ", "09 raw by device", "09 raw6 by device", "09 raw with header", "10 ", "11 ", "13 ",
			"14 relay, unmarked by device", "24 ", "30 ", "31 ", "32 ", "33 ", "34 ", "35 ", "36 ", "37 ",
		}},
	} {
		var p hostnet.Plan
		for _, s := range whole.Steps {
			if slices.Contains(layer.kinds, s.Kind) {
				p.Steps = append(p.Steps, s)
			}
		}
		a, err := hostnet.Apply(t.TempDir(), p)
		w.must(err)
		from := w.wire.now()
		sendAll(probes)
		time.Sleep(quiet)
		var past []string
		for _, probe := range probes {
			if !probe.on(w.wire.since(from)) {
				continue
			}
			past = append(past, probe.name)
			if !slices.ContainsFunc(layer.past, func(s string) bool { return strings.HasPrefix(probe.name, s) }) {
				t.Errorf("%s alone let %q through", layer.name, probe.name)
			}
		}
		t.Logf("%s alone lets through: %q", layer.name, past)
		w.must(a.Revert())
	}
	w.open("reverted", probes)
}
