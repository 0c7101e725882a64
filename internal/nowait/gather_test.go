package nowait_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"cuttle/internal/nowait"
)

// tcpPair is a TCP connection over loopback.
func tcpPair(t testing.TB) (a *net.TCPConn, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = b.Close() })
	return c.(*net.TCPConn), b
}

// TestGather wants what many buffers of any size hold to arrive in order, whatever the
// kernel takes at a time.
func TestGather(t *testing.T) {
	a, b := tcpPair(t)
	r := rand.New(rand.NewPCG(1, 2))
	var all []byte
	var buffers net.Buffers
	for len(buffers) < 600 {
		p := make([]byte, []int{0, 1, 100, 1400, 64 << 10}[r.IntN(5)])
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		all = append(all, p...)
		buffers = append(buffers, p)
	}
	if err := a.SetWriteBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { // ends when the other end has read
		n, err := nowait.NewGather(a).Write(&buffers)
		if err == nil && (n != int64(len(all)) || len(buffers) != 0) {
			err = errors.New("not all was written")
		}
		wrote <- errors.Join(err, a.CloseWrite())
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d bytes arrived, %v; want the %d that were written", len(got), err, len(all))
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// TestGatherEnds wants a write that waits to end with its deadline and with the
// connection, and the buffers to say what is left.
func TestGatherEnds(t *testing.T) {
	a, b := tcpPair(t)
	big := make([]byte, 64<<20) // more than sockets hold
	buffers := net.Buffers{big[:1000], big[1000:]}
	g := nowait.NewGather(a)
	var n int64
	ended := make(chan error, 1)
	go func() { // ends at the deadline
		var err error
		n, err = g.Write(&buffers)
		ended <- err
	}()
	if _, err := io.ReadFull(b, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := a.SetWriteDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	err := <-ended
	left := 0
	for _, p := range buffers {
		left += len(p)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || n < 1000 || int(n)+left != len(big) {
		t.Errorf("wrote %d, %d left of %d, %v; want a deadline that has passed", n, left, len(big), err)
	}
	_ = a.Close()
	if _, err := g.Write(&buffers); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write to a closed connection: %v", err)
	}
}

// TestGatherAllocatesNothing looks at a write of many buffers.
func TestGatherAllocatesNothing(t *testing.T) {
	a, b := tcpPair(t)
	go func() { _, _ = io.Copy(io.Discard, b) }() // ends with the connection
	g := nowait.NewGather(a)
	vector, piece := make([][]byte, 40), make([]byte, 1400)
	var buffers net.Buffers
	if n := testing.AllocsPerRun(200, func() {
		for i := range vector {
			vector[i] = piece
		}
		buffers = vector
		if _, err := g.Write(&buffers); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
