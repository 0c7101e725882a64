package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// query is bytes that pass as a DNS message, with an identifier of 7.
func query(text string) []byte {
	return append([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, text...)
}

func TestExchange(t *testing.T) {
	var most, now atomic.Int32
	s := connect(t, &world{resolve: func(_ context.Context, q []byte) ([]byte, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return append(bytes.Clone(q), " answered"...), nil
	}}, Config{Queries: 8})
	var work sync.WaitGroup
	for i := range 500 {
		work.Go(func() {
			q := query(fmt.Sprintf("question %d", i))
			got, err := s.client.Exchange(t.Context(), q)
			if want := append(q, " answered"...); err != nil || !bytes.Equal(got, want) {
				t.Errorf("query %d: got %q, %v; want %q", i, got, err, want)
			}
		})
	}
	work.Wait()
	if got := most.Load(); got > 8 {
		t.Errorf("%d queries at a time, want at most 8", got)
	}
	if got := s.client.Streams(); got != 1 {
		t.Errorf("%d streams for 500 queries, want 1", got)
	}
	for _, bad := range [][]byte{nil, []byte("short"), make([]byte, 65536), {0, 7, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0}} {
		if _, err := s.client.Exchange(t.Context(), bad); !errors.Is(err, errMessage) {
			t.Errorf("%d bytes that are no query: got %v, want an error", len(bad), err)
		}
	}
}

// TestExchangeAgain: when the exit ends the DNS stream, queries under way fail or
// are asked once more, and the next ones use a new stream.
func TestExchangeAgain(t *testing.T) {
	var calls atomic.Int32
	s := connect(t, &world{resolve: func(_ context.Context, q []byte) ([]byte, error) {
		if calls.Add(1) == 1 {
			return nil, &Error{wire.CodeResources}
		}
		return q, nil
	}}, Config{})
	for i := range 2 {
		if _, err := s.client.Exchange(t.Context(), query("x")); err != nil {
			t.Errorf("query %d: %v", i, err)
		}
	}
	if got := calls.Load(); got != 3 {
		t.Errorf("resolver asked %d times, want 3", got)
	}
	s.up.Close()
	if _, err := s.client.Exchange(t.Context(), query("x")); err == nil {
		t.Error("after the session's end: got no error")
	}
}

// TestExchangeTimeout: queries without an answer end after 15 s, or with their
// context, and their places are free again.
func TestExchangeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := connect(t, hang(), Config{Queries: 2})
		var work sync.WaitGroup
		start := time.Now()
		for range 4 {
			work.Go(func() {
				if _, err := s.client.Exchange(t.Context(), query("x")); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want a timeout", err)
				}
			})
		}
		work.Wait()
		if got := time.Since(start); got != exchangeTime {
			t.Errorf("gave up after %v, want %v", got, exchangeTime)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.client.Exchange(ctx, query("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's end", err)
		}
		s.end(t)
	})
}

// TestDNSGarbage: a message too short to be one ends the stream, not the session.
func TestDNSGarbage(t *testing.T) {
	r := newRecorder(64)
	s := serveOn(r, hang(), Config{})
	for _, p := range [][]byte{open(1, wire.KindDNS), wire.AppendData(nil, 1, []byte{0, 3, 1, 2, 3})} {
		if err := s.Packet(wire.Reliable, p); err != nil {
			t.Fatal(err)
		}
	}
	for f := range r.sent {
		if last, _, err := wire.NextSessionFrame(f); err == nil && last.Type == wire.SessionReset {
			break
		}
	}
	s.Close()
}
