//go:build linux && netns

package hostnet

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"cuttle/tun/hostnet/hostnettest"
)

// rules changes nftables as another program does.
func rules(t *testing.T, change func(*nftables.Conn)) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	change(c)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestWatchMendsHost changes each part of a plan in force and wants it back
// within a second.
func TestWatchMendsHost(t *testing.T) {
	hostnettest.NewOutside(t)
	openTUN(t)
	before := dump(t, "")
	a, err := Apply(t.TempDir(), planFor(t, Config{Device: "cuttle0", MTU: 1500}))
	if err != nil {
		t.Fatal(err)
	}
	inet := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	netdev := &nftables.Table{Name: tableName, Family: nftables.TableFamilyNetdev}
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	routes := func(add bool) func() {
		return func() {
			_, dst, err := net.ParseCIDR("198.51.100.0/24")
			must(err)
			if add {
				must(netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP("10.77.0.2"), Table: DefaultTable}))
				return
			}
			list, err := tableRoutes(netlink.FAMILY_ALL, DefaultTable)
			must(err)
			for _, r := range list {
				must(netlink.RouteDel(&r))
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- a.Watch(ctx, func(what string) { t.Logf("mended %s", strings.SplitN(what, "\n", 2)[0]) })
	}() // ends with ctx
	for _, disturb := range []struct {
		name string
		do   func()
	}{
		{"table deleted", func() { rules(t, func(c *nftables.Conn) { c.DelTable(inet) }) }},
		{"egress table deleted", func() { rules(t, func(c *nftables.Conn) { c.DelTable(netdev) }) }},
		{"everything flushed", func() { rules(t, func(c *nftables.Conn) { c.FlushRuleset() }) }},
		{"rules flushed", func() { rules(t, func(c *nftables.Conn) { c.FlushTable(inet) }) }},
		{"rule added that accepts", func() {
			rules(t, func(c *nftables.Conn) {
				c.InsertRule(&nftables.Rule{Table: inet, Chain: &nftables.Chain{Name: "output", Table: inet}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
			})
		}},
		{"policy changed", func() {
			rules(t, func(c *nftables.Conn) {
				policy := nftables.ChainPolicyAccept
				c.AddChain(&nftables.Chain{Name: "output", Table: inet, Policy: &policy})
			})
		}},
		{"rules of routing deleted", func() {
			for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				list, err := netlink.RuleList(f)
				must(err)
				for _, r := range list {
					if r.Priority == DefaultPriority {
						must(netlink.RuleDel(&r))
					}
				}
			}
		}},
		{"routes deleted", routes(false)},
		{"route added", routes(true)},
		{"tun down", func() {
			l, err := netlink.LinkByName("cuttle0")
			must(err)
			must(netlink.LinkSetDown(l))
		}},
	} {
		whole := dump(t, "")
		disturb.do()
		began := time.Now()
		awaitDump(t, disturb.name, func() string { return difference(whole, dump(t, "")) })
		t.Logf("%-26s mended after %v", disturb.name, time.Since(began).Round(time.Millisecond))
	}
	newDevice(t)
	cancel()
	must(<-done)
	must(a.Revert())
	if d := difference(before, dump(t, "")); d != "" {
		t.Errorf("host differs after revert:\n%s", d)
	}
}

// newDevice wants rules on devices that come, and under their new names.
func newDevice(t *testing.T) {
	t.Helper()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "new0"})
	veth.PeerName = "new1"
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new0", "renamed0"} {
		if name != "new0" {
			if err := netlink.LinkSetName(veth, name); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		awaitDump(t, name, func() string {
			list, err := listTable(nftables.TableFamilyNetdev)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(list, egressChain(name)+" ") {
				return fmt.Sprintf("no chain for %s", name)
			}
			return ""
		})
		t.Logf("%-26s has rules after %v", name, time.Since(began).Round(time.Millisecond))
	}
	if err := netlink.LinkDel(veth); err != nil {
		t.Fatal(err)
	}
	awaitDump(t, "device gone", func() string {
		list, err := listTable(nftables.TableFamilyNetdev)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(list, "renamed0") {
			return "rules of a device that has gone"
		}
		return ""
	})
}

func awaitDump(t *testing.T, what string, wrong func() string) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C { // it takes some ten milliseconds where nothing else runs
		d := wrong()
		if d == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not mended:\n%.600s", what, d)
		}
	}
}
