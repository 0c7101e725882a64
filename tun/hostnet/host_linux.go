package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const sysctlRoot = "/proc/sys"

// MissingHint says what can be done about what a plan misses, and CanRoute whether
// this system can be a router.
const (
	MissingHint = "take CAP_NET_RAW from programs you do not trust, or use a kernel with CONFIG_NETFILTER_EGRESS and CONFIG_NF_TABLES_NETDEV"
	CanRoute    = true
)

// unread stands for a host that cannot be asked.
var unread = Host{IPv6: true, Filter: true, Egress: true}

// Inspect reads what a plan for cfg depends on. Whether the kernel takes the
// rules is tried, in transactions that leave nothing behind.
func Inspect(cfg Config) (Host, error) {
	var h Host
	_, err := os.Stat(filepath.Join(sysctlRoot, "net/ipv6/conf/all"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, fmt.Errorf("look for ipv6: %w", err)
	}
	if err == nil {
		off, err := readSysctl("net/ipv6/conf/all/disable_ipv6")
		if err != nil {
			return h, fmt.Errorf("look for ipv6: %w", err)
		}
		h.IPv6, h.IPv6Off = true, off != "0"
	}
	filters, err := filepath.Glob(filepath.Join(sysctlRoot, "net/ipv4/conf/*/rp_filter"))
	if err != nil {
		return h, err
	}
	// The larger value of "all" and the interface's own counts; "default" is
	// for interfaces to come. So with 2 in "all" none is strict.
	all := ""
	for _, path := range filters {
		v, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the interface has gone
		}
		if err != nil {
			return h, fmt.Errorf("read filter of reverse paths: %w", err)
		}
		value := strings.TrimSpace(string(v))
		if filepath.Base(filepath.Dir(path)) == "all" {
			all = value
		}
		h.StrictFilter = h.StrictFilter || value == "1"
	}
	h.StrictFilter = h.StrictFilter && all != "2"
	answers, err := readSysctl("net/ipv4/conf/all/arp_ignore")
	if err != nil {
		return h, fmt.Errorf("read whom arp answers: %w", err)
	}
	h.AnswersAll = answers == "0"
	if err := h.inspectNetworks(); err != nil {
		return h, err
	}
	cfg.fill()
	f := cfg.filter(h)
	h.Filter, h.Egress = filterWorks(f), egressWorks(f)
	h.Resolver = resolverOwner(systemResolver)
	return h, nil
}

// InspectOver is Inspect for a plan that takes over what an earlier process may
// have left by the journal in stateDir. What cannot be read of that does not count.
func InspectOver(stateDir string, cfg Config) (Host, error) {
	h, err := Inspect(cfg)
	return h.withoutPlan(salvage(stateDir)), err
}

// Control returns a function for net.Dialer.Control and net.ListenConfig.Control
// that marks sockets as ours, so that they keep to the main table. What a
// marked listener accepts is marked too. It needs CAP_NET_ADMIN.
func Control(mark uint32) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) { failed = Mark(fd, mark) }); err != nil {
			return fmt.Errorf("mark socket: %w", err)
		}
		return failed
	}
}

// Usable are those of this machine's addresses that our sockets can leave from: all,
// since the kernel chooses.
func Usable(addresses []netip.Addr) []netip.Addr { return addresses }

// Mark marks the socket fd as ours.
func Mark(fd uintptr, mark uint32) error {
	if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("mark socket: %w", err)
	}
	return nil
}

// system is the kernel's side of hostnet, in the calling thread's network
// namespace. It remembers how the kernel lists the rules it has loaded, and for
// which devices.
type system struct {
	filter, egress string
	devices        []string
}

func newKernel() (kernel, error) { return &system{}, nil }

func (k *system) before(s Step) (Before, error) {
	switch s.Kind {
	case Sysctl:
		v, err := readSysctl(s.Key)
		if err != nil || s.Key != forwarding6 {
			return Before{Value: v}, err
		}
		each, err := readEach()
		return Before{Value: v, Each: each}, err
	case Link:
		link, err := linkByName(s.Device)
		if err != nil {
			return Before{}, err
		}
		return Before{Up: link.Attrs().Flags&net.FlagUp != 0, MTU: link.Attrs().MTU}, nil
	case Resolver:
		f, gone, err := readFile(s.Key)
		return Before{File: f, Gone: gone}, err
	case UnreachableRoute, Rule, Address, TunRoute, PacketFilter, EgressFilter, LANRoute, PastRule, ResolvedLink, ResolvconfSource:
		return Before{}, nil
	case ManagerDNS:
		g, err := readManager()
		return Before{Value: g.text()}, err
	default:
		return Before{}, errUnknownStep
	}
}

func (k *system) do(s Step) error {
	switch s.Kind {
	case Sysctl:
		return writeSysctl(s.Key, s.Value)
	case PacketFilter:
		return k.load(s)
	case EgressFilter:
		return k.loadEgress(s)
	case UnreachableRoute:
		return netlink.RouteReplace(unreachable(s))
	case Rule, PastRule:
		return except(netlink.RuleAdd(rule(s)), unix.EEXIST)
	case Link:
		return bringUp(s)
	case Address:
		link, err := linkByName(s.Device)
		if err != nil {
			return err
		}
		return except(netlink.AddrAdd(link, address(s)), unix.EEXIST)
	case TunRoute, LANRoute:
		link, err := linkByName(s.Device)
		if err != nil {
			return err
		}
		return netlink.RouteReplace(through(s, link))
	case Resolver:
		return writeResolver(s.Key, s.Value)
	case ResolvedLink:
		return tellResolved(s)
	case ManagerDNS:
		return writeManager(ours(s.Value))
	case ResolvconfSource:
		return resolvconf(s.Value, "-a", sourceName(s))
	default:
		return errUnknownStep
	}
}

func (k *system) undo(s Step, b Before) error {
	switch s.Kind {
	case Sysctl:
		now, err := readSysctl(s.Key)
		if errors.Is(err, fs.ErrNotExist) || err == nil && now != s.Value {
			return nil // of an interface that has gone, or changed by somebody else
		}
		if err != nil {
			return err
		}
		if err := writeSysctl(s.Key, b.Value); err != nil || s.Key != forwarding6 {
			return err
		}
		return restoreEach(b)
	case PacketFilter:
		k.filter = ""
		return loadRules(nftables.TableFamilyINet, nil)
	case EgressFilter:
		k.egress, k.devices = "", nil
		return loadRules(nftables.TableFamilyNetdev, nil)
	case UnreachableRoute:
		return except(netlink.RouteDel(unreachable(s)), unix.ESRCH)
	case Rule, PastRule:
		return removeRule(s)
	case Resolver:
		return restoreResolver(s.Key, s.Value, b)
	case ResolvedLink:
		return revertResolved(s)
	case ManagerDNS:
		return restoreManager(s, b)
	case ResolvconfSource:
		return resolvconf("", "-d", sourceName(s))
	case Link, Address, TunRoute, LANRoute:
		link, err := linkByName(s.Device)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil // and everything on it went with it
		}
		if err != nil {
			return err
		}
		return undoOn(link, s, b)
	default:
		return errUnknownStep
	}
}

// undoOn undoes a step on an interface that is still there.
func undoOn(link netlink.Link, s Step, b Before) error {
	switch s.Kind {
	case Address:
		return except(netlink.AddrDel(link, address(s)), unix.EADDRNOTAVAIL)
	case TunRoute, LANRoute:
		return except(netlink.RouteDel(through(s, link)), unix.ESRCH)
	default: // Link
		var err error
		if !b.Up {
			err = netlink.LinkSetDown(link)
		}
		if s.MTU != 0 && link.Attrs().MTU == s.MTU && b.MTU != s.MTU {
			err = errors.Join(err, netlink.LinkSetMTU(link, b.MTU))
		}
		return err
	}
}

func bringUp(s Step) error {
	link, err := linkByName(s.Device)
	if err != nil {
		return err
	}
	if s.MTU != 0 {
		if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return awaitLocal(link)
}

// settleTime is how long the kernel may take to make addresses usable.
const settleTime = 3 * time.Second

// awaitLocal waits until the IPv6 addresses of link are in the local table. The
// kernel puts them there later, from a queue of work; until then answers to
// programs that use them would be dropped.
func awaitLocal(link netlink.Link) error {
	addresses, err := listAddresses(link, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(settleTime)
	for {
		routes, err := listRoutes(netlink.FAMILY_V6,
			netlink.Route{Table: unix.RT_TABLE_LOCAL, LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		if err != nil {
			return err
		}
		missing := slices.ContainsFunc(addresses, func(a netlink.Addr) bool {
			return !a.IP.IsLinkLocalUnicast() && !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.IP.Equal(a.IP) })
		})
		if !missing {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("its ipv6 addresses did not become usable")
		}
		<-tick.C
	}
}

// removeRule removes our rule, however many times it is there.
func removeRule(s Step) error {
	for {
		err := netlink.RuleDel(rule(s))
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// except turns an errno that means "it is so already" into success.
func except(err error, fine unix.Errno) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}

func family(f int) int {
	if f == 6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func everywhere(f int) *net.IPNet {
	if f == 6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
}

// unreachable is the route that stays when the TUN has gone. Routes and rules
// carry the kernel's protocol number because systemd-networkd removes those of
// protocols it does not know.
func unreachable(s Step) *netlink.Route {
	return &netlink.Route{Family: family(s.Family), Dst: everywhere(s.Family), Table: s.Table, Priority: unreachableMetric,
		Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_KERNEL}
}

func through(s Step, link netlink.Link) *netlink.Route {
	dst := everywhere(s.Family)
	if s.Kind == LANRoute {
		dst = &net.IPNet{IP: s.Network.Addr().AsSlice(), Mask: net.CIDRMask(s.Network.Bits(), s.Network.Addr().BitLen())}
	}
	r := &netlink.Route{Family: family(s.Family), Dst: dst, Table: s.Table, Priority: tunMetric,
		Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_KERNEL, LinkIndex: link.Attrs().Index}
	if s.Family == 4 {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

func rule(s Step) *netlink.Rule {
	r := netlink.NewRule()
	r.Family = family(s.Family)
	r.Table = s.Table
	r.Priority = s.Priority
	r.Invert = s.Kind == Rule
	if s.Kind == PastRule {
		r.Table = unix.RT_TABLE_MAIN
	}
	r.Mark, r.Mask = s.Mark, &s.Mask
	r.Protocol = unix.RTPROT_KERNEL
	return r
}

func address(s Step) *netlink.Addr {
	bits := s.Address.BitLen()
	a := &netlink.Addr{IPNet: &net.IPNet{IP: s.Address.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Flags: unix.IFA_F_NOPREFIXROUTE}
	if s.Address.Is6() {
		a.Flags |= unix.IFA_F_NODAD
	}
	return a
}

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysctlRoot, key))
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(key, value string) error {
	f, err := os.OpenFile(filepath.Join(sysctlRoot, key), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// readEach reads forwarding of IPv6 by interface.
func readEach() (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(sysctlRoot, "net/ipv6/conf/*/forwarding"))
	if err != nil {
		return nil, err
	}
	each := make(map[string]string)
	for _, path := range files {
		name := filepath.Base(filepath.Dir(path))
		v, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || name == "all" {
			continue // the interface has gone
		}
		if err != nil {
			return nil, fmt.Errorf("read who forwards: %w", err)
		}
		each[name] = strings.TrimSpace(string(v))
	}
	return each, nil
}

// restoreEach gives each interface back what it had before "all" was set, which
// sets every one. One that has come since gets what is for those to come.
func restoreEach(b Before) error {
	now, err := readEach()
	if err != nil {
		return err
	}
	for name, value := range now {
		want, known := b.Each[name]
		if !known {
			want, known = b.Each["default"]
		}
		if !known || want == value {
			continue
		}
		if err := writeSysctl("net/ipv6/conf/"+name+"/forwarding", want); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return 0, 0
}

// errBusy is of a lock that another process has.
const errBusy = unix.EWOULDBLOCK

// lock takes the file for this process; it is released when the file is closed
// or the process dies.
func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
