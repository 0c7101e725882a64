package https

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/obfs"
	"cuttle/obfs/obfstest"
	"cuttle/relay/wire"
)

// session makes a TLS 1.3 session in memory and gives the server's view of it.
func session(t testing.TB) *tls.ConnectionState {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	state := make(chan *tls.ConnectionState, 1)
	srv.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { state <- r.TLS })
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return <-state
}

func TestJudge(t *testing.T) {
	node, other := obfstest.NodeID(t), obfstest.NodeID(t)
	state, elsewhere := session(t), session(t)
	now := time.Unix(1_790_000_000, 0)
	claimAt := func(s *tls.ConnectionState, at time.Time) claim {
		b, err := bind(s)
		if err != nil {
			t.Fatal(err)
		}
		return newClaim(b, at)
	}
	p := newProver(node)
	good := p.value(claimAt(state, now))
	flipped := []byte(good)
	flipped[30] ^= 1
	for _, c := range []struct {
		name, cookie, value string
		tls                 *tls.ConnectionState
		want                bool
	}{
		{"right", p.cookie, good, state, true},
		{"a slot early", p.cookie, p.value(claimAt(state, now.Add(time.Minute))), state, true},
		{"a slot late", p.cookie, p.value(claimAt(state, now.Add(-time.Minute))), state, true},
		{"two slots early", p.cookie, p.value(claimAt(state, now.Add(2*time.Minute))), state, false},
		{"two slots late", p.cookie, p.value(claimAt(state, now.Add(-2*time.Minute))), state, false},
		{"another session", p.cookie, p.value(claimAt(elsewhere, now)), state, false},
		{"no TLS", p.cookie, good, nil, false},
		{"another node", p.cookie, newProver(other).value(claimAt(state, now)), state, false},
		{"another cookie", p.cookie + "x", good, state, false},
		{"one bit wrong", p.cookie, string(flipped), state, false},
		{"too short", p.cookie, good[:63], state, false},
		{"too long", p.cookie, good + "A", state, false},
		{"empty", p.cookie, "", state, false},
		{"not base64", p.cookie, "*" + good[1:], state, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGate(node, func() time.Time { return now })
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.TLS = c.tls
			r.AddCookie(&http.Cookie{Name: c.cookie, Value: c.value})
			if _, got := g.judge(r); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if _, again := g.judge(r); again {
				t.Error("accepted a second time")
			}
		})
	}
}

func TestReplayMemoryIsBounded(t *testing.T) {
	g := newGate(wire.NodeID{}, time.Now)
	at := func(i int) nonce { return nonce{byte(i), byte(i >> 8), byte(i >> 16)} }
	for i := range 3 * replayMemory {
		if !g.first(at(i)) {
			t.Fatalf("nonce %d counts as seen", i)
		}
		if g.first(at(i)) {
			t.Fatalf("nonce %d is not remembered", i)
		}
	}
	if len(g.seen) != replayMemory {
		t.Errorf("remembers %d nonces, want %d", len(g.seen), replayMemory)
	}
}

// FuzzCookie: whatever a visitor brings is judged without a panic and refused.
func FuzzCookie(f *testing.F) {
	f.Add("session=abc")
	f.Add("lb=" + string(make([]byte, 64)))
	f.Add("sid=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	g := newGate(wire.NodeID{9}, time.Now)
	state := session(f)
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r.TLS = state
		r.Header["Cookie"] = []string{header, g.cookie + "=" + header}
		if _, ok := g.judge(r); ok {
			t.Fatalf("accepted %q", header)
		}
	})
}

// TestCertificateIsKept: the key, and so a pin, survives restarts and renewals.
func TestCertificateIsKept(t *testing.T) {
	state := t.TempDir()
	pin := func(name string) string {
		c, err := newCertificates(obfs.Options{State: state, Values: map[string]string{"name": name}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.current.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
		return Pin(c.current.Leaf)
	}
	first := pin("a.example")
	if again := pin("a.example"); again != first {
		t.Errorf("second start: pin %s, want %s", again, first)
	}
	if renamed := pin("b.example"); renamed != first {
		t.Errorf("other name: pin %s, want %s", renamed, first)
	}
	synctest.Test(t, func(t *testing.T) { // the clock starts in 2000: the certificate is not valid yet, but far from its end
		time.Sleep(40 * 365 * 24 * time.Hour)
		if renewed := pin("b.example"); renewed != first {
			t.Errorf("after it ran out: pin %s, want %s", renewed, first)
		}
	})
}
