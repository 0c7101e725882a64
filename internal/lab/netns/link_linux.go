package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// End is one end of a cable: an interface in a namespace.
type End struct {
	Namespace string
	Interface string
	Addresses []netip.Prefix
	Gateways  []netip.Addr // a default route by each
}

// Connect joins two namespaces by a veth pair, sets both ends up and gives
// them their addresses and routes.
func Connect(a, b End) error {
	h, err := open(a.Namespace)
	if err != nil {
		return err
	}
	defer h.Close()
	peer, err := vns.GetFromPath(Path(b.Namespace))
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", b.Namespace, err)
	}
	defer func() { _ = peer.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Interface
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = b.Interface, netlink.NsFd(int(peer))
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("join %s and %s: %w", a.Namespace, b.Namespace, err)
	}
	return errors.Join(a.configure(), b.configure())
}

func (e End) configure() error {
	h, err := open(e.Namespace)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(e.Interface)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", e.Interface, e.Namespace, err)
	}
	for _, p := range e.Addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give %s to %s in %s: %w", p, e.Interface, e.Namespace, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s in %s up: %w", e.Interface, e.Namespace, err)
	}
	for _, gw := range e.Gateways {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw.AsSlice()}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("route by %s in %s: %w", gw, e.Namespace, err)
		}
	}
	return nil
}

// Router makes the namespace forward packets of both families, without the
// reverse-path check, which would refuse packets that come back from an
// emulated link.
func Router(name string) error {
	for _, s := range [][2]string{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/default/rp_filter", "0"},
		{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/default/send_redirects", "0"},
		{"net/ipv6/conf/all/forwarding", "1"}, {"net/ipv6/conf/default/forwarding", "1"},
	} {
		if err := Sysctl(name, s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// Refuse makes the router answer "host unreachable" for a network, or with
// silent true drop what goes there without a word.
func Refuse(name string, network netip.Prefix, silent bool) error {
	h, err := open(name)
	if err != nil {
		return err
	}
	defer h.Close()
	kind := unix.RTN_UNREACHABLE
	if silent {
		kind = unix.RTN_BLACKHOLE
	}
	dst := &net.IPNet{IP: network.Addr().AsSlice(), Mask: net.CIDRMask(network.Bits(), network.Addr().BitLen())}
	if err := h.RouteAdd(&netlink.Route{Dst: dst, Type: kind}); err != nil {
		return fmt.Errorf("refuse %s in %s: %w", network, name, err)
	}
	return nil
}

// Dial connects from inside the namespace to an IP address and port.
func Dial(ctx context.Context, name, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial in %s: %w", name, err) // a name would be resolved on other threads
	}
	var c net.Conn
	err := Do(name, func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Switch makes an Ethernet switch in the namespace.
func Switch(name, bridge string) error {
	h, err := open(name)
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := h.LinkAdd(br); err != nil {
		return fmt.Errorf("make switch in %s: %w", name, err)
	}
	if err := h.LinkSetUp(br); err != nil {
		return fmt.Errorf("set switch in %s up: %w", name, err)
	}
	return nil
}

// Plug makes an interface of the switch's namespace one of its ports.
func Plug(name, bridge, port string) error {
	h, err := open(name)
	if err != nil {
		return err
	}
	defer h.Close()
	br, err := h.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find switch in %s: %w", name, err)
	}
	link, err := h.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", port, name, err)
	}
	if err := h.LinkSetMaster(link, br); err != nil {
		return fmt.Errorf("plug %s into the switch in %s: %w", port, name, err)
	}
	return nil
}
