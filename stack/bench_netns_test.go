//go:build linux && netns

package stack

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cuttle/tun"
	"cuttle/tun/hostnet"
	"cuttle/tun/hostnet/hostnettest"
)

// captured brings up a TUN with a stack on it in front of the outside, and
// sends all unmarked traffic of this process there. Everything ends with tb.
func captured(tb testing.TB, d *direct, mtu int, plan hostnet.Config) *Stack {
	tb.Helper()
	d.control = hostnet.Control(hostnet.DefaultMark)
	return capturedWith(tb, Config{Dialer: d}, mtu, plan)
}

// capturedWith is captured with a dialer and limits of the caller's.
func capturedWith(tb testing.TB, cfg Config, mtu int, plan hostnet.Config) *Stack {
	tb.Helper()
	dev, err := tun.Open("cuttle0", mtu)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Device, cfg.Log = dev, slog.New(slog.DiscardHandler)
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }() // ends with ctx
	plan.Device = dev.Name()
	host, err := hostnet.Inspect(plan)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := hostnet.NewPlan(plan, host)
	if err != nil {
		tb.Fatal(err)
	}
	applied, err := hostnet.Apply(tb.TempDir(), p)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := applied.Revert(); err != nil {
			tb.Errorf("revert: %v", err)
		}
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("run: %v", err)
			}
		case <-time.After(2 * closeTimeout):
			tb.Error("stack did not end in time")
		}
	})
	return s
}

// BenchmarkEdge measures program -> TUN -> stack -> direct dialer -> server and
// back, all on this machine. "up" is from the program. The direct row is the
// same without TUN and stack; sing-box's has its TUN and stack in place of ours,
// in a process of its own, which counts too.
func BenchmarkEdge(b *testing.B) {
	o := hostnettest.NewOutside(b)
	server := bulkServer(b, o)
	for _, path := range []struct {
		name string
		peer bool
		mtu  int
	}{
		{"direct", false, 0},
		{"cuttle,mtu=1500", false, 1500}, {"cuttle,mtu=65535", false, 65535},
		{"sing-box,mtu=1500", true, 1500}, {"sing-box,mtu=65535", true, 65535},
	} {
		if path.peer && os.Getenv(peersVariable) == "" {
			b.Logf("%s not measured: %s names no folder of peers (make peers)", path.name, peersVariable)
			continue
		}
		for _, flows := range []int{1, 8} {
			for _, up := range []bool{false, true} {
				direction := map[bool]string{false: "down", true: "up"}[up]
				b.Run(fmt.Sprintf("%s/flows=%d/%s", path.name, flows, direction), func(b *testing.B) {
					pid := 0
					switch {
					case path.peer:
						pid = singBox(b, path.mtu)
					case path.mtu != 0:
						captured(b, &direct{}, path.mtu, hostnet.Config{})
					}
					bulk(b, server, flows, up, pid)
				})
			}
		}
	}
}

const bulkChunk = 256 << 10

// bulk moves b.N chunks over some flows together. CPU time of the process pid is
// counted too, if it is not 0.
func bulk(b *testing.B, server string, flows int, up bool, pid int) {
	per := int64(b.N) * bulkChunk / int64(flows)
	conns := make([]net.Conn, flows)
	for i := range conns {
		c, err := net.Dial("tcp", server)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		order := binary.BigEndian.AppendUint64([]byte{map[bool]byte{true: 'u', false: 'd'}[up]}, uint64(per))
		if _, err := c.Write(order); err != nil {
			b.Fatal(err)
		}
	}
	before := cpu(b) + cpuOf(b, pid)
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			buf := make([]byte, bulkChunk)
			var err error
			if up {
				for left := per; left > 0 && err == nil; left -= bulkChunk {
					_, err = c.Write(buf[:min(left, bulkChunk)])
				}
				if err == nil {
					_, err = io.ReadFull(c, buf[:1]) // the server has got everything
				}
			} else {
				_, err = io.CopyN(io.Discard, onlyReader{c, buf}, per)
			}
			if err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	bytes := float64(per) * float64(flows)
	b.ReportMetric(bytes*8/1e9/b.Elapsed().Seconds(), "Gbit/s")
	b.ReportMetric((cpu(b)+cpuOf(b, pid)-before).Seconds()/(bytes/1e9), "cpu-s/GB")
	b.ReportMetric(0, "ns/op")
}

// onlyReader reads in large pieces and keeps io.CopyN from splicing.
type onlyReader struct {
	r   io.Reader
	buf []byte
}

func (o onlyReader) Read(p []byte) (int, error) { return o.r.Read(p) }

func (o onlyReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		n, err := o.r.Read(o.buf)
		total += int64(n)
		if err != nil {
			return total, err
		}
		if _, err := w.Write(o.buf[:n]); err != nil {
			return total, err
		}
	}
}

func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bulkServer swallows data ('u', then how many bytes) and says when it has them,
// or sends it ('d').
func bulkServer(tb testing.TB, o hostnettest.Outside) string {
	var l net.Listener
	o.In(tb, func() (err error) {
		l, err = net.Listen("tcp", hostnettest.Far4+":0")
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() { // ends when l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { // ends with the connection
				defer c.Close()
				buf := make([]byte, bulkChunk)
				if _, err := io.ReadFull(c, buf[:9]); err != nil {
					return
				}
				up, left, err := buf[0] == 'u', int64(binary.BigEndian.Uint64(buf[1:9])), error(nil)
				if !up {
					for err == nil {
						_, err = c.Write(buf)
					}
					return
				}
				for n := 0; left > 0 && err == nil; left -= int64(n) {
					n, err = c.Read(buf)
				}
				if err == nil {
					_, _ = c.Write([]byte{'k'})
				}
			})
		}
	})
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
		wg.Wait()
	})
	return l.Addr().String()
}
