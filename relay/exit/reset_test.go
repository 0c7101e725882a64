package exit

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

// TestResetIsNoEnd: a connection that the far end resets while both directions are at
// the socket never reads as one that has finished, whichever of them the kernel tells of
// the reset.
func TestResetIsNoEnd(t *testing.T) {
	const rounds, atOnce = 200, 4
	dst := listen(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("part of an answer"))
		_, _ = c.Read(make([]byte, 1))
		time.Sleep(5 * time.Millisecond) // the writer fills the socket meanwhile
		_ = c.SetLinger(0)
	})
	tests := []struct {
		name  string
		write func(c *tcpConn, b []byte) error
		read  func(c *tcpConn) error
	}{
		{"vectors and WriteTo",
			func(c *tcpConn, b []byte) error {
				_, err := c.WriteVector(&net.Buffers{b})
				return err
			},
			func(c *tcpConn) error {
				_, err := c.WriteTo(io.Discard)
				return err
			}},
		{"Write and Read",
			func(c *tcpConn, b []byte) error {
				_, err := c.Write(b)
				return err
			},
			func(c *tcpConn) error {
				_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
				return err
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newExit(t, Config{Limits: Limits{Rate: 1e6, Burst: 1e6, TotalRate: 1e6, TotalBurst: 1e6, NeighborRate: 1e6}})
			b := make([]byte, 8<<20) // more than sockets hold
			var ends, others atomic.Int64
			var work sync.WaitGroup
			for range atOnce {
				work.Go(func() {
					for range rounds / atOnce {
						conn, err := someone(e).OpenTCP(t.Context(), dst)
						if err != nil {
							t.Error(err)
							return
						}
						c := conn.(*tcpConn)
						wrote := make(chan error, 1)
						go func() { wrote <- tt.write(c, b) }() // ends with the connection
						err = tt.read(c)
						writeErr := <-wrote
						_ = c.Close()
						var code *session.Error
						switch {
						case err == nil:
							ends.Add(1)
						case writeErr == nil || !errors.As(err, &code) || code.Code != wire.CodeReset:
							others.Add(1)
						}
					}
				})
			}
			work.Wait()
			if ends.Load() > 0 || others.Load() > 0 {
				t.Errorf("of %d resets %d read as an end and %d as something else", rounds, ends.Load(), others.Load())
			}
		})
	}
}

// TestReadsAfterEnd: when the far end has finished and closed, what is sent to it is
// answered by a reset that takes nothing from what it has sent before.
func TestReadsAfterEnd(t *testing.T) {
	const answer = "the whole answer"
	gone := make(chan struct{})
	dst := listen(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte(answer))
		_ = c.Close()
		gone <- struct{}{}
	})
	e := newExit(t, Config{})
	tests := []struct {
		name string
		end  func(c *tcpConn) error // until it fails
	}{
		{"Write", func(c *tcpConn) error { return untilError(func() error { _, err := c.Write([]byte("x")); return err }) }},
		{"WriteVector", func(c *tcpConn) error {
			return untilError(func() error { _, err := c.WriteVector(&net.Buffers{[]byte("x")}); return err })
		}},
		{"CloseWrite", func(c *tcpConn) error {
			_, err := c.Write([]byte("x"))
			for over := false; err == nil && !over; { // the reset is on its way
				err = c.raw.Control(func(fd uintptr) { over = closed(fd) })
			}
			return errors.Join(err, c.CloseWrite())
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := someone(e).OpenTCP(t.Context(), dst)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			<-gone
			err = tt.end(conn.(*tcpConn))
			codeWanted(t, "the write", err, wire.CodeReset)
			if !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the write gives %v, want EPIPE", err)
			}
			if got, err := io.ReadAll(struct{ io.Reader }{conn}); err != nil || string(got) != answer {
				t.Errorf("read %q, %v; want %q", got, err, answer)
			}
		})
	}
}

func untilError(do func() error) error {
	for {
		if err := do(); err != nil {
			return err
		}
	}
}

// TestAnswerOfClosedServer: a server that answers early and closes is heard to the end
// by a client that goes on sending and reads later.
func TestAnswerOfClosedServer(t *testing.T) {
	const answer = wire.StreamWindow + 40_000 // so that some of it waits at the exit
	gone := make(chan struct{})
	dst := listen(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 5))
		_, _ = c.Write(make([]byte, answer))
		_ = c.SetLinger(10) // Close waits until all has arrived
		_ = c.Close()
		gone <- struct{}{}
	})
	s, err := client(t, newExit(t, Config{})).DialTCP(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, _ = s.Write([]byte("hello"))
	<-gone
	for range 20 { // the first is answered by a reset, another finds it
		_, _ = s.Write([]byte("more"))
		time.Sleep(5 * time.Millisecond)
	}
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil || n != answer {
		t.Errorf("read %d of %d bytes, %v", n, answer, err)
	}
}
