package session

import (
	"context"
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/session/sessiontest"
	"cuttle/relay/wire"
)

// oneWay is a connection to a far end that sends answer and its end, and that takes
// nothing once refuse is closed.
type oneWay struct {
	*memConn
	refuse chan struct{}
	err    error // of writes then
}

func (c *oneWay) Write(p []byte) (int, error) {
	select {
	case <-c.refuse:
		return 0, c.err
	default:
		return len(p), nil
	}
}

func (c *oneWay) CloseWrite() error { return nil }

// TestFarEndTakesNoMore: a far end that has closed loses nothing of what it has sent,
// and whatever else stops an upload ends the stream. What of the answer the client has
// not asked for waits at the exit.
func TestFarEndTakesNoMore(t *testing.T) {
	const answer = wire.StreamWindow + 40_000
	closed := fmt.Errorf("write: %w", syscall.EPIPE)
	tests := []struct {
		name    string
		err     error
		answer  int
		refused time.Duration // how long after the answer was sent
		code    wire.Code     // 0: the client gets the answer and its end
	}{
		{"closed, the answer waits for the client", closed, answer, time.Second, 0},
		{"closed, the answer is on its way", closed, 40_000, time.Second, 0},
		{"closed long after the answer", closed, 40_000, time.Hour, wire.CodeReset},
		{"reset, the answer waits for the client", errGone, answer, time.Second, wire.CodeReset},
		{"reset, the answer is on its way", errGone, 40_000, time.Second, wire.CodeReset},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refuse := make(chan struct{})
				near, far := memPair()
				s := connect(t, &world{tcp: func(context.Context) (Conn, error) { return &oneWay{near, refuse, tt.err}, nil }}, Config{})
				st := dial(t, s)
				var work sync.WaitGroup
				defer work.Wait()
				work.Go(func() { // ends when the exit has read or closed
					_, _ = far.Write(make([]byte, tt.answer))
					_ = far.CloseWrite()
				})
				writeAll(t, st, "question")
				time.Sleep(tt.refused)
				close(refuse)
				for range 20 { // more than a window
					_, _ = st.Write(make([]byte, 100_000))
				}
				synctest.Wait()
				if tt.code != 0 {
					wantCode(t, "the stream", st.Err(), tt.code)
					return
				}
				if err := st.Err(); err != nil {
					t.Errorf("before the answer was read: %v", err)
				}
				if n, err := io.Copy(io.Discard, struct{ io.Reader }{st}); err != nil || n != int64(tt.answer) {
					t.Errorf("read %d bytes, %v; want the answer's %d", n, err, tt.answer)
				}
				writeAll(t, st, "and more")
				_ = st.CloseWrite()
				settled(t, s, 0)
				if err := st.Err(); err != nil {
					t.Errorf("after both ends: %v", err)
				}
			})
		})
	}
}

// TestUploadAfterAnswer: a client that goes on sending to a far end that has closed is
// told after a while.
func TestUploadAfterAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := make(chan struct{})
		close(refuse)
		near, far := memPair()
		s := connect(t, &world{tcp: func(context.Context) (Conn, error) { return &oneWay{near, refuse, syscall.EPIPE}, nil }}, Config{})
		st := dial(t, s)
		_ = far.CloseWrite()
		readAll(t, "near", st, "")
		start := time.Now()
		for st.Err() == nil && time.Since(start) < time.Hour {
			_, _ = st.Write([]byte("more"))
			time.Sleep(time.Second)
		}
		if took, linger := time.Since(start), s.server.m.cfg.Linger; took < linger || took > linger+5*time.Second {
			t.Errorf("told after %v, want %v", took, linger)
		}
		settled(t, s, 0)
	})
}

// TestEndLeavesUploads: what a client has sent and ended, on a stream that the far end
// has ended, too, is written to a slow far end also when the session has ended
// meanwhile; anything else is cut.
func TestEndLeavesUploads(t *testing.T) {
	const size = 200_000
	end := func(_ *testing.T, c *Client, _ *sessiontest.Carrier, _ *Exit) { c.Close() }
	age := func(_ *testing.T, c *Client, up *sessiontest.Carrier, _ *Exit) {
		up.Dead.Store(true) // no END
		up.Close()
		c.Close()
		time.Sleep(time.Minute)
	}
	tests := []struct {
		name     string
		far      bool // the far end has ended its direction
		near     bool // so has the client
		end      func(t *testing.T, c *Client, up *sessiontest.Carrier, x *Exit)
		after    time.Duration // when the far end begins to read
		complete bool
	}{
		{"END", true, true, end, 50 * time.Second, true},
		{"age", true, true, age, 50 * time.Second, true},
		{"END, the far end takes too long", true, true, end, 61 * time.Second, false},
		{"age, the far end takes too long", true, true, age, 61 * time.Second, false},
		{"END in the middle of an upload", true, false, end, time.Second, false},
		{"END before the answer's end", false, true, end, time.Second, false},
		{"the exit closes", true, true, func(t *testing.T, _ *Client, _ *sessiontest.Carrier, x *Exit) { closeAtOnce(t, x) }, 0, false},
		{"the exit closes after END", true, true, func(t *testing.T, c *Client, _ *sessiontest.Carrier, x *Exit) {
			c.Close()
			synctest.Wait()
			closeAtOnce(t, x)
		}, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := NewBudget(64 << 20)
				far, c, x, up := towards(shared)
				defer func() {
					c.Close()
					x.Close()
					up.Wait()
					if used := shared.Used(); used != 0 {
						t.Errorf("%d bytes held after the end, want 0", used)
					}
				}()
				st, err := c.DialTCP(t.Context(), somewhere)
				if err != nil {
					t.Fatal(err)
				}
				if tt.far {
					_ = far.CloseWrite()
					readAll(t, "near", st, "")
				}
				if n, err := st.Write(make([]byte, size)); err != nil {
					t.Fatalf("wrote %d: %v", n, err)
				}
				if tt.near {
					_ = st.CloseWrite()
				}
				synctest.Wait()
				tt.end(t, c, up, x)
				time.Sleep(tt.after)
				synctest.Wait()
				n, err := io.Copy(io.Discard, struct{ io.Reader }{far})
				if complete := n == size && err == nil; complete != tt.complete {
					t.Errorf("the far end has read %d of %d bytes, %v; complete should be %v", n, size, err, tt.complete)
				}
				synctest.Wait()
				if all, _ := x.Sessions(); all != 0 {
					t.Errorf("%d sessions known, want none", all)
				}
			})
		})
	}
}

func closeAtOnce(t *testing.T, x *Exit) {
	t.Helper()
	start := time.Now()
	x.Close()
	if took := time.Since(start); took > 0 {
		t.Errorf("the exit has taken %v to close", took)
	}
}

// towards joins a client to an exit with that budget, which connects everything to far.
func towards(shared *Budget) (far *memConn, c *Client, x *Exit, up *sessiontest.Carrier) {
	near, far := memPair()
	x = NewExit(func(wire.NodeID) Opener {
		return &world{tcp: func(context.Context) (Conn, error) { return near, nil }}
	}, ExitConfig{Session: Config{Shared: shared}})
	up, down := sessiontest.Pipe(128)
	down.Attach(x.Accept(down, wire.NodeID{1}))
	c = NewClient(up, nil, Config{})
	sessiontest.Join(up, down)
	return far, c, x, up
}

// TestEndedSessionsCanBeShed: what an ended session still has to write counts against
// the budget of all, and can be taken from it.
func TestEndedSessionsCanBeShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewBudget(300_000)
		far, c, x, up := towards(shared)
		st, err := c.DialTCP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		_ = far.CloseWrite()
		readAll(t, "near", st, "")
		writeAll(t, st, string(make([]byte, 200_000)))
		_ = st.CloseWrite()
		synctest.Wait()
		c.Close()
		synctest.Wait()
		if used := shared.Used(); used < 200_000 {
			t.Errorf("%d bytes are held, want those of the upload", used)
		}
		shared.limit = 100_000
		shared.relieve()
		synctest.Wait()
		if used := shared.Used(); used != 0 {
			t.Errorf("%d bytes are held yet, want none", used)
		}
		x.Close()
		up.Wait()
	})
}
