package obfstest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"cuttle/obfs"
)

// bulkSize is what the biggest test sends each way, bytes.
const bulkSize = 100 << 20

// bulk sends 100 MB each way at once, in writes of every size, and compares sums.
func bulk(t *testing.T, s Subject) {
	client, server := Pair(t, s, Listen(t, s))
	send := func(c net.Conn, seed uint64, sum *[32]byte) func() {
		return func() {
			rnd := rand.NewChaCha8([32]byte{byte(seed)})
			sizes := rand.New(rand.NewPCG(seed, 0))
			h := sha256.New()
			buf := make([]byte, 200<<10)
			for left := bulkSize; left > 0; {
				part := buf[:min(1+sizes.IntN(len(buf)), left)]
				_, _ = rnd.Read(part) // never fails (math/rand/v2)
				h.Write(part)
				if n, err := c.Write(part); err != nil || n != len(part) {
					t.Errorf("write: %d of %d bytes: %v", n, len(part), err)
					return
				}
				left -= len(part)
			}
			*sum = [32]byte(h.Sum(nil))
		}
	}
	receive := func(c net.Conn, sum *[32]byte) func() {
		return func() {
			h := sha256.New()
			if n, err := io.CopyN(h, c, bulkSize); err != nil {
				t.Errorf("read: %d bytes: %v", n, err)
			}
			*sum = [32]byte(h.Sum(nil))
		}
	}
	var sent, got [2][32]byte
	together(send(client, 1, &sent[0]), send(server, 2, &sent[1]), receive(server, &got[0]), receive(client, &got[1]))
	if got != sent {
		t.Errorf("received bytes differ from those sent: got %x, want %x", got, sent)
	}
}

// many opens several connections at the same time, each with its own bytes.
func many(t *testing.T, s Subject) {
	const n = 12
	srv := Listen(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	echo := func() {
		c, err := srv.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		_, err = io.Copy(c, c)
		if err := errors.Join(err, c.Close()); err != nil {
			t.Errorf("echo: %v", err)
		}
	}
	ask := func() {
		c, err := s.Mask.Dial(ctx, new(net.Dialer), srv.To)
		if err != nil {
			t.Errorf("dial: %v", err)
			_ = srv.Close() // nobody will come: end those who wait for us
			return
		}
		want := bytes.Repeat([]byte{byte(rand.Uint32())}, 100_000)
		got := make([]byte, len(want))
		together(
			func() {
				if _, err := c.Write(want); err != nil {
					t.Errorf("write: %v", err)
				}
			},
			func() {
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("echo differs or ended: %v", err)
				}
			})
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	var all []func()
	for range n {
		all = append(all, echo, ask)
	}
	together(all...)
}

// small sends single bytes from several goroutines: writes stay whole.
func small(t *testing.T, s Subject) {
	client, server := Pair(t, s, Listen(t, s))
	if n, err := client.Write(nil); n != 0 || err != nil {
		t.Errorf("empty write: got %d, %v; want 0, nil", n, err)
	}
	const writers, each = 4, 200
	var run []func()
	for i := range writers {
		word := bytes.Repeat([]byte{'a' + byte(i)}, 7)
		run = append(run, func() {
			for range each {
				if _, err := client.Write(word); err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	got := make([]byte, writers*each*7)
	run = append(run, func() {
		if _, err := io.ReadFull(server, got); err != nil {
			t.Errorf("read: %v", err)
		}
	})
	together(run...)
	for i := 0; i < len(got); i += 7 {
		if w := got[i : i+7]; strings.Trim(string(w), string(w[0])) != "" {
			t.Fatalf("a write was torn apart: %q", w)
		}
	}
}

func underlying(t *testing.T, s Subject) {
	client, server := Pair(t, s, Listen(t, s))
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		if _, ok := c.(interface{ NetConn() net.Conn }); !ok {
			t.Errorf("%s: has no NetConn", name)
		}
		if raw := obfs.Underlying(c); !isTCP(raw) {
			t.Errorf("%s: underlying connection is a %T, want *net.TCPConn", name, raw)
		}
		if c.RemoteAddr() == nil || c.LocalAddr() == nil {
			t.Errorf("%s: has no addresses", name)
		}
	}
}

func isTCP(c net.Conn) bool { _, ok := c.(*net.TCPConn); return ok }

func closeUnblocksRead(t *testing.T, s Subject) {
	client, server := Pair(t, s, Listen(t, s))
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		failed := make(chan error, 1)
		go func() { // ends with the Close below
			_, err := c.Read(make([]byte, 1))
			failed <- err
		}()
		within(t, patience, name+": close", func() { _ = c.Close() }) // the other end may be gone
		within(t, patience, name+": read after close", func() {
			if err := <-failed; err == nil {
				t.Errorf("%s: read after close: got no error", name)
			}
		})
	}
}

func closeUnblocksWrite(t *testing.T, s Subject) {
	client, server := Pair(t, s, Listen(t, s))
	for name, c := range map[string]net.Conn{"client": client, "server": server} {
		failed := make(chan error, 1)
		started := make(chan struct{})
		go func() { // ends with the Close below: the far end does not read
			buf := make([]byte, 1<<20)
			close(started)
			for {
				if _, err := c.Write(buf); err != nil {
					failed <- err
					return
				}
			}
		}()
		<-started
		within(t, patience, name+": close", func() { _ = c.Close() }) // a writer is in the way
		within(t, patience, name+": write after close", func() { <-failed })
	}
}

func closeIsSeen(t *testing.T, s Subject) {
	client, server := Pair(t, s, Listen(t, s))
	if _, err := client.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	got, err := io.ReadAll(server)
	if string(got) != "last words" || err != nil {
		t.Errorf("read to the end: got %q, %v; want what was written, nil", got, err)
	}
	if _, err := client.Write([]byte("x")); err == nil {
		t.Error("write after close: got no error")
	}
}

// closeFull closes while every buffer on the way is full.
func closeFull(t *testing.T, s Subject) {
	client, _ := Pair(t, s, Listen(t, s))
	if err := client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for {
		if _, err := client.Write(buf); err != nil {
			break
		}
	}
	within(t, 2*time.Second, "close", func() { _ = client.Close() }) // cannot say goodbye
}

func readDeadline(t *testing.T, s Subject) {
	client, server := Pair(t, s, Listen(t, s))
	if err := client.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	within(t, patience, "read with a deadline", func() {
		if _, err := client.Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("read past its deadline: got %v, want a timeout", err)
		}
	})
	if err := client.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "late" {
		t.Errorf("read after a deadline was lifted: got %q, %v", got, err)
	}
}

func writeDeadline(t *testing.T, s Subject) {
	client, _ := Pair(t, s, Listen(t, s))
	if err := client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	within(t, patience, "write with a deadline", func() {
		buf := make([]byte, 1<<20)
		for range 1000 {
			if _, err := client.Write(buf); err != nil {
				if !isTimeout(err) {
					t.Errorf("write past its deadline: got %v, want a timeout", err)
				}
				return
			}
		}
		t.Error("1 GB was written to somebody who does not read")
	})
}

// dialGivesUp dials a server that takes the connection and says nothing.
func dialGivesUp(t *testing.T, s Subject) {
	if !s.Keyed {
		return // the mask does not wait for the far end
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() }) // the end of the test
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	to := obfs.Endpoint{Node: NodeID(t), Address: ln.Addr().String(), Params: s.Params}
	within(t, patience, "dial", func() {
		if _, err := s.Mask.Dial(ctx, new(net.Dialer), to); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial a silent server: got %v, want context.DeadlineExceeded", err)
		}
	})
}

func dialLeavesContext(t *testing.T, s Subject) {
	srv := Listen(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	accepted := make(chan net.Conn, 1)
	go func() { // ends with Accept
		c, err := srv.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
		}
		accepted <- c
	}()
	client, err := s.Mask.Dial(ctx, new(net.Dialer), srv.To)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	if server == nil {
		t.FailNow()
	}
	if _, err := client.Write([]byte("still here")); err != nil {
		t.Errorf("write after the context ended: %v", err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != "still here" {
		t.Errorf("read after the context ended: got %q, %v", got, err)
	}
	if err := errors.Join(client.Close(), server.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// dialRefused dials a port that nobody listens on; the error keeps it to itself.
func dialRefused(t *testing.T, s Subject) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Mask.Dial(t.Context(), new(net.Dialer), obfs.Endpoint{Node: NodeID(t), Address: address, Params: s.Params})
	noAddress(t, err, "dial a closed port", address)
}

// noAddress fails unless err is an error without the address.
func noAddress(t *testing.T, err error, what, address string) {
	t.Helper()
	host, port, splitErr := net.SplitHostPort(address)
	if splitErr != nil {
		t.Fatal(splitErr)
	}
	switch text := fmt.Sprint(err); {
	case err == nil:
		t.Errorf("%s: got no error", what)
	case strings.Contains(text, host), strings.Contains(text, ":"+port):
		t.Errorf("%s: the error names the address: %q", what, text)
	}
}

func wrongKey(t *testing.T, s Subject) {
	if !s.Keyed {
		return // the mask does not tell one node from another
	}
	srv := Listen(t, s)
	to := srv.To
	to.Node = NodeID(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := s.Mask.Dial(ctx, new(net.Dialer), to)
	noAddress(t, err, "dial with the wrong key", to.Address)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial with the wrong key: hangs until its context ends, want an answer")
	}
	Pair(t, s, srv) // the right one still gets in
}
