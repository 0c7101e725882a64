package link

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"testing"

	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// wiretap keeps the first writes to a connection: an initiator's msg1 and msg3.
type wiretap struct {
	net.Conn
	wrote chan []byte
}

func (w wiretap) Write(b []byte) (int, error) {
	select {
	case w.wrote <- bytes.Clone(b):
	default:
	}
	return w.Conn.Write(b)
}

// play sends messages to a node over a connection of their own. It returns all
// that comes back until the node closes, and why no link came up.
func play(t *testing.T, node *testNode, messages ...[]byte) (answer []byte, refused error) {
	t.Helper()
	conn, other := net.Pipe()
	defer conn.Close()
	end := make(chan error, 1)
	go func() { // ends when the handshake does, at the latest when conn is closed
		l, err := Accept(t.Context(), other, node.cfg)
		if err == nil {
			t.Error("a link came up")
			l.Close()
			_ = other.Close()
		}
		end <- err
	}()
	go func() { // ends when all is read, or the node or play closes
		for _, m := range messages {
			if _, err := conn.Write(m); err != nil {
				return
			}
		}
	}()
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return answer, wait(t, end, "end of the handshake")
}

// TestReplayIsLeftUnanswered plays the messages of a real link to its acceptor
// again: it closes without a byte, as it does for noise, the link they are from
// goes on, and the real peer gets another one.
func TestReplayIsLeftUnanswered(t *testing.T) {
	for name, seen := range map[string]*onion.ReplayCache{"memory of the process": nil, "memory of the node": onion.NewReplayCache(16)} {
		t.Run(name, func(t *testing.T) {
			a, b := newTestNode(t, 1), newTestNode(t, 2)
			b.cfg.Seen = seen
			j, msg1, msg3 := joinTapped(t, a, b)
			noise := make([]byte, len(msg1))
			_, _ = rand.Read(noise)
			for what, m := range map[string][][]byte{"msg1": {msg1}, "msg1 and msg3": {msg1, msg3}} {
				if got, err := play(t, b, m...); len(got) != 0 || !errors.Is(err, onion.ErrReplayed) {
					t.Errorf("%s again: %d bytes come back, refused with %v; want none, ErrReplayed", what, len(got), err)
				}
			}
			if got, err := play(t, b, noise); len(got) != 0 || errors.Is(err, onion.ErrReplayed) {
				t.Errorf("noise: %d bytes come back, refused with %v; want none, another error", len(got), err)
			}
			openLane(t, j.a, j.swB, 1, newSink(0), newSink(0))
			again, _, _ := joinTapped(t, a, b)
			openLane(t, again.a, again.swB, 1, newSink(0), newSink(0))
		})
	}
}

// TestReplayThatIsForgotten plays a first message to a node whose memory of it is
// gone, by a restart or because it was flushed: it gets a second message that the
// recorded third one does not fit, nor any other; who made the first can use it.
func TestReplayThatIsForgotten(t *testing.T) {
	a, b := newTestNode(t, 1), newTestNode(t, 2)
	_, msg1, msg3 := joinTapped(t, a, b)
	noise := make([]byte, wire.LinkMsg3Size)
	_, _ = rand.Read(noise)
	for name, last := range map[string][]byte{"the recorded third message": msg3, "noise": noise, "the start of msg1": msg1[:wire.LinkMsg3Size]} {
		b.cfg.Seen = onion.NewReplayCache(1)
		if got, err := play(t, b, msg1, last); len(got) != wire.LinkMsg2Size || err == nil {
			t.Errorf("%s: %d bytes come back, refused with %v; want %d, an error", name, len(got), err, wire.LinkMsg2Size)
		}
	}
	h, msg1, err := onion.StartLink(b.cfg.ID, b.cfg.Key.Public(), a.cfg.Key, a.cfg.Record, a.cfg.suites())
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := play(t, b, msg1, noise)
	b.cfg.Seen = onion.NewReplayCache(1)
	replayed, _ := play(t, b, msg1, noise)
	if _, _, err := h.Finish(replayed); err != nil || bytes.Equal(answer, replayed) {
		t.Errorf("its owner cannot use the answer (%v), or it is the same as before", err)
	}
}

// TestOnlyGoodMessagesAreRemembered sends a first message with a bit changed before
// the real one, which is answered all the same: noise takes no place in the memory.
func TestOnlyGoodMessagesAreRemembered(t *testing.T) {
	a, b := newTestNode(t, 1), newTestNode(t, 2)
	_, msg1, err := onion.StartLink(b.cfg.ID, b.cfg.Key.Public(), a.cfg.Key, a.cfg.Record, a.cfg.suites())
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(msg1)
	bad[len(bad)-1] ^= 1
	if got, err := play(t, b, bad); len(got) != 0 || errors.Is(err, onion.ErrReplayed) {
		t.Errorf("a changed message: %d bytes come back, refused with %v", len(got), err)
	}
	if got, _ := play(t, b, msg1, make([]byte, wire.LinkMsg3Size)); len(got) != wire.LinkMsg2Size {
		t.Errorf("the real message after it: %d bytes come back, want %d", len(got), wire.LinkMsg2Size)
	}
}

// joinTapped joins a to b and returns what a sent to get there.
func joinTapped(t *testing.T, a, b *testNode) (j *joined, msg1, msg3 []byte) {
	t.Helper()
	ca, cb := net.Pipe()
	tap := wiretap{ca, make(chan []byte, 2)}
	j = join(t, a, b, tap, cb)
	if msg1, msg3 = <-tap.wrote, <-tap.wrote; len(msg1) != wire.LinkMsg1Size || len(msg3) != wire.LinkMsg3Size {
		t.Fatalf("messages of %d and %d bytes", len(msg1), len(msg3))
	}
	return j, msg1, msg3
}
