//go:build linux && netns

package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cuttle/tun/hostnet"
	"cuttle/tun/hostnet/hostnettest"
)

// echoes is a Dialer whose connections give back what they get, in memory: with
// it, all there is of a flow is the stack's.
type echoes struct{}

func (echoes) DialTCP(context.Context, Flow) (Conn, error)       { return newEcho(), nil }
func (echoes) DialUDP(context.Context, Flow) (PacketConn, error) { return newEcho(), nil }

func (echoes) DialEcho(context.Context, Flow) (PacketConn, error) { return newEcho(), nil }

func (echoes) Resolve(context.Context, Flow, []byte) ([]byte, error) {
	return nil, errors.New("no resolver")
}

type echo struct {
	data chan []byte
	done chan struct{}
	once sync.Once
}

func newEcho() *echo { return &echo{data: make(chan []byte, 1), done: make(chan struct{})} }

func (e *echo) Read(p []byte) (int, error) {
	select {
	case b := <-e.data:
		return copy(p, b), nil
	case <-e.done:
		return 0, io.EOF
	}
}

func (e *echo) WriteTo(w io.Writer) (int64, error) {
	for {
		select {
		case b := <-e.data:
			if n, err := w.Write(b); err != nil {
				return int64(n), err
			}
		case <-e.done:
			return 0, io.EOF
		}
	}
}

func (e *echo) Write(p []byte) (int, error) {
	select {
	case e.data <- append([]byte(nil), p...):
		return len(p), nil
	case <-e.done:
		return 0, io.ErrClosedPipe
	}
}

func (e *echo) end() error        { e.once.Do(func() { close(e.done) }); return nil }
func (e *echo) CloseWrite() error { return e.end() }
func (e *echo) Reset() error      { return e.end() }
func (e *echo) Close() error      { return e.end() }

// usage is what the process has.
type usage struct{ goroutines, memory int }

func use() usage {
	runtime.GC()
	runtime.GC() // what finalizers and pools of the first have let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{runtime.NumGoroutine(), int(m.HeapAlloc + m.StackInuse)}
}

// TestManyFlows opens 10,000 TCP flows and 5,000 UDP flows, each of which has
// carried something, and looks at what the stack needs for them; then 1,000 UDP
// flows too many, for which the longest idle ones go; and nothing is left when
// they have ended.
func TestManyFlows(t *testing.T) {
	const tcpFlows, udpFlows, extra = 10_000, 5_000, 1_000
	const (
		perTCP        = 2*waitSize + 40<<10 // bytes of heap and stacks for an idle TCP flow: it waits with a buffer in each direction
		perUDP        = 24 << 10
		perGoroutines = 3
	)
	const files = tcpFlows + udpFlows + extra + 500
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < files {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: max(files, limit.Max), Max: max(files, limit.Max)}); err != nil {
			t.Fatalf("the test needs %d open files and may have %d: %v", files, limit.Max, err)
		}
	}
	hostnettest.NewOutside(t)
	s := capturedWith(t, Config{Dialer: echoes{}, MaxTCP: tcpFlows, MaxUDP: udpFlows, MaxUDPSource: udpFlows}, DefaultMTU, hostnet.Config{})
	idle := use()
	check := func(what string, n, per int, before usage) usage {
		after := use()
		goroutines, memory := after.goroutines-before.goroutines, after.memory-before.memory
		t.Logf("%d %s flows: %.1f goroutines and %.1f KiB each", n, what, float64(goroutines)/float64(n), float64(memory)/float64(n)/1024)
		if goroutines > perGoroutines*n+100 || memory > per*n {
			t.Errorf("%d %s flows take %d goroutines and %d bytes, want at most %d and %d", n, what, goroutines, memory, perGoroutines*n, per*n)
		}
		return after
	}
	tcp := open(t, "tcp", tcpFlows)
	with := check("TCP", tcpFlows, perTCP, idle)
	udp := open(t, "udp", udpFlows)
	check("UDP", udpFlows, perUDP, with)
	if got := s.udp.len(); got != udpFlows {
		t.Errorf("%d UDP flows, want %d", got, udpFlows)
	}
	before := s.udp.keys()
	udp = append(udp, open(t, "udp", extra)...)
	after := s.udp.keys()
	if len(after) != udpFlows {
		t.Errorf("%d UDP flows after %d too many, want %d", len(after), extra, udpFlows)
	}
	for i, c := range udp[:udpFlows] { // they were opened, and last used, in this order
		port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if want := i >= extra; before[port] && after[port] != want {
			t.Fatalf("UDP flow %d of %d is there: %v, want %v: the longest idle go first", i, udpFlows, after[port], want)
		}
	}
	if err := exchange(tcp[0]); err != nil {
		t.Errorf("the oldest TCP flow is dead: %v", err)
	}
	for _, c := range append(tcp, udp...) {
		_ = c.Close()
	}
	if !eventually(time.Minute, func() bool { return s.tcpFlows.Load() == 0 }) {
		t.Errorf("%d TCP flows are left after all have ended", s.tcpFlows.Load())
	}
}

// keys are the ports of programs that have a flow.
func (t *udpTable) keys() map[uint16]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ports := make(map[uint16]bool)
	for k := range t.flows {
		ports[k.src.Port()] = true
	}
	return ports
}

// open opens flows one after another; each carries a little both ways.
func open(t *testing.T, network string, n int) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.DialTimeout(network, net.JoinHostPort(hostnettest.Far4, "7"), time.Minute)
		if err != nil {
			t.Fatalf("%s flow %d: %v", network, i, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := exchange(c); err != nil {
			t.Fatalf("%s flow %d: %v", network, i, err)
		}
		conns[i] = c
	}
	return conns
}

// exchange sends a little and wants it back; a datagram again and again, since one
// may be dropped on a busy machine.
func exchange(c net.Conn) error {
	tries, each := 1, time.Minute
	if _, ok := c.(*net.UDPConn); ok {
		tries, each = 12, 5*time.Second
	}
	var err error
	for range tries {
		if err = exchangeOnce(c, each); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return errors.Join(err, c.SetDeadline(time.Time{}))
}

func exchangeOnce(c net.Conn, limit time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	var buf [8]byte
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	n, err := c.Read(buf[:])
	if err == nil && string(buf[:n]) != "hello" {
		err = fmt.Errorf("got %q back", buf[:n])
	}
	return err
}
