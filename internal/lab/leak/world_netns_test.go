//go:build linux && netns

package leak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cuttle/internal/control"
	"cuttle/tun/hostnet/hostnettest"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(senderEnv); socket != "" {
		if err := sendLines(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(browserEnv) != "" {
		os.Exit(browse(os.Args[len(os.Args)-1]))
	}
	hostnettest.Isolate()
	goleak.VerifyTestMain(m)
}

const (
	guardPort  = 4000
	served     = hostnettest.Far4 + ":7777" // behind the exit: says hello
	openPort   = 4500                       // a service of the machine, on all addresses
	routerLink = "fe80::1"
)

var guard = netip.AddrPortFrom(netip.MustParseAddr(hostnettest.Far4), guardPort)

// world is the machine (this process's namespace), the router (outside), and a
// LAN client behind the machine.
type world struct {
	t       *testing.T
	outside hostnettest.Outside
	wire    *wire
	lan     netns.NsHandle
	guest   netns.NsHandle // has a device of its own on top of the physical one
	dir     string
	bin     string
	daemon  *exec.Cmd
	told    map[string]bool // daemons whose log was shown
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), bin: os.Getenv("CUTTLE_BIN"), told: make(map[string]bool)}
	if w.bin == "" {
		t.Fatal("CUTTLE_BIN must name the folder of cuttled; use make test-root")
	}
	w.outside = hostnettest.NewOutside(t)
	for key, value := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/icmp_ratelimit": "0", "net/ipv6/conf/phys0/accept_ra": "2", "net/ipv6/conf/phys0/router_solicitations": "0",
	} {
		w.must(os.WriteFile("/proc/sys/"+key, []byte(value), 0))
	}
	w.outside.In(t, func() error {
		return errors.Join(addAddress("lo", localNet.String()+"/32"), addAddress("out0", routerLink+"/64"))
	})
	// The kernel asks now and then whether its router is still there and still a
	// router: it needs a link-local address for that, and gives up the route when
	// the answer comes from a host that does not forward.
	w.must(errors.Join(addAddress("phys0", "192.0.2.1/24"), addAddress("phys0", "fe80::77/64")))
	w.outside.In(t, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0) })
	w.pushRoute()
	// IPv6 goes where a router advertisement says, as it does at home.
	w.must(netlink.RouteDel(&netlink.Route{Dst: everything6(), Gw: net.ParseIP("fd77::2")}))
	w.lanClient()
	w.macvlanGuest()
	w.wire = watchWire(t, w.outside)
	w.serve()
	w.startGuard()
	return w
}

func everything6() *net.IPNet { return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)} }

func addAddress(link, address string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(l, a)
}

// pushRoute does what a DHCP server does to a machine with option 121.
func (w *world) pushRoute() {
	w.t.Helper()
	_, dst, err := net.ParseCIDR("198.51.100.0/24")
	w.must(err)
	w.must(netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP("10.77.0.2")}))
}

// advertise sends a router advertisement (RFC 4861 section 4.2) and waits until
// the machine follows it.
func (w *world) advertise() {
	w.t.Helper()
	w.outside.In(w.t, func() error {
		link, err := net.InterfaceByName("out0")
		if err != nil {
			return err
		}
		return sendAdvertisement(link, netip.MustParseAddr(routerLink), nil)
	})
	w.eventually("a route by the router advertisement", func() bool {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		w.must(err)
		for _, r := range routes {
			if r.Gw.String() == routerLink {
				return true
			}
		}
		return false
	})
}

// sendAdvertisement sends a router advertisement with these options to everybody
// on a link.
func sendAdvertisement(link *net.Interface, from netip.Addr, options []byte) (err error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	ra := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	ra = append(append(ra, append([]byte{1, 1}, link.HardwareAddr...)...), options...)
	return errors.Join(unix.Bind(fd, &unix.SockaddrInet6{Addr: from.As16(), ZoneId: uint32(link.Index)}),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link.Index),
		unix.Sendto(fd, ra, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(link.Index)}))
}

// forgetAdvertised removes the route, so that the next advertisement is news.
func (w *world) forgetAdvertised() {
	w.t.Helper()
	w.must(netlink.RouteDel(&netlink.Route{Dst: everything6(), Gw: net.ParseIP(routerLink), LinkIndex: phys(), Table: unix.RT_TABLE_MAIN}))
}

// patience bounds every wait for what has to come, on a slow machine.
const patience = time.Minute

func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// lanClient makes a namespace whose only way out is through the machine.
func (w *world) lanClient() {
	w.t.Helper()
	w.lan = w.namespace()
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.LinkAttrs.Name, veth.PeerName, veth.PeerNamespace = "lan0", "cli0", netlink.NsFd(int(w.lan))
	w.must(netlink.LinkAdd(veth))
	w.t.Cleanup(func() {
		if err := netlink.LinkDel(veth); err != nil {
			w.t.Error(err)
		}
	})
	w.must(errors.Join(addAddress("lan0", "10.88.0.1/24"), setUp("lan0")))
	w.must(in(w.lan, func() error { return settle("cli0", "10.88.0.2/24", "10.88.0.1") }))
}

// macvlanGuest makes a namespace with a macvlan device, as containers have.
func (w *world) macvlanGuest() {
	w.t.Helper()
	w.guest = w.namespace()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = "guest0", phys(), netlink.NsFd(int(w.guest))
	w.must(netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	w.must(in(w.guest, func() error { return settle("guest0", "10.77.0.9/24", gateway4.String()) }))
}

// namespace makes one that lasts until the end of the test.
func (w *world) namespace() netns.NsHandle {
	w.t.Helper()
	var ns netns.NsHandle
	done := make(chan error, 1)
	go func() { // ends at once; its thread is not used again
		runtime.LockOSThread()
		var err error
		ns, err = netns.New()
		done <- err
	}()
	w.must(<-done)
	w.t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return ns
}

// settle gives a device its address and its way out.
func settle(device, address, gateway string) error {
	return errors.Join(addAddress(device, address), setUp(device),
		netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Gw: net.ParseIP(gateway)}))
}

func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// in runs f in a thread of the namespace.
func in(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() { // ends with f; its thread is not used again
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// serve answers behind the exit, and on the machine itself.
func (w *world) serve() {
	w.t.Helper()
	var far, own net.Listener
	w.outside.In(w.t, func() (err error) {
		far, err = net.Listen("tcp", served)
		return err
	})
	own, err := net.Listen("tcp", fmt.Sprintf(":%d", openPort))
	w.must(err)
	for _, l := range []net.Listener{far, own} {
		done := make(chan struct{})
		go func() { // ends when l is closed
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "hello")
				w.t.Cleanup(func() { _ = c.Close() })
			}
		}()
		w.t.Cleanup(func() { _ = l.Close(); <-done })
	}
}

// alive wants the tunnel to carry a connection.
func (w *world) alive() {
	w.t.Helper()
	c, err := net.DialTimeout("tcp", served, 10*time.Second)
	if err != nil {
		w.t.Fatalf("connect through the tunnel: %v", err)
	}
	defer c.Close()
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		w.t.Fatalf("read through the tunnel: %q, %v", b, err)
	}
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// run runs a short verb of cuttled and gives what it prints.
func (w *world) run(args ...string) string {
	w.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(w.bin, "cuttled"), args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("cuttled %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// startGuard writes both configurations and runs the guard, which is the exit
// too, on the router.
func (w *world) startGuard() {
	w.t.Helper()
	w.must(errors.Join(os.Mkdir(w.file("guard"), 0o700), os.Mkdir(w.file("client"), 0o700)))
	id := w.run("identity", "-state", w.file("guard"))
	w.run("identity", "-state", w.file("client"))
	w.must(os.WriteFile(w.file("map"), nil, 0o600))
	w.must(os.WriteFile(w.file("resolv.conf"), []byte("nameserver 9.9.9.9\n"), 0o644))
	w.must(os.WriteFile(w.file("guard.toml"), fmt.Appendf(nil, `[node]
state = %q
control = %q
map = %q
relay = true
exit = true
accept_clients = true
[[listen]]
mask = "plain"
address = "%s"
[exit]
allow = ["203.0.113.0/24"]
resolver = "%s:53"
`, w.file("guard"), w.file("run-guard/guard.sock"), w.file("map"), guard, hostnettest.Far4), 0o600))
	w.must(os.WriteFile(w.file("map"), []byte(w.run("record", "-config", w.file("guard.toml"))+"\n"), 0o600))
	w.must(os.WriteFile(w.file("client.toml"), fmt.Appendf(nil, `[node]
state = %q
control = %q
map = %q
[[neighbor]]
descriptor = "cuttle://%s@%s?mask=plain"
[client]
enabled = true
up = false
hops = 1
pool = 1
[tun]
resolv_conf = %q
`, w.file("client"), w.file("run-client/client.sock"), w.file("map"), id, guard, w.file("resolv.conf")), 0o600))
	w.outside.In(w.t, func() error {
		w.spawn("guard")
		return nil
	})
}

// configure adds tables to the client's configuration.
func (w *world) configure(tables string) {
	w.t.Helper()
	f, err := os.OpenFile(w.file("client.toml"), os.O_WRONLY|os.O_APPEND, 0)
	w.must(err)
	_, err = f.WriteString(tables)
	w.must(errors.Join(err, f.Close()))
}

// spawn runs a daemon in the namespace of the calling thread until the end of
// the test.
func (w *world) spawn(name string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(w.bin, "cuttled"), "-config", w.file(name+".toml"))
	log, err := os.OpenFile(w.file(name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	w.must(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if w.t.Failed() && !w.told[name] {
			w.told[name] = true
			b, _ := os.ReadFile(w.file(name + ".log"))
			w.t.Logf("%s says:\n%s", name, b)
		}
	})
	return cmd
}

// start runs the client's daemon and waits until it answers.
func (w *world) start() {
	w.t.Helper()
	w.daemon = w.spawn("client")
	w.eventually("the daemon", func() bool { _, err := w.status(); return err == nil })
}

// end ends the daemon with a signal.
func (w *world) end(sig syscall.Signal) {
	w.t.Helper()
	w.must(w.daemon.Process.Signal(sig))
	_ = w.daemon.Wait() // killed, or ended as told
}

func (w *world) status() (control.Status, error) {
	c, err := control.Dial(w.file("run-client/client.sock"))
	if err != nil {
		return control.Status{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.Status(ctx)
}

// tell calls a verb of the daemon.
func (w *world) tell(f func(*control.Client, context.Context) (control.Done, error)) {
	w.t.Helper()
	c, err := control.Dial(w.file("run-client/client.sock"))
	w.must(err)
	_, err = f(c, w.t.Context())
	w.must(err)
}

func (w *world) up()   { w.t.Helper(); w.tell((*control.Client).Up) }
func (w *world) down() { w.t.Helper(); w.tell((*control.Client).Down) }
func (w *world) lock(on bool) {
	w.t.Helper()
	w.tell(func(c *control.Client, ctx context.Context) (control.Done, error) { return c.Lock(ctx, on) })
}

func (w *world) await(states ...control.State) {
	w.t.Helper()
	w.eventually(fmt.Sprint(states), func() bool {
		s, err := w.status()
		for _, want := range states {
			if err == nil && s.State == want {
				return true
			}
		}
		return false
	})
}
