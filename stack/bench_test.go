package stack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
)

// endless is a Dialer whose connections give and take without end.
type endless struct{}

func (endless) DialTCP(context.Context, Flow) (Conn, error) {
	return &endlessConn{done: make(chan struct{})}, nil
}
func (endless) DialUDP(context.Context, Flow) (PacketConn, error) { return nil, ErrProhibited }
func (endless) DialEcho(context.Context, Flow) (PacketConn, error) {
	return nil, ErrProhibited
}
func (endless) Resolve(context.Context, Flow, []byte) ([]byte, error) {
	return nil, errors.New("no resolver")
}

type endlessConn struct {
	done chan struct{}
	once sync.Once
}

func (c *endlessConn) Read(p []byte) (int, error) {
	select {
	case <-c.done:
		return 0, io.EOF
	default:
		return len(p), nil
	}
}
func (c *endlessConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *endlessConn) end() error                  { c.once.Do(func() { close(c.done) }); return nil }
func (c *endlessConn) CloseWrite() error           { return nil }
func (c *endlessConn) Reset() error                { return c.end() }
func (c *endlessConn) Close() error                { return c.end() }

// BenchmarkStack moves 64 KiB an iteration between a program and the stack's
// Conn, over devices in memory. The program's own netstack costs about as much as
// the Stack.
func BenchmarkStack(b *testing.B) {
	for _, way := range []string{"up", "down"} {
		b.Run(way, func(b *testing.B) {
			p := newPrograms(b, endless{}, Config{})
			c, err := p.dialTCP(b, netip.AddrPortFrom(far4, 80))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, 64<<10)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				if way == "up" {
					_, err = c.Write(buf)
				} else {
					_, err = io.ReadFull(c, buf)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
