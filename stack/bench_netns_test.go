//go:build linux && netns

package stack

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
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
	dev, err := tun.Open("cuttle0", mtu)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := New(Config{Device: dev, Dialer: d, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }() // ends with ctx
	plan.Device = dev.Name()
	host, err := hostnet.Inspect()
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
// same without TUN and stack.
func BenchmarkEdge(b *testing.B) {
	o := hostnettest.NewOutside(b)
	server := bulkServer(b, o)
	for _, mtu := range []int{0, 1500, 9000, 65535} {
		for _, flows := range []int{1, 8} {
			for _, up := range []bool{true, false} {
				name := fmt.Sprintf("mtu=%d/flows=%d/up=%v", mtu, flows, up)
				if mtu == 0 {
					name = fmt.Sprintf("direct/flows=%d/up=%v", flows, up)
				}
				b.Run(name, func(b *testing.B) {
					if mtu != 0 {
						captured(b, &direct{}, mtu, hostnet.Config{})
					}
					bulk(b, server, flows, up)
				})
			}
		}
	}
}

const bulkChunk = 256 << 10

// bulk moves b.N chunks over each of some flows.
func bulk(b *testing.B, server string, flows int, up bool) {
	conns := make([]net.Conn, flows)
	for i := range conns {
		c, err := net.Dial("tcp", server)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		if _, err := c.Write([]byte{map[bool]byte{true: 'u', false: 'd'}[up]}); err != nil {
			b.Fatal(err)
		}
	}
	per := int64(b.N) * bulkChunk / int64(flows)
	before := cpu(b)
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
					err = c.(*net.TCPConn).CloseWrite()
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
	b.ReportMetric((cpu(b)-before).Seconds()/(bytes/1e9), "cpu-s/GB")
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

// bulkServer swallows data ('u') or sends it ('d').
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
				if _, err := io.ReadFull(c, buf[:1]); err != nil {
					return
				}
				up, err := buf[0] == 'u', error(nil)
				for err == nil {
					if up {
						_, err = c.Read(buf)
					} else {
						_, err = c.Write(buf)
					}
				}
				if up {
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
