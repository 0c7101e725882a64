package exit

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// TestQuiet: a connection on which nothing moves ends after its time, within an
// eighth of it; one that has finished on one side earlier.
func TestQuiet(t *testing.T) {
	if tcpIdle < 124*time.Minute || halfClosed < 4*time.Minute {
		t.Errorf("times %v and %v: RFC 5382 REQ-5 asks for 124 and 4 minutes", tcpIdle, halfClosed)
	}
	tests := []struct {
		name       string
		busy       time.Duration // a byte a minute for as long
		finished   time.Duration // when one side finishes; 0: never
		least, end time.Duration
	}{
		{"silent from the start", 0, 0, tcpIdle, tcpIdle},
		{"busy for a day", 24 * time.Hour, 0, 24*time.Hour + tcpIdle - time.Minute, 24*time.Hour + tcpIdle*9/8},
		{"half-closed", 0, time.Minute, halfClosed, time.Minute + halfClosed*9/8},
		{"half-closed and busy", 3 * time.Hour, time.Minute, 3*time.Hour + halfClosed - time.Minute, 3*time.Hour + halfClosed*9/8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ended := make(chan time.Duration, 1)
				var bytes atomic.Uint64
				q := &quiet{
					open: tcpIdle, half: halfClosed, moved: func() (uint64, bool) { return bytes.Load(), true },
					expire: func() { ended <- time.Since(began) },
				}
				q.start()
				if tt.finished > 0 {
					time.AfterFunc(tt.finished, q.finish)
				}
				for time.Since(began) < tt.busy {
					time.Sleep(time.Minute) // of the bubble
					bytes.Add(1)
				}
				if got := <-ended; got < tt.least || got > tt.end {
					t.Errorf("ended after %v, want %v to %v", got, tt.least, tt.end)
				}
				q.stop()
			})
		})
	}
}

// TestQuietStops: nothing happens to a connection that was closed.
func TestQuietStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quiet{open: time.Hour, half: time.Minute, moved: func() (uint64, bool) { return 0, true }, expire: func() { t.Error("a closed connection expired") }}
		q.start()
		q.stop()
		q.finish()
		time.Sleep(2 * time.Hour)
	})
}

// TestTCPIdle: a real connection that is silent is reset on both sides, one that
// carries something is not.
func TestTCPIdle(t *testing.T) {
	reset := make(chan error, 1)
	dst := listen(t, func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		reset <- err
	})
	echo := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	const idle = 2 * time.Second
	e := newExit(t, Config{TCPIdle: idle})
	c := client(t, e)
	busy, err := c.DialTCP(t.Context(), echo)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	silent, err := c.DialTCP(t.Context(), dst)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stop := make(chan struct{})
	moving := make(chan error, 1)
	go func() { // ends with stop
		b := make([]byte, 1)
		for {
			select {
			case <-stop:
				moving <- nil
				return
			case <-time.After(idle / 20):
			}
			if _, err := busy.Write(b); err != nil {
				moving <- err
				return
			}
			if _, err := io.ReadFull(busy, b); err != nil {
				moving <- err
				return
			}
		}
	}()
	_, err = silent.Read(make([]byte, 1))
	codeWanted(t, "silent connection", err, wire.CodeEnded)
	if err := <-reset; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the silent far end: got %v, want a reset", err)
	}
	close(stop)
	if err := <-moving; err != nil {
		t.Errorf("busy connection: %v", err)
	}
	if got := e.Counts(); got.Idle != 1 {
		t.Errorf("counts: %+v, want one idle", got)
	}
}
