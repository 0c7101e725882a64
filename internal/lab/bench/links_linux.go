package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"

	"golang.org/x/sync/errgroup"
)

// Links measures what the lab's own links can carry, by the kernel and through
// the emulator: figures near this ceiling are the lab's, not Cuttle's.
func Links(ctx context.Context, c Config) (err error) {
	o := c.Options
	o.Shape, o.Billing, o.Clients = emulate.Shape{}, false, 0
	l, err := lab.Build(ctx, o, func(string) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	var b strings.Builder
	b.WriteString("| link | TCP Gbit/s 1 / 8 flows | packets/s of 100 bytes | emulator CPU s/GB (8 flows) |\n|---|---|---|---|\n")
	for _, s := range []struct {
		name  string
		shape emulate.Shape
	}{
		{"kernel", emulate.Shape{}},
		{"emulated, no loss, 1 ms", emulate.Shape{Delay: time.Millisecond}},
		{"emulated, 0.5 % loss, 1 ms", emulate.Shape{Delay: time.Millisecond, Loss: 0.005}},
		{"emulated, 1 Gbit/s, 5 ms", emulate.Shape{Delay: 5 * time.Millisecond, Rate: 1e9}},
	} {
		say("%s", s.name)
		line, err := measureLink(ctx, c, l, s.shape)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(&b, "| %s | %s |\n", s.name, line)
	}
	_, err = os.Stdout.WriteString(b.String())
	return err
}

// measureLink shapes the path between the first relay and the web server.
func measureLink(ctx context.Context, c Config, l *lab.Lab, s emulate.Shape) (string, error) {
	const from = "n1"
	if err := l.SetLink(ctx, from, "web", s); err != nil {
		return "", err
	}
	if _, _, err := l.Load(ctx, from, "prepare", load.Config{URL: server(l)}); err != nil {
		return "", err
	}
	warmup, window := c.times(near)
	var gbits [2]float64
	var cpu float64
	for i, n := range flows {
		before := l.Usages()["net"].CPU
		r, _, err := l.Load(ctx, from, "download", load.Config{URL: server(l), Flows: n, Warmup: warmup, Window: window})
		if err != nil {
			return "", err
		}
		gbits[i] = r.Gbits()
		cpu = (l.Usages()["net"].CPU - before).Seconds() / (float64(r.Total) / 1e9)
	}
	pps, err := packetRate(ctx, l, from, window)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%.2f / %.2f | %.0f | %.2f", gbits[0], gbits[1], pps, cpu), nil
}

// packetRate sends small UDP packets one way as fast as it can and counts at
// the receiver.
func packetRate(ctx context.Context, l *lab.Lab, from string, window time.Duration) (float64, error) {
	src, _ := l.Plan().Node(from)
	dst, _ := l.Plan().Node("web")
	to := netip.AddrPortFrom(dst.Hosts()[0], 4000)
	sender, err := packetSocket(src.Namespace, netip.AddrPortFrom(src.Hosts()[0], 0))
	if err != nil {
		return 0, err
	}
	receiver, err := packetSocket(dst.Namespace, to)
	if err != nil {
		return 0, errors.Join(err, sender.Close())
	}
	deadline := time.Now().Add(window)
	var received atomic.Int64
	var g errgroup.Group
	g.Go(func() error { // ends at the deadline
		packet := make([]byte, 72) // 100 bytes with the headers of UDP and IPv4
		for time.Now().Before(deadline) && ctx.Err() == nil {
			_, _ = sender.WriteToUDPAddrPort(packet, to) // a full queue is what we look for
		}
		return nil
	})
	g.Go(func() error { // ends at the deadline
		buf := make([]byte, 2048)
		for {
			if _, _, err := receiver.ReadFromUDPAddrPort(buf); err != nil {
				return nil //nolint:nilerr // the deadline
			}
			received.Add(1)
		}
	})
	err = receiver.SetReadDeadline(deadline)
	err = errors.Join(err, g.Wait(), sender.Close(), receiver.Close())
	return float64(received.Load()) / window.Seconds(), err
}

func packetSocket(namespace string, at netip.AddrPort) (c *net.UDPConn, err error) {
	err = netns.Do(namespace, func() error {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return c, err
}
