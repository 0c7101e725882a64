package stack

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"cuttle/tun"
)

// hanging is a Dialer whose dials and resolutions last until they are told to
// end, for ports other than 80 and 7.
type hanging struct{ *direct }

func (h hanging) DialTCP(ctx context.Context, f Flow) (Conn, error) {
	if f.Dst().Port() != 80 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.direct.DialTCP(ctx, f)
}

func (h hanging) Resolve(ctx context.Context, _ Flow, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestStopEndsEverything stops a stack with flows in every state. The test
// package's leak check sees what stays.
func TestStopEndsEverything(t *testing.T) {
	reset := make(chan error, 1)
	server := listen(t, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		reset <- err
	})
	echo := echoUDP(t)
	d := hanging{&direct{rewrite: func(a netip.AddrPort) netip.AddrPort {
		if a.Port() == 7 {
			return echo
		}
		return server
	}}}
	t.Run("stack", func(t *testing.T) { // stops at the end of this subtest
		p := newPrograms(t, d, Config{})
		c, err := p.dialTCP(t, netip.AddrPortFrom(far4, 80))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		udp := p.dialUDP(t, netip.AddrPortFrom(far4, 7))
		if _, err := udp.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		question := p.dialUDP(t, netip.AddrPortFrom(far6, 53))
		if _, err := question.Write([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1}); err != nil {
			t.Fatal(err)
		}
		pending := make(chan struct{})
		go func() { // ends when the other netstack is closed, or is reset
			defer close(pending)
			if c, err := p.dialTCP(t, netip.AddrPortFrom(far6, 443)); err == nil {
				_ = c.Close()
				t.Error("connected although the dialer has not")
			}
		}()
		t.Cleanup(func() { <-pending; _ = c.Close() })
		if !eventually(20*time.Second, func() bool {
			s := p.stack.Stats()
			return s.TCPFlows == 2 && s.UDPFlows == 1 && len(p.stack.resolves) == 1
		}) {
			t.Fatalf("flows are %+v, want two of TCP, one of UDP and a question", p.stack.Stats())
		}
		p.stop(t)
	})
	if err := <-reset; err == nil {
		t.Error("server saw an orderly end of a flow that was cut, want a reset")
	}
}

func TestNewRefuses(t *testing.T) {
	near, far := tun.Pair(1500)
	defer far.Close()
	small, _ := tun.Pair(1000)
	good := Config{Device: near, Dialer: &direct{}, Log: slog.New(slog.DiscardHandler)}
	for name, change := range map[string]func(*Config){
		"no device":    func(c *Config) { c.Device = nil },
		"no dialer":    func(c *Config) { c.Dialer = nil },
		"no log":       func(c *Config) { c.Log = nil },
		"small mtu":    func(c *Config) { c.Device = small },
		"small path":   func(c *Config) { c.PathMTU = 600 },
		"small limit":  func(c *Config) { c.MaxUDP = -1 },
		"small buffer": func(c *Config) { c.MaxBuffer = 1000 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
