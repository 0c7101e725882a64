//go:build linux && netns

// Package hostnettest gives tests that need root a network of their own: the
// test binary runs again in fresh network and mount namespaces, and an "outside"
// namespace at the other end of a veth pair plays the internet. It is built with
// the tag netns only, is called by TestMain and tests of tun/hostnet and stack,
// and never touches the host's network. Nothing in it is locked: a test calls it
// from its own goroutine.
package hostnettest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const isolated = "CUTTLE_TEST_ISOLATED"

// Isolate runs the test binary again in network and mount namespaces of its
// own, so that no test can touch the host's.
func Isolate() {
	if os.Getenv(isolated) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fatal("make mounts private", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fatal("bring up loopback", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		fatal("these tests make network namespaces", fmt.Errorf("they must be run as root"))
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // Pdeathsig counts for the thread
	if err := cmd.Run(); err != nil {
		fatal("tests in their own namespaces", err)
	}
	os.Exit(0)
}

func fatal(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	os.Exit(1)
}

// The outside's addresses, and ours on the veth phys0.
const (
	Far4  = "203.0.113.10"
	Far6  = "2001:db8::10"
	Near4 = "10.77.0.1"
	Near6 = "fd77::1"
)

// Outside is the internet of a test: a namespace of its own at the other end of
// the veth phys0.
type Outside struct{ ns netns.NsHandle }

// In runs f in a thread of the namespace. Sockets that f opens stay there.
func (o Outside) In(tb testing.TB, f func() error) {
	tb.Helper()
	if err := inNamespace(o.ns, f); err != nil {
		tb.Fatal(err)
	}
}

func inNamespace(ns netns.NsHandle, f func() error) error {
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

// NewOutside makes the veth pair phys0-out0 with addresses and routes, until the
// end of tb.
func NewOutside(tb testing.TB) Outside {
	tb.Helper()
	ns, err := makeNamespace()
	if err != nil {
		tb.Fatal(err)
	}
	o := Outside{ns: ns}
	must := func(err error) {
		if err != nil {
			tb.Helper()
			tb.Fatal(err)
		}
	}
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.LinkAttrs.Name, veth.PeerName, veth.PeerNamespace = "phys0", "out0", netlink.NsFd(int(ns))
	must(netlink.LinkAdd(veth))
	tb.Cleanup(func() {
		if err := netlink.LinkDel(veth); err != nil {
			tb.Error(err)
		}
		if err := ns.Close(); err != nil {
			tb.Error(err)
		}
	})
	must(setup("phys0", Near4+"/24", Near6+"/64"))
	o.In(tb, func() error {
		if err := setup("lo", Far4+"/32", Far6+"/128"); err != nil {
			return err
		}
		return setup("out0", "10.77.0.2/24", "fd77::2/64")
	})
	must(settle())
	for _, via := range [][2]string{{"0.0.0.0/0", "10.77.0.2"}, {"::/0", "fd77::2"}} {
		dst, err := netlink.ParseIPNet(via[0])
		must(err)
		gw, err := netlink.ParseAddr(via[1] + map[bool]string{true: "/32", false: "/128"}[via[0] == "0.0.0.0/0"])
		must(err)
		must(netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: gw.IP}))
	}
	return o
}

// settle waits until the kernel has done what it does by itself after phys0 has
// come up.
func settle() error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		own, multicast := false, false
		for _, r := range routes {
			own = own || r.Dst != nil && r.Dst.IP.String() == Near6
			multicast = multicast || r.Dst != nil && r.Dst.String() == "ff00::/8"
		}
		if own && multicast {
			return nil
		}
		<-tick.C
	}
	return errors.New("phys0 did not come up")
}

func makeNamespace() (netns.NsHandle, error) {
	type result struct {
		ns  netns.NsHandle
		err error
	}
	done := make(chan result, 1)
	go func() { // ends at once; its thread is not used again
		runtime.LockOSThread()
		ns, err := netns.New()
		done <- result{ns, err}
	}()
	r := <-done
	return r.ns, r.err
}

func setup(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	// No link-local address, which would come at a time of its own choice.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/addr_gen_mode", []byte("1"), 0); err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}
