//go:build linux && netns

package hostnet

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cuttle/tun/hostnet/hostnettest"
)

// TestHardwareAddress finds a neighbor that has said nothing yet, in both families, and
// does not find one that is not there.
func TestHardwareAddress(t *testing.T) {
	o := hostnettest.NewOutside(t)
	var want string
	o.In(t, func() error {
		link, err := net.InterfaceByName("out0")
		if err == nil {
			want = link.HardwareAddr.String()
		}
		return err
	})
	link, err := netlink.LinkByName("phys0")
	if err == nil { // which solicitations come from
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fe80::77"), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.77.0.2", "fd77::2"} {
		got, err := HardwareAddress("phys0", netip.MustParseAddr(a))
		for began := time.Now(); err != nil && time.Since(began) < time.Minute; { // the other end may not be up yet
			got, err = HardwareAddress("phys0", netip.MustParseAddr(a))
		}
		if err != nil || got != want {
			t.Errorf("%s is of %q, %v; want %s", a, got, err, want)
		}
	}
	for _, a := range []string{"10.77.0.99", "fd77::99"} {
		if got, err := HardwareAddress("phys0", netip.MustParseAddr(a)); !errors.Is(err, ErrNoNeighbor) {
			t.Errorf("%s, which nobody has, is of %q, %v", a, got, err)
		}
	}
	if _, err := HardwareAddress("none0", netip.MustParseAddr("10.77.0.2")); err == nil {
		t.Error("a device that is not there has a neighbor")
	}
}
