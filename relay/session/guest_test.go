package session

import (
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"cuttle/relay/wire"
)

// guest is a world that notes over which neighbors its session has come.
type guest struct {
	*world
	mu    sync.Mutex
	moved []wire.NodeID
	left  int
}

func (g *guest) Move(to wire.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.moved = append(g.moved, to)
}

func (g *guest) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left++
}

// TestGuestFollows: an opener that counts by neighbor hears when the session comes
// over another one, and when it has ended.
func TestGuestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guest{world: serving(t, echo)}
		r := travel(t, g, Config{}, nil)
		st, err := r.client.DialTCP(t.Context(), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		say := func(text string) {
			t.Helper()
			b := make([]byte, len(text))
			if _, err := io.WriteString(st, text); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(st, b); err != nil || string(b) != text {
				t.Fatalf("echo of %q: %q, %v", text, b, err)
			}
		}
		say("over the first neighbor")
		r.up[0].Close()
		say("over the second")
		if !slices.Equal(g.moved, []wire.NodeID{{2}}) || g.left != 0 {
			t.Errorf("heard of moves to %v and %d ends, want one to the second neighbor and none", g.moved, g.left)
		}
		_ = st.Close()
		r.client.Close()
		synctest.Wait()
		r.exit.Close()
		if g.left != 1 {
			t.Errorf("heard of %d ends, want one", g.left)
		}
	})
}
