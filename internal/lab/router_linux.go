package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cuttle/internal/lab/netns"
)

// buildLAN makes the LAN: a switch in a namespace of its own, the router's port
// and the hosts'. Nobody gives them addresses but the router.
func (l *Lab) buildLAN() error {
	if l.plan.Switch == "" {
		return nil
	}
	if err := netns.Switch(l.plan.Switch, "br0"); err != nil {
		return err
	}
	for _, n := range l.plan.Nodes {
		device := Interface
		switch {
		case n.LAN:
			device = LANInterface
		case n.Role == RoleHost:
			// As at home: a host listens to router advertisements.
			if err := netns.Sysctl(n.Namespace, "net/ipv6/conf/default/accept_ra", "1"); err != nil {
				return err
			}
			if err := netns.WriteFile(n.Namespace, "resolv.conf", "# no lease yet\n"); err != nil {
				return err
			}
		default:
			continue
		}
		port := netns.End{Namespace: l.plan.Switch, Interface: "to-" + n.Name}
		if err := netns.Connect(port, netns.End{Namespace: n.Namespace, Interface: device}); err != nil {
			return err
		}
		if err := netns.Plug(l.plan.Switch, "br0", port.Interface); err != nil {
			return err
		}
	}
	return nil
}

// Lease has the hosts behind the router ask for their addresses, as any computer
// does, and waits until they have them, IPv6 ones included.
func (l *Lab) Lease(ctx context.Context) error {
	for _, n := range l.plan.Nodes {
		if n.Role != RoleHost {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
		defer cancel()
		var stderr strings.Builder
		cmd := netns.Command(ctx, n.Namespace, "/proc/self/exe", verbLease, Interface)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("lease of %s: %w\n%s", n.Name, err, strings.TrimSpace(stderr.String()))
		}
		var got hostLease
		if err := json.Unmarshal(out, &got); err != nil {
			return fmt.Errorf("lease of %s: %w", n.Name, err)
		}
		if err := netns.WriteFile(n.Namespace, "resolv.conf", fmt.Sprintf("# %s of the lab\nnameserver %s\n", n.Name, got.DNS)); err != nil {
			return err
		}
	}
	return nil
}

// leaseTimeout is for one host: router advertisements come each second at most.
const leaseTimeout = time.Minute

// hostLease is what a host has got.
type hostLease struct {
	Address netip.Prefix `json:"address"`
	DNS     netip.Addr   `json:"dns"`
	MAC     string       `json:"mac"`
}

// runLease is a small DHCP client: it asks, and configures the interface.
func runLease(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return errors.New("lease: want an interface")
	}
	link, err := netlink.LinkByName(args[0])
	if err != nil {
		return err
	}
	client, err := nclient4.New(args[0], nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(10))
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	host, _ := os.Hostname()
	lease, err := client.Request(ctx, dhcpv4.WithOption(dhcpv4.OptHostName(host)))
	if err = errors.Join(err, client.Close()); err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	got, err := settleLease(link, lease.ACK)
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	if err := awaitSLAAC(ctx, link); err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	return json.NewEncoder(stdout).Encode(got)
}

func settleLease(link netlink.Link, ack *dhcpv4.DHCPv4) (hostLease, error) {
	a, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	bits, _ := ack.SubnetMask().Size()
	routers, servers := ack.Router(), ack.DNS()
	if !ok || bits == 0 || len(routers) == 0 || len(servers) == 0 {
		return hostLease{}, fmt.Errorf("the answer lacks something: %s", ack.Summary())
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: ack.SubnetMask()}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return hostLease{}, err
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: routers[0]}); err != nil {
		return hostLease{}, err
	}
	dns, _ := netip.AddrFromSlice(servers[0].To4())
	return hostLease{Address: netip.PrefixFrom(a, bits), DNS: dns, MAC: link.Attrs().HardwareAddr.String()}, nil
}

// awaitSLAAC waits for a global IPv6 address that can be used and a default route.
func awaitSLAAC(ctx context.Context, link netlink.Link) error {
	t := time.NewTicker(pollPeriod)
	defer t.Stop()
	for {
		addresses, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: link.Attrs().Index, Dst: nil}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			if a.IP.IsGlobalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 && len(routes) > 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no router advertisement: %w", ctx.Err())
		case <-t.C:
		}
	}
}
