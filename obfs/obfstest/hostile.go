package obfstest

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"testing"

	"cuttle/obfs"
)

// brokenPeers connects and stops at every point, or says nonsense, and leaves the
// connections open; a good peer gets through all the same.
func brokenPeers(t *testing.T, s Subject) {
	srv := Listen(t, s)
	if !s.Keyed {
		return // whoever connects to such a mask is a peer: the link judges
	}
	noise := make([]byte, 4096)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	recorded := firstFlight(t, s)
	said := [][]byte{nil, noise[:1], noise, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), []byte("SSH-2.0-x\r\n")}
	for _, cut := range []int{1, 5, 6, 100, len(recorded) - 1, len(recorded)} {
		said = append(said, recorded[:cut])
	}
	for _, what := range said {
		c, err := net.Dial("tcp", srv.To.Address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // the server may have done so
		if _, err := c.Write(what); err != nil {
			t.Fatal(err)
		}
	}
	client, server := Pair(t, s, srv)
	if _, err := client.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// firstFlight records what the mask's client sends first.
func firstFlight(t *testing.T, s Subject) []byte {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }() // only one connection is wanted
	got := make(chan []byte, 1)
	go func() { // ends when the client has spoken or the listener is closed
		c, err := ln.Accept()
		if err != nil {
			got <- nil
			return
		}
		buf := make([]byte, 1<<16)
		n, err := c.Read(buf)
		if err := errors.Join(err, c.Close()); err != nil {
			t.Errorf("record a client: %v", err)
		}
		got <- buf[:n]
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	to := obfs.Endpoint{Node: NodeID(t), Address: ln.Addr().String(), Params: s.Params}
	if _, err := s.Mask.Dial(ctx, new(net.Dialer), to); err == nil {
		t.Fatal("dial: succeeded although the server hung up")
	}
	flight := <-got
	if len(flight) < 128 {
		t.Fatalf("the client's first flight has %d bytes only", len(flight))
	}
	return flight
}

// serverHangsUp dials servers that answer nonsense or nothing and close.
func serverHangsUp(t *testing.T, s Subject) {
	if !s.Keyed {
		return // the mask does not wait for the far end
	}
	for _, say := range []string{"", "HTTP/1.1 400 Bad Request\r\n\r\n", "\x16\x03\x03\x00\x05\x02\x00\x00\x01\x00"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		together(func() {
			c, err := ln.Accept()
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			_, _ = c.Read(make([]byte, 1<<16)) // whatever it says
			_, _ = c.Write([]byte(say))        // it may have gone
			_ = c.Close()                      // as above
		}, func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			to := obfs.Endpoint{Node: NodeID(t), Address: ln.Addr().String(), Params: s.Params}
			_, err := s.Mask.Dial(ctx, new(net.Dialer), to)
			noAddress(t, err, "dial a server that hangs up", to.Address)
		})
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
	}
}

func unknownOption(t *testing.T, s Subject) {
	odd := map[string]string{"colour": "blue"}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() }) // refused, so still ours
	if _, err := s.Mask.Listen(ln, obfs.Options{Node: NodeID(t), Values: odd}); err == nil {
		t.Error("listen with an unknown option: got no error")
	}
	to := obfs.Endpoint{Node: NodeID(t), Address: ln.Addr().String(), Params: odd}
	if _, err := s.Mask.Dial(t.Context(), new(net.Dialer), to); err == nil {
		t.Error("dial with an unknown parameter: got no error")
	}
}

// listenerClose closes a listener while somebody accepts, strangers are inside and
// a connection is in use.
func listenerClose(t *testing.T, s Subject) {
	srv := Listen(t, s)
	client, server := Pair(t, s, srv)
	stranger, err := net.Dial("tcp", srv.To.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Close() }) // the server may have done so
	if !s.Keyed {
		if _, err := srv.Accept(); err != nil { // this mask takes the stranger for a peer
			t.Fatal(err)
		}
	}
	failed := make(chan error, 1)
	go func() { // ends with the Close below
		_, err := srv.Accept()
		failed <- err
	}()
	within(t, patience, "listener close", func() {
		if err := srv.Close(); err != nil {
			t.Errorf("listener close: %v", err)
		}
	})
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: got %v, want net.ErrClosed", err)
	}
	if c, err := net.Dial("tcp", srv.To.Address); err == nil {
		t.Errorf("dial a closed listener: got a connection (%v)", c.Close())
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Errorf("write on an open connection after its listener closed: %v", err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Errorf("read on an open connection after its listener closed: %v", err)
	}
}
