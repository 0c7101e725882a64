package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// buildTime is what Redial takes to learn over three slow hops that the exit is gone.
const buildTime = 150 * time.Millisecond

// TestGoneEndsFlowsAtOnce: when the exit's neighbor says twice that it is gone, whatever
// waits on the session ends within a second with the code that programs see as a reset,
// and nothing new is begun on it, so that it goes elsewhere.
func TestGoneEndsFlowsAtOnce(t *testing.T) {
	for range 5 { // the pauses are drawn
		synctest.Test(t, func(t *testing.T) {
			hung := make(chan struct{}) // what the exit is asked for does not come
			defer close(hung)
			o := serving(t, func(*memConn) { <-hung })
			o.udp = func(context.Context) (net.Conn, error) { return newMemFlow(), nil }
			o.resolve = func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
			r := travel(t, o, Config{}, nil)
			asked := 0
			r.client.redial = func(context.Context, bool) (Line, error) {
				asked++
				time.Sleep(buildTime)
				return nil, fmt.Errorf("%w: not connected", ErrExitGone)
			}
			st, err := r.client.DialTCP(t.Context(), somewhere)
			if err != nil {
				t.Fatal(err)
			}
			full, err := r.client.DialTCP(t.Context(), somewhere)
			if err != nil {
				t.Fatal(err)
			}
			f, err := r.client.DialUDP(t.Context(), somewhere)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			defer full.Close()
			defer f.Close()
			var mu sync.Mutex // guards the map
			ended := map[string]time.Duration{}
			var start time.Time
			var waiters sync.WaitGroup
			ends := func(what string, coded bool, wait func() error) {
				waiters.Go(func() { // ends with the session
					err := wait()
					if coded {
						wantCode(t, what, err, wire.CodeEnded)
					} else if err == nil {
						t.Errorf("%s: no error", what)
					}
					mu.Lock()
					defer mu.Unlock()
					ended[what] = time.Since(start)
				})
			}
			ends("read", true, func() error { _, err := st.Read(make([]byte, 1)); return err })
			ends("write", true, func() error { _, err := full.Write(make([]byte, 4<<20)); return err })
			ends("datagram", true, func() error { _, err := f.Read(make([]byte, 1)); return err })
			ends("query", false, func() error { _, err := r.client.Exchange(t.Context(), make([]byte, 12)); return err })
			time.Sleep(2 * time.Second) // until all wait
			start = time.Now()
			r.up[0].Close()
			opened, err := r.client.OpenTCP(somewhere) // taken while nobody knows yet
			if err != nil {
				t.Fatal(err)
			}
			ends("open", true, func() error { return opened.Opened(t.Context()) })
			waiters.Wait()
			for what, took := range ended {
				if took < 2*buildTime || took > time.Second {
					t.Errorf("%s ended %v after the exit, want at most a second", what, took)
				}
			}
			if len(ended) != 5 || asked != goneAttempts {
				t.Errorf("%d flows ended after %d attempts, want 5 and %d", len(ended), asked, goneAttempts)
			}
			<-r.client.Done()
			if _, err := r.client.OpenTCP(somewhere); err == nil {
				t.Error("a session that is over takes a new flow")
			}
		})
	}
}

// TestGoneOnce: an exit that is gone and there again, or cannot be asked in between,
// costs its flows a moment and nothing else.
func TestGoneOnce(t *testing.T) {
	gone := fmt.Errorf("%w: not connected", ErrExitGone)
	for _, answers := range [][]error{{gone}, {gone, errors.New("no path"), gone}} {
		synctest.Test(t, func(t *testing.T) {
			r := travel(t, serving(t, echo), Config{}, func(r *roads) {
				r.refuse = func(n int) error {
					if n > 0 && n <= len(answers) {
						return answers[n-1]
					}
					return nil
				}
			})
			st, err := r.client.DialTCP(t.Context(), somewhere)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			start := time.Now()
			r.up[0].Close()
			writeAll(t, st, "still here")
			got := make([]byte, len("still here"))
			if _, err := io.ReadFull(st, got); err != nil || string(got) != "still here" {
				t.Errorf("read %q, %v", got, err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("went on after %v, want a moment", took)
			}
		})
	}
}

// TestResetAfterFarEnd: a reset by the client is one for the far end, too, when that has
// ended its own direction already and reads on.
func TestResetAfterFarEnd(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			saw := make(chan error, 1)
			s := connect(t, serving(t, func(c *memConn) {
				_ = c.CloseWrite()
				_, err := c.Read(make([]byte, 1))
				saw <- err
			}), Config{})
			st := dial(t, s)
			readAll(t, "client", st, "")
			st.Reset(wire.CodeReset)
			if err := <-saw; !errors.Is(err, errGone) {
				t.Errorf("the far end reads %v, want a reset", err)
			}
		})
	}
}
