//go:build linux && netns

package emulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

var (
	addrA = netip.MustParseAddr("10.77.1.2")
	addrB = netip.MustParseAddr("10.77.2.2")
	sixA  = netip.MustParseAddr("fd77:1::2")
	sixB  = netip.MustParseAddr("fd77:2::2")
)

// path is two nodes joined by a router with an emulator.
type path struct{ a, b, socket string }

func newPath(t *testing.T) path {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the namespace tests need root")
	}
	prefix := fmt.Sprintf("cuttletest-%d-", os.Getpid())
	router := prefix + "r"
	p := path{a: prefix + "a", b: prefix + "b", socket: filepath.Join(t.TempDir(), "s")}
	for _, n := range []string{router, p.a, p.b} {
		if err := netns.Create(n); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(n); err != nil {
				t.Error(err)
			}
		})
	}
	if err := netns.Router(router); err != nil {
		t.Fatal(err)
	}
	for i, n := range []string{p.a, p.b} {
		var ends [2]netns.End
		ends[0] = netns.End{Namespace: router, Interface: fmt.Sprintf("to-%d", i)}
		ends[1] = netns.End{Namespace: n, Interface: "phys0"}
		for host := range 2 {
			ends[host].Addresses = []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.77.%d.%d/24", i+1, host+1)), netip.MustParsePrefix(fmt.Sprintf("fd77:%d::%d/64", i+1, host+1)),
			}
		}
		ends[1].Gateways = []netip.Addr{ends[0].Addresses[0].Addr(), ends[0].Addresses[1].Addr()}
		if err := netns.Connect(ends[0], ends[1]); err != nil {
			t.Fatal(err)
		}
	}
	p.start(t, router)
	return p
}

// start runs the emulator on a thread in the router's namespace.
func (p path) start(t *testing.T, router string) {
	t.Helper()
	ln, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	var e *Emulator
	if err := netns.Do(router, func() (err error) { e, err = NewEmulator(1); return err }); err != nil {
		t.Fatalf("NewEmulator: %v", err)
	}
	e.inside = func(f func() error) error { return netns.Do(router, f) }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx, ln) }() // ends with ctx
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

func (p path) shape(t *testing.T, s Shape) {
	t.Helper()
	if err := Ask(t.Context(), p.socket, Request{A: []netip.Addr{addrA, sixA}, B: []netip.Addr{addrB, sixB}, Shape: s}); err != nil {
		t.Fatalf("Ask: %v", err)
	}
}

// packets opens a UDP socket inside a namespace.
func packets(t *testing.T, namespace, address string) *net.UDPConn {
	t.Helper()
	var pc net.PacketConn
	err := netns.Do(namespace, func() (err error) { pc, err = net.ListenPacket("udp", address); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return pc.(*net.UDPConn)
}

// echo answers at b until the test ends.
func (p path) echo(t *testing.T, addr netip.Addr) netip.AddrPort {
	t.Helper()
	at := netip.AddrPortFrom(addr, 4000)
	pc := packets(t, p.b, at.String())
	done := make(chan struct{})
	go func() { // ends when the cleanup closes the socket
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = pc.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
	t.Cleanup(func() { _ = pc.Close(); <-done })
	return at
}

// roundTrips sends n packets one after another and gives the times of those
// that came back within a second.
func roundTrips(t *testing.T, pc *net.UDPConn, to netip.AddrPort, n int, within time.Duration) []time.Duration {
	t.Helper()
	var times []time.Duration
	buf := make([]byte, 2048)
	for range n {
		begin := time.Now()
		if _, err := pc.WriteToUDPAddrPort([]byte("x"), to); err != nil {
			t.Fatal(err)
		}
		_ = pc.SetReadDeadline(begin.Add(within))
		if _, _, err := pc.ReadFromUDPAddrPort(buf); err == nil {
			times = append(times, time.Since(begin))
		}
	}
	slices.Sort(times)
	return times
}

func TestDelayOfBothFamilies(t *testing.T) {
	p := newPath(t)
	for _, addr := range []netip.Addr{addrB, sixB} {
		to := p.echo(t, addr)
		local := addrA
		if addr.Is6() {
			local = sixA
		}
		pc := packets(t, p.a, netip.AddrPortFrom(local, 0).String())
		p.shape(t, Shape{})
		plain := roundTrips(t, pc, to, 20, time.Second)
		p.shape(t, Shape{Delay: 25 * time.Millisecond})
		slow := roundTrips(t, pc, to, 20, time.Second)
		if len(plain) != 20 || len(slow) != 20 {
			t.Fatalf("%s: %d and %d packets came back, want 20 each", addr, len(plain), len(slow))
		}
		// The shortest of each: what else runs on this machine only adds.
		if extra := slow[0] - plain[0]; slow[0] < 50*time.Millisecond || extra > 65*time.Millisecond {
			t.Errorf("%s: the shortest round trip grew from %v to %v, want 50ms, and about as much more", addr, plain[0], slow[0])
		}
		p.shape(t, Shape{Down: true})
		if got := roundTrips(t, pc, to, 3, 50*time.Millisecond); len(got) != 0 {
			t.Errorf("%s: %d packets passed a partition", addr, len(got))
		}
		p.shape(t, Shape{})
		if got := roundTrips(t, pc, to, 3, time.Second); len(got) != 3 || got[0] > plain[0]+20*time.Millisecond {
			t.Errorf("%s: after the partition round trips take %v, want three short ones", addr, got)
		}
	}
}

func TestLoss(t *testing.T) {
	p := newPath(t)
	p.shape(t, Shape{Loss: 0.2})
	from, to := packets(t, p.a, "10.77.1.2:0"), packets(t, p.b, "10.77.2.2:4000")
	raw, err := to.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { // the socket's buffer must not be what loses packets
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	const n = 5000
	received := make(chan int, 1)
	go func() { // ends with the deadline
		buf := make([]byte, 2048)
		got := 0
		for {
			if _, _, err := to.ReadFromUDPAddrPort(buf); err != nil {
				received <- got
				return
			}
			got++
		}
	}()
	for i := range n {
		if _, err := from.WriteToUDPAddrPort(make([]byte, 100), netip.AddrPortFrom(addrB, 4000)); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			time.Sleep(2 * time.Millisecond) // nor the device's queue
		}
	}
	if err := to.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := float64(n-<-received) / n; math.Abs(got-0.2) > 0.03 { // five standard deviations
		t.Errorf("lost %.3f of the packets, want 0.2", got)
	}
}

// transfer sends n bytes from a to b over TCP and gives bits per second.
func (p path) transfer(t *testing.T, n int64) float64 {
	t.Helper()
	var ln net.Listener
	if err := netns.Do(p.b, func() (err error) { ln, err = net.Listen("tcp", "10.77.2.2:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	sent := make(chan error, 1)
	go func() { // ends when everything is sent
		c, err := netns.Dial(t.Context(), p.a, "tcp", ln.Addr().String())
		if err == nil {
			_, err = io.CopyN(c, zero{}, n)
			err = errors.Join(err, c.Close())
		}
		sent <- err
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	got, err := io.Copy(io.Discard, c)
	took := time.Since(begin)
	if err = errors.Join(err, <-sent, c.Close()); err != nil || got != n {
		t.Fatalf("received %d of %d bytes, %v", got, n, err)
	}
	return float64(n) * 8 / took.Seconds()
}

type zero struct{}

func (zero) Read(b []byte) (int, error) { return len(b), nil }

// best is the fastest of a few transfers, none of which may pass limit: what
// else runs on this machine only slows them.
func (p path) best(t *testing.T, n int64, limit float64) float64 {
	t.Helper()
	var best float64
	for try := 0; try < 5 && best < 0.75*limit; try++ {
		got := p.transfer(t, n)
		if got > 1.1*limit { // a queue of 50 ms may be full when the first byte is read
			t.Errorf("a line of %.0f Mbit/s carries %.1f Mbit/s", limit/1e6, got/1e6)
		}
		best = max(best, got)
	}
	return best
}

func TestRate(t *testing.T) {
	p := newPath(t)
	p.shape(t, Shape{Rate: 10e6})
	slow := p.best(t, 2e6, 10e6)
	p.shape(t, Shape{Rate: 40e6})
	fast := p.best(t, 8e6, 40e6)
	if slow < 5e6 || fast/slow < 2 {
		t.Errorf("lines of 10 and 40 Mbit/s carry %.1f and %.1f Mbit/s", slow/1e6, fast/1e6)
	}
}

func TestAskRefuses(t *testing.T) {
	p := newPath(t)
	if err := Ask(t.Context(), p.socket, Request{A: []netip.Addr{addrA}, B: []netip.Addr{addrB}, Shape: Shape{Loss: 2}}); err == nil {
		t.Error("a shape that makes no sense is taken")
	}
	if err := Ask(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("an emulator that does not run answers")
	}
}
