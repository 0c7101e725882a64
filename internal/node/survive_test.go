package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cuttle/relay/circuit"
	"cuttle/relay/session"
	"cuttle/relay/wire"
	"cuttle/stack"
)

// waiter is a server that takes a connection and says nothing until told.
func waiter(t *testing.T) (address string, speak func()) {
	release := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			_, _ = io.WriteString(w, "late")
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(web.Close)
	return strings.TrimPrefix(web.URL, "http://"), sync.OnceFunc(func() { close(release) })
}

// When the only relay in the middle goes, new flows are told why there is no
// circuit, and those that are there wait: when the relay is back they go on.
func TestRelayRestarted(t *testing.T) {
	address, speak := waiter(t)
	nw := newNetwork(t, "plain")
	o := nw.pool()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	conn, err := o.DialTCP(ctx, flowTo(address))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	nw.stop["r2"]()
	for len(nw.nodes["c"].Circuits()) > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // until the client has noticed
	}
	eventually(t, "the timeout says why there is no circuit", func() bool {
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := o.DialTCP(short, flowTo(address))
		if !errors.Is(err, stack.ErrTimeout) {
			t.Fatalf("connect without r2: %v, want a timeout", err)
		}
		return strings.Contains(err.Error(), "next hop not connected") // on a slow machine none has been tried by then
	})
	nw.start("r2")
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	speak()
	got, err := io.ReadAll(struct{ io.Reader }{conn})
	if err != nil || !bytes.HasSuffix(got, []byte("late")) {
		t.Errorf("after the relay's restart: read %d bytes, %v; want the answer\n%s", len(got), err, nw.logs)
	}
}

// When a session cannot be attached again in time, its flows end with code 8.
func TestRelayGone(t *testing.T) {
	address, _ := waiter(t)
	nw := newNetwork(t, "plain")
	nw.nodes["c"].client.onward.cfg.Resume = time.Second
	o := nw.pool()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	conn, err := o.DialTCP(ctx, flowTo(address))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	nw.stop["r2"]()
	_, err = conn.Read(make([]byte, 1))
	wantEnded(t, err)
}

func wantEnded(t *testing.T, err error) {
	t.Helper()
	var e *session.Error
	if !errors.As(err, &e) || e.Code != wire.CodeEnded {
		t.Errorf("read: %v, want the session's end", err)
	}
}

// mesh is a client with two guards, two relays and exits behind them.
func mesh(t *testing.T, exits ...string) *network { return meshWith(t, nil, exits...) }

// meshWith has more in the table [exit] of some exits.
func meshWith(t *testing.T, more map[string]string, exits ...string) *network {
	names := append([]string{"c", "g1", "g2", "m1", "m2"}, exits...)
	links := [][2]string{{"c", "g1"}, {"c", "g2"}, {"g1", "m1"}, {"g1", "m2"}, {"g2", "m1"}, {"g2", "m2"}}
	for _, x := range exits {
		links = append(links, [2]string{"m1", x}, [2]string{"m2", x})
	}
	return newMeshWith(t, "plain", names, links, more, exits...)
}

// linked waits until so many links are up at both ends.
func (nw *network) linked(links int) {
	nw.t.Helper()
	for up, deadline := 0, time.Now().Add(time.Minute); up < 2*links; time.Sleep(5 * time.Millisecond) {
		if up = 0; time.Now().After(deadline) {
			nw.t.Fatal("not all links are up")
		}
		for _, n := range nw.nodes {
			up += len(n.links.up())
		}
	}
}

// inUse names the hops of the circuit that carries a flow.
func (nw *network) inUse() (names []string) {
	nw.t.Helper()
	byID := map[string]string{}
	for name, n := range nw.nodes {
		byID[n.id.ID.String()] = name
	}
	for _, c := range nw.nodes["c"].Circuits() {
		if c.Streams > 0 && c.State == "open" {
			for _, h := range c.Hops {
				names = append(names, byID[h.Node])
			}
			return names
		}
	}
	nw.t.Fatal("no circuit is in use")
	return nil
}

// slow lets so many bytes through until it is opened, and tells when they are.
type slow struct {
	r    io.Reader
	left atomic.Int64
	half chan struct{}
	once sync.Once
	open chan struct{}
}

func newSlow(r io.Reader, n int64) *slow {
	s := &slow{r: r, half: make(chan struct{}), open: make(chan struct{})}
	s.left.Store(n)
	return s
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), 16<<10)])
	if s.left.Add(int64(-n)) < 0 {
		s.once.Do(func() { close(s.half) })
		<-s.open
	}
	return n, err
}

// A relay in the middle, then the guard, is stopped while a body goes up and
// another comes down: both arrive as they were sent.
func TestTransferSurvives(t *testing.T) {
	for hop, name := range []string{"guard", "middle"} {
		t.Run(name, func(t *testing.T) {
			body := make([]byte, 8<<20)
			_, _ = rand.Read(body)
			down := newSlow(bytes.NewReader(body), 2<<20)
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				done := make(chan struct{})
				go func() { // ends when the body is sent
					defer close(done)
					_, _ = io.Copy(w, down)
				}()
				got, err := io.ReadAll(r.Body)
				<-done
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("the server has read %d bytes, %v; want the %d sent", len(got), err, len(body))
				}
			}))
			defer web.Close()
			nw := mesh(t, "x1")
			nw.linked(8)
			o := nw.pool()
			tr := &http.Transport{DialContext: o.DialContext, DisableKeepAlives: true}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			up := newSlow(bytes.NewReader(body), 2<<20)
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, web.URL, up)
			if err != nil {
				t.Fatal(err)
			}
			killed := make(chan time.Time, 1)
			go func() { // ends with the halves
				<-up.half
				<-down.half
				nw.stop[nw.inUse()[hop]]()
				killed <- time.Now()
				close(up.open)
				close(down.open)
			}()
			resp, err := (&http.Client{Transport: tr}).Do(req)
			if err != nil {
				t.Fatalf("%v\n%s", err, nw.logs)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("%d bytes, %v; want the %d bytes sent\n%s", len(got), err, len(body), nw.logs)
			}
			t.Logf("complete %v after the %s was stopped", time.Since(<-killed).Round(time.Millisecond), name)
		})
	}
}

// goneMost is how long it may take until flows of a dead exit have ended, and until a new
// one goes elsewhere, with the race detector and ten times more work than processors.
const goneMost = 10 * time.Second

// A dead exit ends its flows at once, and new flows go over a circuit to another one
// that was there before. Both take a fraction of a second on a machine with nothing else
// to do.
func TestExitGone(t *testing.T) {
	address, _ := waiter(t)
	nw := mesh(t, "x1", "x2")
	nw.linked(10)
	o := nw.pool()
	o.answered.mode = earlyOff // or the new flow may be accepted by an exit that is not known to be gone yet
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	conn, err := o.DialTCP(ctx, flowTo(address))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exits := func() map[string]bool { // of circuits that new flows may have
		out := map[string]bool{}
		for _, c := range nw.nodes["c"].Circuits() {
			if c.State == "open" {
				out[c.Exit] = true
			}
		}
		return out
	}
	for len(exits()) < 2 { // new flows need not wait for a build then; they may get one that was built since
		if time.Sleep(time.Millisecond); ctx.Err() != nil {
			t.Fatal("all circuits kept ready end at one exit")
		}
	}
	hops := nw.inUse()
	nw.stop[hops[2]]()
	gone := time.Now()
	again, err := o.DialTCP(ctx, flowTo(address))
	if took := time.Since(gone); err != nil || took > goneMost {
		t.Errorf("new flow after %v: %v, want one at once", took, err)
	} else {
		t.Logf("a new flow was open %v after the exit had gone", took.Round(time.Millisecond))
		defer again.Close()
	}
	_, err = conn.Read(make([]byte, 1))
	wantEnded(t, err)
	if took := time.Since(gone); took > goneMost {
		t.Errorf("the flow ended after %v, want at once", took)
	} else {
		t.Logf("the flow ended after %v", took.Round(time.Millisecond))
	}
	if now := nw.inUse(); slices.Contains(now, hops[2]) {
		t.Errorf("new flows use %v, %s is gone", now, hops[2])
	}
}

// TestMute: flows of a key avoid an exit whose session of that key has gone silent, all
// flows one that has not answered over another path either, until it is heard again
// and as long as there is another.
func TestMute(t *testing.T) {
	nw := mesh(t, "x1", "x2")
	nw.linked(10)
	o := nw.pool()
	x1, x2 := nw.nodes["x1"].id.ID, nw.nodes["x2"].id.ID
	w, err := o.want(flowTo("127.0.0.1:80"), ownerTCP)
	if err != nil {
		t.Fatal(err)
	}
	here, there := w.Key, circuit.Key{1}
	avoids := func(key circuit.Key, want ...wire.NodeID) {
		t.Helper()
		if got := o.avoiding(circuit.Want{Key: key}).Not; !slices.Equal(got, want) {
			t.Errorf("flows avoid %v, want %v", got, want)
		}
	}
	one, all := muted{exit: x1, key: here}, muted{exit: x1, all: true}
	avoids(here)
	o.mute.note(one)
	avoids(here, x1)
	avoids(there) // its own session may do well
	o.mute.note(all)
	avoids(here, x1)
	avoids(there, x1)
	o.mute.note(muted{exit: x2, all: true})
	avoids(here) // rather one of them than none
	o.mute.heard(x2, there)
	avoids(there, x1)
	o.mute.heard(x1, here)
	avoids(here)
	avoids(there)
}
