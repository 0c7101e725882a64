package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"cuttle/internal/lab/netns"
)

// Line joins the named nodes by cables of their own, one after another, so that
// packets between any two of them pass all that are between them, and no longer
// the router. Links that the emulator shapes are not for it.
func (l *Lab) Line(names ...string) error {
	var nodes []Node
	for _, name := range names {
		n, err := l.node(name)
		if err != nil {
			return err
		}
		if err := netns.Router(n.Namespace); err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	const left, right = "left0", "right0"
	for i, a := range nodes[:len(nodes)-1] {
		b := nodes[i+1]
		err := netns.Connect(
			netns.End{Namespace: a.Namespace, Interface: right, Addresses: single(a.main())},
			netns.End{Namespace: b.Namespace, Interface: left, Addresses: single(b.main())})
		if err != nil {
			return err
		}
	}
	for i, n := range nodes {
		var routes []netns.Route
		if i > 0 {
			routes = append(routes, along(n, left, nodes[:i], nodes[i-1])...)
		}
		if i < len(nodes)-1 {
			routes = append(routes, along(n, right, nodes[i+1:], nodes[i+1])...)
		}
		if err := netns.SetRoutes(n.Namespace, routes...); err != nil {
			return err
		}
	}
	return nil
}

// along are the routes from n through a device to all nodes there; first the
// next one's, which the others need.
func along(n Node, device string, there []Node, next Node) []netns.Route {
	var routes []netns.Route
	for i, from := range n.main() {
		by := next.main()[i]
		routes = append(routes, netns.Route{To: whole(by), Device: device, From: from})
		for _, far := range there {
			for _, to := range far.Hosts() {
				if to != by && to.Is4() == by.Is4() {
					routes = append(routes, netns.Route{To: whole(to), Device: device, By: by, From: from})
				}
			}
		}
	}
	return routes
}

// main are the addresses that others use: IPv4, IPv6.
func (n Node) main() []netip.Addr { return n.Hosts()[:2] }

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func single(addrs []netip.Addr) []netip.Prefix {
	var ps []netip.Prefix
	for _, a := range addrs {
		ps = append(ps, whole(a))
	}
	return ps
}

// Guest starts a program that is not ours in a node's namespace under a name of
// its own, in the same way and with the same end as the lab's processes.
func (l *Lab) Guest(ctx context.Context, name, node string, argv ...string) error {
	n, err := l.node(node)
	if err != nil {
		return err
	}
	if p := l.state.Processes[name]; p.alive() {
		return fmt.Errorf("%s runs already (process %d)", name, p.PID)
	}
	return l.start(ctx, name, n.Namespace, nil, argv...)
}

// Lives tells whether the process of that name runs; if not, last is the end of
// its log.
func (l *Lab) Lives(name string) (lives bool, last string) {
	if l.state.Processes[name].alive() {
		return true, ""
	}
	return false, l.lastWords(name)
}

// Folder is a folder for files of a node or guest; it goes with the lab.
func (l *Lab) Folder(name string) (string, error) {
	folder := filepath.Dir(l.opts.fileOf(name, logFile))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("make folder of %s: %w", name, err)
	}
	return folder, nil
}

// Congestion sets the kernel's TCP congestion control in every namespace.
func (l *Lab) Congestion(algorithm string) error {
	for _, name := range l.state.Namespaces {
		if err := netns.Sysctl(name, "net/ipv4/tcp_congestion_control", algorithm); err != nil {
			return err
		}
	}
	return nil
}
