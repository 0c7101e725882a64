//go:build linux && netns

package leak

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cuttle/internal/control"
	"cuttle/tun/hostnet"
	"cuttle/tun/hostnet/hostnettest"
)

const (
	splitUser = 1500
	// splitNet is a destination that goes past the tunnel; splitAddress is in it,
	// and nowhere else is.
	splitNet = "198.18.50.0/24"
)

var (
	splitAddress = netip.MustParseAddr("198.18.50.7")
	neighbor4    = netip.MustParseAddr("10.77.0.2")
	neighbor6    = netip.MustParseAddr("fd77::2")
)

// by runs a probe as another user.
func by(uid uintptr, send func([]byte) error) func([]byte) error {
	return onOtherThread(func() error {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
			return e
		}
		return nil
	}, send)
}

// allowed wants each of these on the wire, as the positive control does, and no
// frame that none of them explains.
func (w *world) allowed(state string, let, probes []probe) {
	w.t.Helper()
	from := w.wire.now()
	w.open(state+": let through", let)
	sendAll(probes)
	time.Sleep(quiet)
	var frames [][]byte
	for _, f := range w.wire.since(from) {
		if !slices.ContainsFunc(let, func(p probe) bool { return p.on([][]byte{f}) }) {
			frames = append(frames, f)
		}
	}
	if list := foreign(w.t, frames, []netip.AddrPort{guard}, own); len(list) > 0 {
		w.t.Errorf("%s: %d foreign frames: %q", state, len(list), list[:min(len(list), 12)])
	}
	w.t.Logf("%-34s closed but for %d: %d probes", state, len(let), len(probes))
}

func (w *world) host() control.HostStatus {
	w.t.Helper()
	c, err := control.Dial(w.file("run-client/client.sock"))
	w.must(err)
	h, err := c.Host(w.t.Context())
	w.must(err)
	return h
}

func (w *world) lanAccess(on bool) {
	w.t.Helper()
	w.tell(func(c *control.Client, ctx context.Context) (control.Done, error) { return c.SetLAN(ctx, on) })
}

// without leaves out the probes whose names begin with one of these.
func without(probes []probe, names ...string) []probe {
	return slices.DeleteFunc(slices.Clone(probes), func(p probe) bool {
		return slices.ContainsFunc(names, func(n string) bool { return len(p.name) >= len(n) && p.name[:len(n)] == n })
	})
}

// TestLANAccess lets private networks through that the machine is in, and nothing
// else: no DNS, no public network that somebody calls local, no multicast.
func TestLANAccess(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	let := []probe{
		{name: "50 lan", send: udp(neighbor4, 4050)}, {name: "50 lan6", send: udp(neighbor6, 4050)},
		{name: "50 lan by device", send: udp(neighbor4, 4051, toDevice)},
		{name: "50 lan tcp", send: tcp(neighbor4, 4052), seen: syn(4052)},
		{name: "50 lan ping", send: echo(neighbor4)},
	}
	// What is near counts as let through: row 33 goes to the LAN, too, and the
	// machine answers its neighbors. Row 13 goes to all of them, and is not.
	probes := without(append(catalogue(), w.outsideProbes()...), "33 ", "40 ")
	probes = append(probes, probe{name: "51 dns to the lan over ipv6", send: udp(neighbor6, 53)},
		probe{name: "51 dns to the lan by packet", send: frameTo(neighbor4, 53)},
		probe{name: "51 broadcast by packet", send: frameTo(netip.MustParseAddr("10.77.0.255"), 137)})
	w.open("no VPN", append(slices.Clone(probes), let...))
	w.start()
	w.up()
	w.await(control.StateUp)
	w.closed("lan off", append(slices.Clone(probes), let...))
	w.lanAccess(true)
	if h := w.host(); !h.LAN || len(h.Networks) < 2 {
		t.Errorf("networks let through: %q", h.Networks)
	}
	w.allowed("lan on", let, probes)
	w.alive()
	w.end(unix.SIGKILL)
	w.allowed("lan on, killed", let, probes)
	w.start()
	w.await(control.StateUp)
	w.allowed("lan on, up again by itself", let, probes)
	w.must(addAddress("phys0", "172.20.5.1/24"))
	late := []probe{{name: "50 network that came later", send: udp(netip.MustParseAddr("172.20.5.2"), 4053), seen: arpFor("172.20.5.2")}}
	w.allowed("lan on, another network", late, probes)
	w.lanAccess(false)
	w.closed("lan off again", append(slices.Clone(probes), let...))
	w.down()
	w.await(control.StateOff)
	w.end(unix.SIGTERM)
}

// arpFor finds questions for an address.
func arpFor(a string) func([]byte) bool {
	want := netip.MustParseAddr(a).As4()
	return func(f []byte) bool {
		return len(f) >= 42 && binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_ARP && [4]byte(f[38:42]) == want
	}
}

// frameTo sends an Ethernet frame with UDP to a neighbor.
func frameTo(to netip.Addr, port uint16) func([]byte) error {
	return func(b []byte) error {
		link, err := net.InterfaceByName("phys0")
		if err != nil {
			return err
		}
		p := packet4(b)
		d := to.As4()
		copy(p[16:], d[:])
		binary.BigEndian.PutUint16(p[22:], port)
		f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, link.HardwareAddr...)
		f = append(binary.BigEndian.AppendUint16(f, unix.ETH_P_IP), p...)
		return with(unix.AF_PACKET, unix.SOCK_RAW, 0, nil, func(fd int) error {
			return unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_IP), Ifindex: link.Index})
		})
	}
}

// senderEnv names the control socket to a process that sends what it is told, in the
// cgroup that the daemon put it into; portalEnv makes that the portal's.
const (
	senderEnv = "CUTTLE_LEAK_SENDER"
	portalEnv = "CUTTLE_LEAK_PORTAL"
)

// sendLines is what that process does: a line is protocol, destination and payload.
func sendLines(socket string) error {
	c, err := control.Dial(socket)
	if err != nil {
		return err
	}
	j, err := c.Exclude(context.Background(), os.Getenv(portalEnv) != "")
	if err != nil || !j.Joined {
		return fmt.Errorf("not excluded (%+v): %w", j, err)
	}
	fmt.Println("ready")
	var protocol, to, text string
	for {
		if _, err := fmt.Scanln(&protocol, &to, &text); err != nil {
			return nil //nolint:nilerr // the end of the input is ours
		}
		b, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		send := udp
		if protocol == "tcp" {
			send = tcp
		}
		a := netip.MustParseAddrPort(to)
		_ = send(a.Addr(), a.Port())(b) // refused: that is seen on the wire
		fmt.Println("sent")
	}
}

// sender sends by such a process.
type sender func(protocol string, a netip.Addr, port uint16) func([]byte) error

func (s sender) udp(a netip.Addr, port uint16) func([]byte) error { return s("udp", a, port) }
func (s sender) tcp(a netip.Addr, port uint16) func([]byte) error { return s("tcp", a, port) }

// sender starts such a process, among those that go past the tunnel, or those that may
// see a login page.
func (w *world) sender(portal bool) sender {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), senderEnv+"="+w.file("run-client/client.sock"))
	if portal {
		cmd.Env = append(cmd.Env, portalEnv+"=1")
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	w.must(err)
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	wait := func() error {
		b := make([]byte, 64)
		_, err := out.Read(b)
		return err
	}
	w.must(wait())
	return func(protocol string, a netip.Addr, port uint16) func([]byte) error {
		return func(b []byte) error {
			_, err := fmt.Fprintf(in, "%s %s %x\n", protocol, netip.AddrPortFrom(a, port), b)
			return errors.Join(err, wait())
		}
	}
}

// TestSplit lets listed users, networks and cgroups past the tunnel, but for DNS.
func TestSplit(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	w.configure(fmt.Sprintf("[split]\nusers = [\"%d\"]\nnetworks = [%q]\n", splitUser, splitNet))
	w.outside.In(t, func() error { return addAddress("lo", splitAddress.String()+"/32") })
	let := []probe{
		{name: "52 user", send: by(splitUser, udp(public4, 4052))}, {name: "52 user6", send: by(splitUser, udp(public6, 4052))},
		{name: "53 network", send: udp(splitAddress, 4053)},
	}
	probes := append(catalogue(), w.outsideProbes()...)
	probes = append(probes, probe{name: "54 dns of the user", send: by(splitUser, udp(resolver4, 53))},
		probe{name: "54 dns to the network", send: udp(splitAddress, 53)}, probe{name: "55 user next to it", send: by(splitUser+1, udp(public4, 4055))})
	w.open("no VPN", append(slices.Clone(probes), let...))
	w.start()
	w.up()
	w.await(control.StateUp)
	w.allowed("split", let, probes)
	w.alive()
	w.answered(splitAddress)

	if _, err := hostnet.MakeCgroup("cuttle/exclude"); err != nil {
		t.Fatalf("this machine has no cgroups of version 2, which the suite needs: %v", err)
	}
	outside := w.sender(false).udp
	inGroup := probe{name: "56 cgroup", send: outside(public4, 4056)}
	w.allowed("split, excluded program", append(slices.Clone(let), inGroup),
		append(slices.Clone(probes), probe{name: "57 dns of the cgroup", send: outside(resolver4, 53)}, probe{name: "57 outside the cgroup", send: udp(public4, 4057)}))
	w.end(unix.SIGUSR1)
	w.closed("blocked with a split", without(probes, "53", "52"))
	w.start()
	w.await(control.StateUp)
	w.down()
	w.await(control.StateOff)
	w.end(unix.SIGTERM)
}

// answered wants a connection past the tunnel to work both ways.
func (w *world) answered(a netip.Addr) {
	w.t.Helper()
	var l net.Listener
	w.outside.In(w.t, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(a, 7070).String())
		return err
	})
	from := make(chan string, 1)
	go func() { // ends when l is closed or has accepted
		c, err := l.Accept()
		if err != nil {
			from <- err.Error()
			return
		}
		_, _ = io.WriteString(c, "hello")
		from <- c.RemoteAddr().(*net.TCPAddr).IP.String()
		_ = c.Close()
	}()
	c, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
	if err == nil {
		b := make([]byte, 5)
		_, err = io.ReadFull(c, b)
		_ = c.Close()
	}
	_ = l.Close()
	if got := <-from; err != nil || got != hostnettest.Near4 {
		w.t.Errorf("a connection past the tunnel came from %s (%v), want %s", got, err, hostnettest.Near4)
	}
}

// TestOnly lets everything past the tunnel but what is listed, and DNS.
func TestOnly(t *testing.T) {
	w := newWorld(t)
	w.configure(fmt.Sprintf("[split]\nmode = \"only\"\nusers = [\"%d\"]\n", splitUser))
	inside := []probe{
		{name: "58 user", send: by(splitUser, udp(public4, 4058))}, {name: "58 dns", send: udp(resolver4, 53)}, {name: "58 dns to the gateway", send: udp(gateway4, 53)},
		{name: "58 user by device", send: by(splitUser, udp(public4, 4058))},
	}
	let := []probe{{name: "59 others", send: udp(public4, 4059)}, {name: "59 other user", send: by(splitUser+1, udp(public4, 4059))}}
	w.open("no VPN", append(slices.Clone(inside), let...))
	w.start()
	w.up()
	w.await(control.StateUp)
	w.allowed("only what is listed", let, inside)
	w.end(unix.SIGKILL)
	w.closed("only what is listed, killed", inside)
	w.start()
	w.await(control.StateUp)
	w.down()
	w.await(control.StateOff)
	w.end(unix.SIGTERM)
}
