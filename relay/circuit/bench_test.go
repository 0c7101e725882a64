package circuit

import (
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cuttle/relay/wire"
)

// tcpPair is a connection over loopback, both ends.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTransfer moves full packets through a circuit over loopback TCP; all
// nodes share this machine's processors. One operation is one cell.
func BenchmarkTransfer(b *testing.B) {
	for _, hops := range []int{1, 3} {
		for _, way := range []string{"up", "down"} {
			b.Run(fmt.Sprintf("%s/hops=%d", way, hops), func(b *testing.B) {
				var got atomic.Int64
				arrived := make(chan struct{}, 1)
				count := func(_ byte, _ wire.Class, p []byte) error {
					got.Add(1)
					select {
					case arrived <- struct{}{}:
					default:
					}
					return nil
				}
				terminal := make(chan *Terminal, 1)
				tn := newNet(b, hops+1, func(i int, cfg *SwitchConfig) {
					if i == hops {
						cfg.Serve = func(x *Terminal) (Handler, error) { terminal <- x; return count, nil }
					}
				})
				for i := range hops {
					ci, cj := tcpPair(b)
					tn.connect(i, i+1, ci, cj)
				}
				c := tn.mustBuild(upTo(hops)...)
				c.Attach(count)
				p := make([]byte, wire.SessionPacketSize)
				if err := c.Send(wire.PayloadSession, wire.Reliable, p); err != nil {
					b.Fatal(err)
				}
				var from carrier = c
				x := <-terminal
				if way == "down" {
					from = x
				}
				for got.Load() < 1 {
					<-arrived
				}
				b.ReportAllocs()
				b.SetBytes(wire.SessionPacketSize)
				cpu, sent := cpuTime(), int64(1)
				for b.Loop() {
					if err := from.Send(wire.PayloadSession, wire.Reliable, p); err != nil {
						b.Fatal(err)
					}
					sent++
				}
				for got.Load() < sent {
					<-arrived
				}
				cpu = cpuTime() - cpu
				bytes := float64(b.N) * wire.SessionPacketSize
				b.ReportMetric(cpu.Seconds()/bytes*1e9, "cpu-s/GB")
				b.ReportMetric(bytes*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
				b.StopTimer()
				c.Close()
			})
		}
	}
}
