// Package obfstest is the suite that every mask passes: both ends over loopback,
// with honest, slow, silent, broken and wrong peers. A mask's own tests call Run
// with a Subject and Throughput from a benchmark; what only one mask promises (what
// a stranger is shown, for one) is tested beside that mask.
//
// It is for tests only. It opens no connection but to 127.0.0.1, and expects the
// caller's TestMain to look for leaked goroutines.
package obfstest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"cuttle/obfs"
	"cuttle/relay/wire"
)

// patience bounds everything that ought to be immediate.
const patience = 20 * time.Second

// Subject is a mask with what it needs to run.
type Subject struct {
	Mask   obfs.Mask
	Values map[string]string // options to listen with
	Params map[string]string // parameters to dial with
	Keyed  bool              // a dialer who looks for another node gets an error, not a connection
}

// Run runs the whole suite as subtests.
func Run(t *testing.T, s Subject) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*testing.T, Subject)
	}{
		{"bulk both ways at once", bulk},
		{"many at once", many},
		{"small writes and an empty one", small},
		{"underlying connection", underlying},
		{"close unblocks read", closeUnblocksRead},
		{"close unblocks write", closeUnblocksWrite},
		{"close is seen by the far end", closeIsSeen},
		{"close when the far end does not read", closeFull},
		{"read deadline", readDeadline},
		{"write deadline", writeDeadline},
		{"dial gives up with its context", dialGivesUp},
		{"dial leaves its context behind", dialLeavesContext},
		{"dial refused", dialRefused},
		{"wrong key", wrongKey},
		{"broken peers do not disturb", brokenPeers},
		{"server that hangs up", serverHangsUp},
		{"unknown option", unknownOption},
		{"listener close", listenerClose},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, s) })
	}
}

// NodeID draws an address of a node.
func NodeID(t testing.TB) (id wire.NodeID) {
	t.Helper()
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatal(err)
	}
	return id
}

// Server listens with the mask on a port of its own.
type Server struct {
	net.Listener
	To obfs.Endpoint // how to dial it
}

// Listen starts a server that ends with the test.
func Listen(t testing.TB, s Subject) Server {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	node := NodeID(t)
	ln, err := s.Mask.Listen(raw, obfs.Options{Node: node, State: t.TempDir(), Values: s.Values})
	if err != nil {
		t.Fatalf("listen: %v", errors.Join(err, raw.Close()))
	}
	t.Cleanup(func() { _ = ln.Close() }) // the test may have closed it
	return Server{ln, obfs.Endpoint{Node: node, Address: raw.Addr().String(), Params: s.Params}}
}

// Pair opens one connection and gives both ends, which are closed with the test.
func Pair(t testing.TB, s Subject, srv Server) (client, server net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	type accepted struct {
		conn net.Conn
		err  error
	}
	got := make(chan accepted, 1)
	go func() { // ends with Accept, which the listener's Close ends at the latest
		c, err := srv.Accept()
		got <- accepted{c, err}
	}()
	client, err := s.Mask.Dial(ctx, new(net.Dialer), srv.To)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = client.Close() }) // the test may have closed it
	select {
	case a := <-got:
		if a.err != nil {
			t.Fatalf("accept: %v", a.err)
		}
		t.Cleanup(func() { _ = a.conn.Close() }) // the test may have closed it
		return client, a.conn
	case <-ctx.Done():
		t.Fatal("accept: nothing came although dial was done")
	}
	return nil, nil
}

// together runs functions at once and waits for all.
func together(run ...func()) {
	var wg sync.WaitGroup
	for _, f := range run {
		wg.Go(f)
	}
	wg.Wait()
}

// within fails the test when f has not returned in time.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with f
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s took more than %v", what, d)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout() && errors.Is(err, os.ErrDeadlineExceeded)
}

// Throughput measures one direction over loopback, 64 KiB a write.
func Throughput(b *testing.B, s Subject) {
	b.Helper()
	srv := Listen(b, s)
	client, server := Pair(b, s, srv)
	const batch = 64 << 10
	drained := make(chan error, 1)
	go func() { // ends when the client closes
		_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{server}, make([]byte, batch))
		drained <- err
	}()
	buf := make([]byte, batch)
	b.SetBytes(batch)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := client.Close(); err != nil {
		b.Fatal(err)
	}
	if err := <-drained; err != nil {
		b.Fatal(err)
	}
}
