package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// next decodes one line of a stream of status.
func collect(states chan<- State) func([]byte) error {
	return func(line []byte) error {
		var st Status
		if err := json.Unmarshal(line, &st); err != nil {
			return err
		}
		states <- st.State
		return nil
	}
}

func TestWatch(t *testing.T) {
	l := new(lamp)
	c := dial(t, serve(t, l))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	states, ended := make(chan State, 8), make(chan error, 1)
	go func() { ended <- c.Watch(ctx, "status", collect(states)) }() // ends with stop
	want := []State{StateOff, StateUp, StateOff}
	for i, w := range want {
		select {
		case got := <-states:
			if got != w {
				t.Fatalf("line %d: got %q, want %q", i, got, w)
			}
		case <-time.After(time.Minute):
			t.Fatalf("line %d has not come", i)
		}
		l.on.Store(i == 0)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the end: got %v, want the context's", err)
	}
	if len(states) != 0 {
		t.Errorf("got a line more than there were changes")
	}
	if err := c.Watch(t.Context(), "nothing", collect(states)); err == nil {
		t.Error("a stream of nothing is given")
	}
}

// TestWatchOutlivesTheRequest: the time for reading a request does not end the
// stream that answers it.
func TestWatchOutlivesTheRequest(t *testing.T) {
	node, path := new(lamp), t.TempDir()+"/s"
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := NewServer(node, "")
	if err != nil {
		t.Fatal(err)
	}
	srv.read = 3 * time.Second // in which a slow machine sends its request
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- srv.Run(ctx, ln) }() // ends with stop
	states, ended := make(chan State, 4), make(chan error, 1)
	c := dial(t, path)
	go func() { ended <- c.Watch(t.Context(), "status", collect(states)) }() // ends with the server
	<-states
	<-time.After(2 * srv.read)
	node.on.Store(true)
	select {
	case got := <-states:
		if got != StateUp {
			t.Errorf("got %q, want up", got)
		}
	case err := <-ended:
		t.Errorf("the stream has ended: %v", err)
		ended <- nil
	}
	stop()
	if err := errors.Join(<-ran, <-ended); err != nil {
		t.Error(err)
	}
}

// TestWatchersAreBounded fills the places, and sees that one becomes free.
func TestWatchersAreBounded(t *testing.T) {
	c := dial(t, serve(t, new(lamp)))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	started, ended := make(chan State, maxWatchers), make(chan error, maxWatchers)
	for range maxWatchers {
		go func() { ended <- c.Watch(ctx, "status", collect(started)) }() // ends with stop
	}
	for range maxWatchers {
		<-started
	}
	var e *Error
	if err := c.Watch(t.Context(), "status", collect(started)); !errors.As(err, &e) || e.Status != http.StatusTooManyRequests || e.Hint == "" {
		t.Errorf("one too many: got %v, want 429 with a hint", err)
	}
	stop()
	for range maxWatchers {
		<-ended
	}
	done := errors.New("enough")
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if err := c.Watch(t.Context(), "status", func([]byte) error { return done }); errors.Is(err, done) {
			return
		}
	}
	t.Error("no place becomes free")
}

// TestWatchEndsWithTheServer: the daemon's end ends streams at once, not at the
// end of the time for calls under way.
func TestWatchEndsWithTheServer(t *testing.T) {
	node := new(lamp)
	path := t.TempDir() + "/s"
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := NewServer(node, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- srv.Run(ctx, ln) }() // ends with stop
	states, ended := make(chan State, 1), make(chan error, 1)
	c := dial(t, path)
	go func() { ended <- c.Watch(t.Context(), "status", collect(states)) }() // ends with the server
	<-states
	stop()
	if err := <-ran; err != nil {
		t.Errorf("run: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("watch: got %v, want nil", err)
	}
}

// sampleLine is a line of the text format, version 0.0.4.
var sampleLine = regexp.MustCompile(`^[a-z_]+(\{[a-z]+="([^"\\\n]|\\[\\"n])*"(,[a-z]+="([^"\\\n]|\\[\\"n])*")*\})? -?[0-9.e+-]+$`)

type busy struct{ lamp }

func (b *busy) Neighbors() []Neighbor {
	return []Neighbor{{Node: "secretneighbor\"\n", State: LinkUp, RTT: 2, Cells: []Cells{{Payer: "we", Sent: 3, Received: 4}}}}
}

func (b *busy) Ledger() Ledger {
	return Ledger{Mode: "paid", ChainOK: true, Accounts: []Account{{Node: "secretneighbor", Owed: "0.25", Due: "0", Wallet: "0xsecret"}}}
}

func (b *busy) Status() Status {
	return Status{State: StateUp, Node: "secretself", Exit: "secretexit", Seen: []string{"203.0.113.7"}, Version: "v9"}
}

func checkMetrics(t *testing.T, text string) {
	t.Helper()
	families := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if families[name] {
				t.Errorf("family %s comes twice", name)
			}
			families[name] = true
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		if !sampleLine.MatchString(line) {
			t.Errorf("not the text format: %q", line)
		}
		if name := line[:strings.IndexAny(line, "{ ")]; !families[name] {
			t.Errorf("%s has no TYPE before it", name)
		}
	}
	for _, want := range []string{`cuttle_state{state="up"} 1`, `cuttle_state{state="off"} 0`, "cuttle_goroutines "} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestMetricsOnTheSocket(t *testing.T) {
	text, err := dial(t, serve(t, new(busy))).Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checkMetrics(t, text)
	for _, want := range []string{
		`cuttle_link_cells_total{neighbor="secretneighbor\"\n",payer="we",direction="sent"} 3`, `cuttle_owed_tokens{neighbor="secretneighbor"} 0.25`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	for _, no := range []string{"secretself", "secretexit", "203.0.113.7", "0xsecret"} {
		if strings.Contains(text, no) {
			t.Errorf("metrics tell %q", no)
		}
	}
}

// TestMetricsOnLoopback: what every user of the machine may read names nobody,
// and no other host name gets it.
func TestMetricsOnLoopback(t *testing.T) {
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeMetrics(ctx, ln, new(busy)) }() // ends with stop
	get := func(method, path, host string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+ln.Addr().String()+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.Close = host, true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	code, text := get(http.MethodGet, "/metrics", "")
	if code != http.StatusOK {
		t.Fatalf("got %d", code)
	}
	checkMetrics(t, text)
	for _, no := range []string{"secret", "v9", "203.0.113.7", "tokens"} {
		if strings.Contains(text, no) {
			t.Errorf("metrics on loopback tell %q", no)
		}
	}
	for _, bad := range [][3]string{
		{"GET", "/metrics", "evil.example"}, {"GET", "/metrics", "evil.example:80"}, {"GET", "/v1/status", ""}, {"POST", "/metrics", ""}, {"POST", "/v1/down", ""},
	} {
		if code, text := get(bad[0], bad[1], bad[2]); code == http.StatusOK || strings.Contains(text, "cuttle_") {
			t.Errorf("%v: got %d, %q", bad, code, text)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("end: %v", err)
	}
	if ln, err = lc.Listen(t.Context(), "tcp", "0.0.0.0:0"); err != nil {
		t.Fatal(err)
	}
	if err := ServeMetrics(t.Context(), ln, new(busy)); err == nil {
		t.Error("metrics are served to the network")
	}
}
