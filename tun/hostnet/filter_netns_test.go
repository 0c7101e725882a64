//go:build linux && netns

package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cuttle/tun/hostnet/hostnettest"
)

// TestPeersOnly wants marked sockets to reach peers, both families, and nobody
// else, and to be told so at once.
func TestPeersOnly(t *testing.T) {
	o := hostnettest.NewOutside(t)
	openTUN(t)
	var peers []netip.AddrPort
	for _, far := range []string{hostnettest.Far4, hostnettest.Far6} {
		var l net.Listener
		o.In(t, func() (err error) {
			l, err = net.Listen("tcp", net.JoinHostPort(far, "0"))
			return err
		})
		echo(t, l)
		peers = append(peers, netip.MustParseAddrPort(l.Addr().String()))
	}
	a, err := Apply(t.TempDir(), planFor(t, Config{Device: "cuttle0", Peers: peers}))
	if err != nil {
		t.Fatal(err)
	}
	dialer := &net.Dialer{Control: Control(DefaultMark), Timeout: 5 * time.Second}
	for _, p := range peers {
		c, err := dialer.Dial("tcp", p.String())
		if err == nil {
			err = exchange(c)
		}
		if err != nil {
			t.Errorf("marked connection to the peer %v: %v", p, err)
		}
		other := netip.AddrPortFrom(p.Addr(), p.Port()^1)
		began := time.Now()
		c, err = dialer.Dial("tcp", other.String())
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) || time.Since(began) > 4*time.Second {
			t.Errorf("marked connection to %v, no peer: %v after %v, want refused at once", other, err, time.Since(began))
		}
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
}

// TestTunnelAddressIsDeaf wants the TUN's address to answer nobody on the local
// network (CVE-2019-14899), not even a marked listener there.
func TestTunnelAddressIsDeaf(t *testing.T) {
	o := hostnettest.NewOutside(t)
	openTUN(t)
	a, err := Apply(t.TempDir(), planFor(t, Config{Device: "cuttle0", Listen: listenPorts}))
	if err != nil {
		t.Fatal(err)
	}
	for i, address := range []string{hostnettest.Near4, defaultAddresses[0].String(), hostnettest.Near6, defaultAddresses[1].String()} {
		target := net.JoinHostPort(address, fmt.Sprint(listenPorts[i]))
		l, err := (&net.ListenConfig{Control: Control(DefaultMark)}).Listen(context.Background(), "tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, l)
		o.In(t, func() error {
			if err := routeToTUN(); err != nil {
				return err
			}
			c, err := net.DialTimeout("tcp", target, 500*time.Millisecond)
			if err == nil {
				_ = c.Close()
			}
			if reached := err == nil; reached != (i%2 == 0) {
				t.Errorf("connection from outside to %s: %v, want %v", target, err, map[bool]string{true: "one", false: "none"}[i%2 == 0])
			}
			return nil
		})
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
}

// routeToTUN makes the outside send packets for the TUN's addresses to us.
func routeToTUN() error {
	for i, via := range []string{hostnettest.Near4, hostnettest.Near6} {
		a := defaultAddresses[i]
		dst := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}); err != nil {
			return err
		}
	}
	return nil
}
