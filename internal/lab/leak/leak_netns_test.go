//go:build linux && netns

package leak

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cuttle/internal/control"
	"cuttle/tun/hostnet/hostnettest"
)

// outsideProbes are what others do to the machine, and what must not be answered
// or passed on.
func (w *world) outsideProbes() []probe {
	near := netip.MustParseAddr(hostnettest.Near4)
	fromOutside := func(send func([]byte) error) func([]byte) error {
		return func(b []byte) (err error) {
			w.outside.In(w.t, func() error { err = send(b); return nil })
			return err
		}
	}
	answer := func(port uint16) func([]byte) bool {
		return func(f []byte) bool {
			protocol, src, _ := ports(f)
			return protocol == unix.IPPROTO_TCP && src == port
		}
	}
	return []probe{
		{name: "15 forwarded", send: func(b []byte) error { return in(w.lan, func() error { return udp(public4, 4015)(b) }) }, quick: true},
		{name: "34 macvlan guest", send: func(b []byte) error { return in(w.guest, func() error { return udp(public4, 4034)(b) }) }, quick: true},
		{name: "40 pinged", send: fromOutside(echo(near))},
		{name: "40 closed port", send: fromOutside(udp(near, 4999)), seen: func(f []byte) bool {
			return len(f) > 34 && binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IP && f[23] == unix.IPPROTO_ICMP && f[34] == 3
		}},
		{name: "40 open service", send: fromOutside(tcp(near, openPort)), seen: answer(openPort)},
		{name: "40 closed service", send: fromOutside(tcp(near, 4998)), seen: answer(4998)},
	}
}

// before is a flow from before the VPN (row 16).
type before struct{ net.Conn }

func (w *world) before() before {
	w.t.Helper()
	c, err := net.Dial("tcp", served)
	w.must(err)
	w.t.Cleanup(func() { _ = c.Close() })
	return before{c}
}

func (b before) probe() probe {
	return probe{name: "16 flow from before", send: func(t []byte) error { _, err := b.Write(t); return err }}
}

// open is the positive control: every probe must be seen. What is not seen at
// once is sent again, since the kernel may just be looking for the router.
func (w *world) open(state string, probes []probe) {
	w.t.Helper()
	from := w.wire.now()
	missing := probes
	for round, sent := 0, time.Now(); time.Since(sent) < patience && len(missing) > 0; round++ {
		if round%7 == 0 {
			sendAll(missing)
		}
		time.Sleep(quiet)
		seen := w.wire.since(from)
		missing = slices.DeleteFunc(slices.Clone(missing), func(p probe) bool { return p.on(seen) })
	}
	if len(missing) > 0 {
		var names []string
		for _, p := range missing {
			names = append(names, fmt.Sprintf("%s (%v)", p.name, p.send(p.token())))
		}
		w.t.Fatalf("%s: positive control: these probes were not seen, so they show nothing: %q", state, names)
	}
	w.t.Logf("%-34s open: all %d probes are seen on the wire", state, len(probes))
}

// closed wants nothing on the wire but links and the local network's needs.
func (w *world) closed(state string, probes []probe) {
	w.t.Helper()
	from := w.wire.now()
	refused := sendAll(probes)
	time.Sleep(quiet)
	w.judge(state, from, len(probes))
	w.t.Logf("%-34s closed: %d probes, %d refused at once, %d frames, none foreign", state, len(probes), refused, len(w.wire.since(from)))
}

func (w *world) judge(state string, from, probes int) {
	w.t.Helper()
	frames := w.wire.since(from)
	if list := foreign(w.t, frames, []netip.AddrPort{guard}, own); len(list) > 0 {
		w.t.Errorf("%s: %d foreign frames after %d probes: %q", state, len(list), probes, list[:min(len(list), 12)])
	}
}

func TestNothingLeaks(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	probes := append(catalogue(), w.outsideProbes()...)
	old := w.before()
	w.open("no VPN", append(slices.Clone(probes), old.probe()))

	w.start()
	w.open("off", probes)
	w.forgetAdvertised()
	w.up()
	w.await(control.StateUp)
	w.alive()
	w.closed("up", append(slices.Clone(probes), old.probe()))
	w.advertise() // rows 17 and 18: later
	w.pushRoute()
	w.closed("up, router has advertised", probes)
	w.alive()

	w.foreignRule(probes)

	w.must(w.daemon.Process.Signal(syscall.SIGSTOP))
	w.closed("stopped (SIGSTOP)", probes)
	w.must(w.daemon.Process.Signal(syscall.SIGCONT))

	w.end(unix.SIGKILL)
	w.closed("killed (SIGKILL)", probes)
	w.start()
	w.await(control.StateUp)
	w.alive()
	w.closed("up again by itself", probes)
	w.end(unix.SIGUSR1)
	w.closed("ended for a restart (SIGUSR1)", probes)
	w.start()
	w.await(control.StateUp)

	w.down()
	w.await(control.StateOff)
	w.open("down", probes)
	w.blocked(probes)
	w.locked(probes)
}

// foreignRule has another program prefer the main table.
func (w *world) foreignRule(probes []probe) {
	w.t.Helper()
	var added []*netlink.Rule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		r := netlink.NewRule()
		r.Family, r.Table, r.Priority = family, unix.RT_TABLE_MAIN, 100
		w.must(netlink.RuleAdd(r))
		added = append(added, r)
	}
	w.closed("up, main table preferred by others", probes)
	for _, r := range added {
		w.must(netlink.RuleDel(r))
	}
	w.alive()
}

// blocked is the state after a start that fails: the TUN's name is taken.
func (w *world) blocked(probes []probe) {
	w.t.Helper()
	taken := netlink.NewVeth(netlink.LinkAttrs{Name: "cuttle0"})
	taken.PeerName = "other0"
	w.must(netlink.LinkAdd(taken))
	w.up()
	w.await(control.StateBlocked)
	w.closed("blocked (start failed)", probes)
	w.end(unix.SIGKILL)
	w.closed("blocked, killed", probes)
	w.start()
	w.await(control.StateBlocked)
	w.closed("blocked again", probes)
	w.must(netlink.LinkDel(taken))
	w.up()
	w.await(control.StateUp)
	w.alive()
	w.down()
	w.await(control.StateOff)
	w.open("down after blocked", probes)
}

// locked is the machine with the lock on.
func (w *world) locked(probes []probe) {
	w.t.Helper()
	isLocked := func() bool { _, err := os.Stat(w.file("client/lock")); return err == nil }
	w.lock(true)
	w.closed("off, locked", probes)
	w.end(unix.SIGTERM)
	if !isLocked() {
		w.t.Error("the lock is off after the daemon's end")
	}
	w.closed("daemon ended, locked", probes)
	w.run("release", "-config", w.file("client.toml"))
	w.open("released", probes)
	w.run("guard", "-config", w.file("client.toml"))
	w.open("guard without lock", probes)
	w.must(os.WriteFile(w.file("client/lock"), nil, 0o600))
	w.run("guard", "-config", w.file("client.toml"))
	w.closed("guard with lock, no daemon", probes)
	w.start()
	w.closed("daemon, off, locked", probes)
	w.up()
	w.await(control.StateUp)
	w.alive()
	w.down()
	w.await(control.StateOff)
	w.closed("down, locked", probes)
	w.lock(false)
	w.open("unlocked", probes)
	w.end(unix.SIGTERM)
	w.open("daemon ended", probes)
}

// burst sends those of the probes that are quick every 20 ms until stop is called,
// which gives the number of rounds and the longest pause between two.
func burst(all []probe) (stop func() (rounds int, gap time.Duration)) {
	var probes []probe
	for _, p := range all {
		if p.quick {
			probes = append(probes, p)
		}
	}
	end := make(chan struct{})
	var ended sync.WaitGroup
	var rounds int
	var gap time.Duration
	ended.Go(func() { // ends when end is closed
		tick := time.NewTicker(burstPause)
		defer tick.Stop()
		last := time.Now()
		for {
			sendAll(probes)
			rounds++
			select {
			case <-end:
				return
			case <-tick.C:
			}
			gap = max(gap, time.Since(last))
			last = time.Now()
		}
	})
	return func() (int, time.Duration) {
		close(end)
		ended.Wait()
		return rounds, gap
	}
}

// TestTransitionsLeakNothing sends probes all the time while the daemon changes
// its state, with and without the lock.
func TestTransitionsLeakNothing(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	w.start()
	stop := burst(append(catalogue(), w.outsideProbes()...))
	w.eventually("the burst", func() bool { return w.wire.now() > 100 })
	w.up()
	w.await(control.StateConnecting, control.StateUp)
	from := w.wire.now()
	w.await(control.StateUp)
	for range 5 {
		w.end(unix.SIGKILL)
		time.Sleep(5 * burstPause)
		w.start()
		w.await(control.StateUp)
	}
	w.must(w.daemon.Process.Signal(syscall.SIGSTOP))
	time.Sleep(5 * burstPause)
	w.must(w.daemon.Process.Signal(syscall.SIGCONT))
	w.end(unix.SIGUSR1)
	w.start()
	w.await(control.StateUp)
	w.lock(true)
	w.down()
	w.await(control.StateOff)
	w.up()
	w.await(control.StateUp)
	w.end(unix.SIGTERM)
	w.run("guard", "-config", w.file("client.toml"))
	w.start()
	w.up()
	w.await(control.StateUp)
	w.disturb()
	w.alive()
	rounds, gap := stop()
	time.Sleep(quiet)
	w.judge("transitions", from, rounds)
	t.Logf("%d rounds of probes, at most %v apart, %d frames since the machine is closed", rounds, gap, len(w.wire.since(from)))
	if rounds < 20 {
		t.Errorf("only %d rounds", rounds)
	}
	w.end(unix.SIGKILL)
	w.run("release", "-config", w.file("client.toml"))
}

// disturb changes one part at a time of what keeps traffic in, as other
// programs do, and waits until it is mended.
func (w *world) disturb() {
	w.t.Helper()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		count := func() int {
			rules, err := netlink.RuleList(family)
			w.must(err)
			return len(rules)
		}
		whole := count()
		rules, err := netlink.RuleList(family)
		w.must(err)
		for _, r := range rules {
			if r.Priority == 5300 {
				w.must(netlink.RuleDel(&r))
			}
		}
		began := time.Now()
		w.eventually("the rule", func() bool { return count() == whole })
		w.t.Logf("rule of family %d is back after %v", family, time.Since(began))
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: 51966}, netlink.RT_FILTER_TABLE)
		w.must(err)
		for _, r := range routes {
			w.must(netlink.RouteDel(&r))
		}
		began = time.Now()
		w.eventually("the routes", func() bool {
			now, err := netlink.RouteListFiltered(family, &netlink.Route{Table: 51966}, netlink.RT_FILTER_TABLE)
			w.must(err)
			return len(now) == len(routes)
		})
		w.t.Logf("routes of family %d are back after %v", family, time.Since(began))
	}
}
