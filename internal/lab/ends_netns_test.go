//go:build linux && netns

package lab

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

// endTime is how long the news of a connection's end may be under way; it takes some
// milliseconds on a machine with nothing else to do.
const endTime = 10 * time.Second

// ends shows that connections of programs end at the far side of the onion as they were
// ended at the near one, in both directions: a reset is a reset and overtakes what is
// under way, the end of one direction is one, and the other goes on.
func ends(t *testing.T, l *Lab) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, program, server *net.TCPConn)
	}{
		{"the server resets", func(t *testing.T, program, server *net.TCPConn) { resets(t, server, program) }},
		{"the program resets", func(t *testing.T, program, server *net.TCPConn) { resets(t, program, server) }},
		{"the server resets after the program's end", func(t *testing.T, program, server *net.TCPConn) { resetsAfterEnd(t, server, program) }},
		{"the program resets after the server's end", func(t *testing.T, program, server *net.TCPConn) { resetsAfterEnd(t, program, server) }},
		{"the program resets before a backlog", func(t *testing.T, program, server *net.TCPConn) { resetsBacklog(t, program, server) }},
		{"the server resets before a backlog", func(t *testing.T, program, server *net.TCPConn) { resetsBacklog(t, server, program) }},
		{"the program ends first", func(t *testing.T, program, server *net.TCPConn) { endsFirst(t, program, server) }},
		{"the server ends first", func(t *testing.T, program, server *net.TCPConn) { endsFirst(t, server, program) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, addr := range []netip.Addr{webV4, webV6} {
				program, server := across(t, l, addr)
				tt.end(t, program, server)
			}
		})
	}
}

// across connects a program on the client with a server on the web node, over three hops.
func across(t *testing.T, l *Lab, addr netip.Addr) (program, server *net.TCPConn) {
	t.Helper()
	var ln net.Listener
	err := netns.Do(l.namespaceOf(t, "web"), func() (err error) {
		ln, err = new(net.ListenConfig).Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	near, err := netns.Dial(t.Context(), l.namespaceOf(t, "client"), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	if from := netip.MustParseAddrPort(far.RemoteAddr().String()).Addr().String(); !exitAddress(l.plan, from) {
		t.Errorf("the server sees %s, want an exit", from)
	}
	if hops := inUse(t, l); len(hops) != 3 {
		t.Errorf("the connection goes over %v, want three hops", hops)
	}
	for _, c := range []net.Conn{near, far} {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return near.(*net.TCPConn), far.(*net.TCPConn)
}

// reset ends a connection as a program does that wants nothing more to arrive.
func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
}

// pass sends some bytes from one end to the other.
func pass(t *testing.T, from, to net.Conn) {
	t.Helper()
	got := make([]byte, 5)
	_, err := from.Write([]byte("hello"))
	if _, readErr := io.ReadFull(to, got); err != nil || readErr != nil || string(got) != "hello" {
		t.Fatalf("wrote %v, read %q, %v", err, got, readErr)
	}
}

// wantReset reads from an end whose other one was reset at that time.
func wantReset(t *testing.T, c net.Conn, since time.Time) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if took := time.Since(since); n != 0 || !errors.Is(err, unix.ECONNRESET) || took > endTime {
		t.Errorf("after the reset the other end reads %d bytes, %v after %v; want ECONNRESET", n, err, took)
	}
}

func resets(t *testing.T, one, other *net.TCPConn) {
	pass(t, one, other)
	start := time.Now()
	reset(t, one)
	wantReset(t, other, start)
}

// resetsAfterEnd: the other has ended its direction already, and waits for an answer.
func resetsAfterEnd(t *testing.T, one, other *net.TCPConn) {
	pass(t, other, one)
	if err := other.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := one.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: read %d bytes, %v", n, err)
	}
	pass(t, one, other)
	start := time.Now()
	reset(t, one)
	wantReset(t, other, start)
}

// resetsBacklog: the other has written as much as it could, which nobody reads.
func resetsBacklog(t *testing.T, one, other *net.TCPConn) {
	full, ended := make(chan int, 1), make(chan error, 1)
	go func() { ended <- fill(other, full) }() // ends with the connection
	var backlog int
	select {
	case backlog = <-full:
	case err := <-ended:
		t.Fatalf("no backlog: %v", err)
	}
	start := time.Now()
	reset(t, one)
	err := <-ended
	took := time.Since(start)
	if !errors.Is(err, unix.ECONNRESET) || took > endTime {
		t.Errorf("the other end has written %d bytes and gets %v after %v; want ECONNRESET", backlog, err, took)
	}
	t.Logf("the reset overtook %d bytes in %v", backlog, took)
}

// fill writes megabytes until c takes no more, says how many, and goes on until c fails,
// for a minute at most.
func fill(c net.Conn, full chan<- int) error {
	b := make([]byte, 64<<10)
	for total, start := 0, time.Now(); time.Since(start) < time.Minute; {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := c.Write(b)
		total += n
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if n == 0 && total > 2<<20 && full != nil {
			full <- total
			full = nil
		}
	}
	return os.ErrDeadlineExceeded
}

// endsFirst: one ends its direction, which the other sees after all bytes, and reads what
// the other sends from then on.
func endsFirst(t *testing.T, one, other *net.TCPConn) {
	question, answer := make([]byte, 300<<10), make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(question)
	_, _ = random.Read(answer)
	asked := make(chan error, 1)
	go func() { // ends with the question, or the connection
		_, err := one.Write(question)
		asked <- errors.Join(err, one.CloseWrite())
	}()
	got, err := io.ReadAll(other)
	if err := errors.Join(err, <-asked); err != nil || !bytes.Equal(got, question) {
		t.Errorf("%d bytes came before the end, %v; want the %d sent", len(got), err, len(question))
	}
	time.Sleep(200 * time.Millisecond) // whatever takes the end of one direction for that of both has done so then
	answered := make(chan error, 1)
	go func() { // ends with the answer, or the connection
		_, err := other.Write(answer)
		answered <- errors.Join(err, other.Close())
	}()
	got, err = io.ReadAll(one)
	if err := errors.Join(err, <-answered); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d bytes came afterwards, %v; want the %d sent", len(got), err, len(answer))
	}
}
