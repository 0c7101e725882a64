package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// roads makes carriers between a client and an exit, one after the other.
type roads struct {
	t      testing.TB
	exit   *Exit
	client *Client
	change func(n int, up, down *sessiontest.Carrier) // before the n-th is joined, from 0
	refuse func(n int) error                          // instead of making the n-th

	mu       sync.Mutex // guards the fields below
	n        int
	up, down []*sessiontest.Carrier
	silent   []bool // what Redial was told
}

func (r *roads) make() (*sessiontest.Carrier, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n
	r.n++
	if r.refuse != nil {
		if err := r.refuse(n); err != nil {
			return nil, err
		}
	}
	// Deep, since time stands still in a bubble while somebody waits for a mutex.
	up, down := sessiontest.Pipe(1 << 12)
	up.Delay, down.Delay = time.Millisecond, time.Millisecond
	if r.change != nil {
		r.change(n, up, down)
	}
	down.Attach(r.exit.Accept(down, wire.NodeID{byte(n%3 + 1)}))
	r.up, r.down = append(r.up, up), append(r.down, down)
	sessiontest.Join(up, down)
	return up, nil
}

func (r *roads) redial(_ context.Context, silent bool) (Line, error) {
	r.mu.Lock()
	r.silent = append(r.silent, silent)
	r.mu.Unlock()
	up, err := r.make()
	if err != nil {
		return nil, err
	}
	return up, nil
}

func (r *roads) made() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.up)
}

// travel joins a client and an exit by roads.
func travel(t testing.TB, o Opener, cfg Config, change func(*roads)) *roads {
	t.Helper()
	r := &roads{t: t, exit: NewExit(func(wire.NodeID) Opener { return o }, ExitConfig{Session: cfg})}
	if change != nil {
		change(r)
	}
	up, err := r.make()
	if err != nil {
		t.Fatal(err)
	}
	r.client = NewClient(up, r.redial, cfg)
	t.Cleanup(r.end)
	return r
}

func (r *roads) end() {
	r.client.Close()
	r.exit.Close()
	for i := range r.up {
		r.up[i].Close()
		r.up[i].Wait()
	}
	if n, d := r.exit.Sessions(); n != 0 || d != 0 || r.exit.Kept() != 0 {
		r.t.Errorf("after the end the exit has %d sessions, %d detached, and keeps %d bytes; want none", n, d, r.exit.Kept())
	}
	if k := slabsOf(r.client); k != 0 {
		r.t.Errorf("after the end the client keeps %d slabs", k)
	}
}

func slabsOf(c *Client) int {
	c.m.trunk.mu.Lock()
	defer c.m.trunk.mu.Unlock()
	return c.m.trunk.kept.slabs
}

// both moves n bytes each way over one stream at once; the far end tells its sum.
func both(t *testing.T, n int64) (o *world, run func(c *Client, dialed func()) error) {
	down, upSum := newNoise(1, n), sha256.New()
	var finished sync.WaitGroup
	finished.Add(1)
	o = serving(t, func(c *memConn) {
		defer finished.Done()
		var writer sync.WaitGroup
		writer.Go(func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, down, make([]byte, 5000))
			_ = c.CloseWrite()
		})
		if k, err := io.Copy(upSum, struct{ io.Reader }{c}); err != nil || k != n {
			t.Errorf("the far end has read %d of %d bytes: %v", k, n, err)
		}
		writer.Wait()
	})
	return o, func(c *Client, dialed func()) error {
		st, err := c.DialTCP(t.Context(), somewhere)
		if err != nil {
			return fmt.Errorf("dial: %w", err)
		}
		defer st.Close()
		dialed()
		up, downSum := newNoise(2, n), sha256.New()
		var writer sync.WaitGroup
		var wrote error
		writer.Go(func() {
			if _, wrote = io.CopyBuffer(struct{ io.Writer }{st}, up, make([]byte, 3000)); wrote == nil {
				wrote = st.CloseWrite()
			}
		})
		k, err := io.Copy(downSum, struct{ io.Reader }{st})
		if err == nil && k != n {
			err = fmt.Errorf("%d of %d bytes have come", k, n)
		}
		writer.Wait()
		if err := errors.Join(err, wrote); err != nil {
			return err
		}
		finished.Wait()
		if string(downSum.Sum(nil)) != string(down.sum.Sum(nil)) || string(upSum.Sum(nil)) != string(up.sum.Sum(nil)) {
			return errors.New("other bytes came than were sent")
		}
		return nil
	}
}

// TestKilledAnywhere ends the circuit at every packet of a transfer in both
// directions, and every circuit after some packets: the bytes are the same.
func TestKilledAnywhere(t *testing.T) {
	run := func(t *testing.T, size int64, lose func(n int, count int64) bool) (passed int64, err error) {
		synctest.Test(t, func(t *testing.T) {
			o, transfer := both(t, size)
			var counts [64]atomic.Int64
			var armed atomic.Bool
			r := travel(t, o, Config{Attaches: 60}, func(r *roads) {
				r.change = func(n int, up, down *sessiontest.Carrier) {
					// What the kill finds under way is lost.
					hit := func(c *sessiontest.Carrier) func(wire.Class, []byte) bool {
						return func(wire.Class, []byte) bool {
							dead := armed.Load() && lose(n, counts[n].Add(1))
							if dead {
								c.Close()
							}
							return dead
						}
					}
					up.Lose, down.Lose = hit(up), hit(down)
				}
			})
			err = transfer(r.client, func() { armed.Store(true) })
			passed = counts[0].Load()
			synctest.Wait()
			if got := r.client.Streams(); err == nil && got != 0 {
				t.Errorf("%d streams open after the transfer, want 0", got)
			}
		})
		return passed, err
	}
	const size = 60_000
	total, err := run(t, size, func(int, int64) bool { return false })
	if err != nil {
		t.Fatalf("without a kill: %v", err)
	}
	for k := int64(1); k <= total; k++ {
		_, err := run(t, size, func(n int, count int64) bool { return n == 0 && count == k })
		if err != nil {
			t.Errorf("circuit ended at packet %d of %d: %v", k, total, err)
		}
	}
	t.Logf("%d packets", total)
	for _, every := range []int64{20, 60, 150} {
		size := every * 3000
		if _, err := run(t, size, func(_ int, count int64) bool { return count == every }); err != nil {
			t.Errorf("each circuit ends after %d packets: %v", every, err)
		}
	}
}

// TestSilence: a carrier that loses everything is left after a few seconds, and
// one that is only quiet is not.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		o := serving(t, func(c *memConn) {
			<-release
			_, _ = c.Write([]byte("late"))
		})
		r := travel(t, o, Config{}, nil)
		st, err := r.client.DialTCP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		time.Sleep(time.Hour)
		if n := r.made(); n != 1 {
			t.Errorf("a quiet hour took %d carriers, want 1", n)
		}
		r.up[0].Dead.Store(true)
		r.down[0].Dead.Store(true)
		start := time.Now()
		writeAll(t, st, "x") // somebody is there again
		close(release)
		if _, err := io.ReadFull(st, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < deadAfter-2*watchIdle || took > 5*time.Second {
			t.Errorf("went on after %v, want 1 to 5 s", took)
		}
		if len(r.silent) != 1 || !r.silent[0] {
			t.Errorf("asked for carriers with silent = %v, want once and true", r.silent)
		}
		select {
		case <-r.up[0].Done():
		default:
			t.Error("the silent carrier is still open")
		}
	})
}

// TestMute: when the carrier has gone silent and the exit does not answer over another
// path either, twice, the session ends; when it answers after all, nothing is lost.
func TestMute(t *testing.T) {
	for _, mute := range []int{1, goneAttempts} {
		synctest.Test(t, func(t *testing.T) {
			r := travel(t, serving(t, func(c *memConn) { _, _ = io.Copy(c, struct{ io.Reader }{c}) }), Config{}, func(r *roads) {
				r.refuse = func(n int) error {
					if n > 0 && n <= mute {
						return fmt.Errorf("%w: no answer", ErrExitMute)
					}
					return nil
				}
			})
			st, err := r.client.DialTCP(t.Context(), somewhere)
			if err != nil {
				t.Fatal(err)
			}
			r.up[0].Dead.Store(true)
			r.down[0].Dead.Store(true)
			start := time.Now()
			writeAll(t, st, "x")
			got := make([]byte, 1)
			_, err = st.Read(got)
			if mute < goneAttempts {
				if err != nil || got[0] != 'x' {
					t.Errorf("read %q, %v after the exit was mute once", got, err)
				}
				return
			}
			wantCode(t, "stream", err, wire.CodeEnded)
			if took := time.Since(start); took < deadAfter || took > deadAfter+time.Second {
				t.Errorf("ended after %v, want %v to a second more", took, deadAfter)
			}
			<-r.client.Done()
		})
	}
}

// TestQuietCosts counts what a session says when nothing happens.
func TestQuietCosts(t *testing.T) {
	for _, tt := range []struct {
		name string
		open bool
		most int64
	}{{"no streams", false, 8}, {"an open stream", true, 8}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var count atomic.Int64
				r := travel(t, serving(t, func(c *memConn) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) }), Config{}, func(r *roads) {
					r.change = func(_ int, up, down *sessiontest.Carrier) {
						f := func(wire.Class, []byte) bool { count.Add(1); return false }
						up.Lose, down.Lose = f, f
					}
				})
				st, err := r.client.DialTCP(t.Context(), somewhere)
				if err != nil {
					t.Fatal(err)
				}
				if !tt.open {
					st.Reset(wire.CodeReset)
				}
				time.Sleep(2 * time.Second)
				before := count.Load()
				time.Sleep(time.Hour)
				if n := count.Load() - before; n > tt.most {
					t.Errorf("%d payloads in an hour, want at most %d", n, tt.most)
				}
				if !tt.open {
					if k := slabsOf(r.client); k != 0 || r.exit.Kept() != 0 {
						t.Errorf("%d slabs and %d bytes at the exit are kept of nothing", k, r.exit.Kept())
					}
				}
				st.Reset(wire.CodeReset)
			})
		})
	}
}

// TestNotAttachedAgain: what ends a session that has lost its carrier.
func TestNotAttachedAgain(t *testing.T) {
	errNo := errors.New("no path")
	for _, tt := range []struct {
		name     string
		cfg      Config
		refuse   func(start *time.Time) func(n int) error
		kill     bool // every carrier
		min, max time.Duration
	}{
		{"no circuit in time", Config{}, func(*time.Time) func(int) error {
			return func(n int) error { return map[bool]error{true: errNo}[n > 0] }
		}, false, time.Minute, time.Minute},
		{"the exit is gone", Config{}, func(*time.Time) func(int) error {
			return func(n int) error { return map[bool]error{true: fmt.Errorf("%w: refused", ErrExitGone)}[n > 0] }
		}, false, 0, time.Second},
		{"the exit has forgotten", Config{Resume: 3 * time.Minute}, func(start *time.Time) func(int) error {
			return func(n int) error {
				return map[bool]error{true: errNo}[n > 0 && time.Since(*start) < 3*time.Minute-10*time.Second]
			}
		}, false, time.Minute, 3 * time.Minute},
		{"too often", Config{Attaches: 5}, func(*time.Time) func(int) error { return func(int) error { return nil } }, true, 0, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				r := travel(t, serving(t, func(c *memConn) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) }), tt.cfg, func(r *roads) {
					r.refuse = tt.refuse(&start)
					r.change = func(n int, up, _ *sessiontest.Carrier) {
						if tt.kill && n > 0 {
							up.Close()
						}
					}
				})
				st, err := r.client.DialTCP(t.Context(), somewhere)
				if err != nil {
					t.Fatal(err)
				}
				start = time.Now()
				if tt.name == "the exit has forgotten" {
					r.exit.cfg.Session.Resume = time.Minute
					for _, x := range r.exit.sessions {
						x.s.m.cfg.Resume = time.Minute
					}
				}
				r.up[0].Close()
				_, err = st.Read(make([]byte, 1))
				wantCode(t, "stream", err, wire.CodeEnded)
				if took := time.Since(start); took < tt.min || took > tt.max {
					t.Errorf("ended after %v, want %v to %v", took, tt.min, tt.max)
				}
				if tt.kill && r.made() != 1+5 {
					t.Errorf("%d carriers, want the first and five more", r.made())
				}
				<-r.client.Done()
				time.Sleep(time.Minute)
				if n, _ := r.exit.Sessions(); n != 0 {
					t.Errorf("the exit has %d sessions a minute later, want 0", n)
				}
			})
		})
	}
}

// TestClosedIsForgotten: the exit hears of the end and keeps nothing.
func TestClosedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := travel(t, serving(t, echo), Config{}, nil)
		st, err := r.client.DialTCP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		writeAll(t, st, "x")
		start := time.Now()
		r.client.Close()
		if took := time.Since(start); took >= closeTime {
			t.Errorf("closing took %v: the exit did not answer", took)
		}
		synctest.Wait()
		if n, d := r.exit.Sessions(); n != 0 || d != 0 {
			t.Errorf("the exit has %d sessions, %d detached, want none", n, d)
		}
	})
}

// TestFlowsSurvive: a UDP flow and DNS queries go on over the next carrier.
func TestFlowsSurvive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, far := socket()
		o.resolve = func(_ context.Context, q []byte) ([]byte, error) {
			a := append([]byte(nil), q...)
			a[2] |= 0x80
			return a, nil
		}
		r := travel(t, o, Config{}, nil)
		f, err := r.client.DialUDP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		query := make([]byte, 12)
		if _, err := r.client.Exchange(t.Context(), query); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			writeAll(t, f, "ping")
			if got := <-far.out; string(got) != "ping" {
				t.Errorf("carrier %d: far end got %q", i, got)
			}
			far.in <- []byte("pong")
			b := make([]byte, 10)
			if n, err := f.Read(b); err != nil || string(b[:n]) != "pong" {
				t.Errorf("carrier %d: read %q, %v", i, b[:n], err)
			}
			if _, err := r.client.Exchange(t.Context(), query); err != nil {
				t.Errorf("carrier %d: query: %v", i, err)
			}
			r.up[i].Close()
			time.Sleep(time.Second)
		}
		if r.client.Streams() != 2 {
			t.Errorf("%d streams, want the flow and the DNS stream", r.client.Streams())
		}
	})
}

// TestWindowIsBounded: without a carrier each side keeps a window's packets and no
// more; writers wait, and go on afterwards.
func TestWindowIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		got := sha256.New()
		var read sync.WaitGroup
		read.Add(1)
		o := serving(t, func(c *memConn) {
			defer read.Done()
			_, _ = io.Copy(got, struct{ io.Reader }{c})
		})
		r := travel(t, o, Config{Window: 1, MaxWindow: 8 << 20}, func(r *roads) {
			r.refuse = func(n int) error {
				if n == 0 {
					return nil
				}
				<-hold
				return nil
			}
		})
		st, err := r.client.DialTCP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		st.mu.Lock()
		st.credits = 1 << 30 // the stream's window is not what stops it
		st.mu.Unlock()
		r.exit.mu.Lock()
		for _, x := range r.exit.sessions {
			x.s.m.mu.Lock()
			e := x.s.m.ends[st.id].(*Stream)
			x.s.m.mu.Unlock()
			e.mu.Lock()
			e.window.limit, e.window.max = 1<<30, 0
			e.mu.Unlock()
		}
		r.exit.mu.Unlock()
		r.up[0].Close()
		var writer sync.WaitGroup
		var written atomic.Int64
		sum := newNoise(3, 3<<20)
		writer.Go(func() {
			for {
				p := make([]byte, 1000)
				n, err := sum.Read(p)
				if err != nil {
					break
				}
				if _, err := st.Write(p[:n]); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				written.Add(int64(n))
			}
			_ = st.CloseWrite()
		})
		time.Sleep(10 * time.Second)
		slabs := slabsOf(r.client)
		if n := written.Load(); n > wire.LeastWindow || n < wire.LeastWindow*9/10 || slabs > slabsBase {
			t.Errorf("%d bytes in %d slabs were taken without a carrier, want nearly %d in %d", n, slabs, wire.LeastWindow, slabsBase)
		}
		close(hold)
		writer.Wait()
		read.Wait()
		if string(got.Sum(nil)) != string(sum.sum.Sum(nil)) {
			t.Error("other bytes came than were written")
		}
	})
}
