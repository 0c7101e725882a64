package nowait_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cuttle/internal/nowait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a TCP connection over loopback, both ends as this package makes them.
func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := nowait.Listener{Listener: raw}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() { // ends with the connection, or with the listener
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	if a, err = new(nowait.Dialer).DialContext(context.Background(), "tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	b = <-accepted
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// TestStream wants megabytes to arrive as they were sent, both ways at once, and
// the end of the stream after them.
func TestStream(t *testing.T) {
	a, b := pair(t)
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	ended := make(chan error, 2)
	for _, c := range []net.Conn{a, b} {
		go func() { // ends when the other end has read
			_, err := c.Write(data)
			if err == nil {
				err = c.(interface{ CloseWrite() error }).CloseWrite()
			}
			ended <- err
		}()
	}
	got := make(chan []byte, 2)
	for _, c := range []net.Conn{a, b} {
		go func() { // ends when the other end has written
			p, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			got <- p
		}()
	}
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if p := <-got; !bytes.Equal(p, data) {
			t.Errorf("got %d bytes that are not the %d sent", len(p), len(data))
		}
	}
}

// TestDeadlines wants reads and writes that wait to end at their deadlines, and to
// work again afterwards.
func TestDeadlines(t *testing.T) {
	a, b := pair(t)
	_ = a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var one [1]byte
	if _, err := a.Read(one[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want a deadline", err)
	}
	ended := make(chan error, 1)
	go func() { // ends at the deadline: nobody reads so much
		n, err := a.Write(make([]byte, 64<<20))
		if n == 0 {
			t.Error("nothing written, want a part")
		}
		ended <- err
	}()
	if _, err := io.ReadFull(b, one[:]); err != nil {
		t.Fatal(err)
	}
	_ = a.SetWriteDeadline(time.Now())
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v, want a deadline", err)
	}
	_ = a.SetDeadline(time.Time{})
	if _, err := b.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Read(one[:]); n != 1 || err != nil || one[0] != 7 {
		t.Errorf("read %d, %v, %v, want the byte", n, err, one)
	}
}

// TestClose wants Close to end a Read and a Write that wait.
func TestClose(t *testing.T) {
	a, _ := pair(t)
	ended := make(chan error, 2)
	go func() { // ends with Close
		_, err := a.Read(make([]byte, 1))
		ended <- err
	}()
	go func() { // ends with Close
		_, err := a.Write(make([]byte, 64<<20))
		ended <- err
	}()
	time.AfterFunc(10*time.Millisecond, func() { _ = a.Close() })
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v, want closed", err)
		}
	}
}

// TestReset wants the kernel's error as package net gives it.
func TestReset(t *testing.T) {
	a, b := pair(t)
	if err := b.(interface{ SetLinger(sec int) error }).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	_, err := a.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op.Op != "read" || op.Timeout() {
		t.Errorf("read: %#v, want a reset as package net says it", err)
	}
}

// TestBeneath wants the connection beneath for who asks for options, and other
// connections left alone.
func TestBeneath(t *testing.T) {
	a, _ := pair(t)
	if _, ok := a.(syscall.Conn); !ok {
		t.Error("no SyscallConn")
	}
	if c, ok := a.(interface{ NetConn() net.Conn }); ok {
		if _, ok := c.NetConn().(*net.TCPConn); !ok {
			t.Errorf("beneath is a %T", c.NetConn())
		}
	}
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	if nowait.Wrap(p) != p {
		t.Error("a pipe was wrapped")
	}
}

func TestAllocations(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := a.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkPingPong(b *testing.B) {
	x, y := pair(b)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(y, buf); err != nil {
			b.Fatal(err)
		}
	}
}
