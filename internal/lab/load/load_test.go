package load

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cuttle/internal/lab/web"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newServer(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(web.Handler())
	t.Cleanup(s.Close)
	return s.URL
}

func TestModes(t *testing.T) {
	url := newServer(t)
	if err := Prepare(t.Context(), Config{URL: url}); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"download", "upload"} {
		var out bytes.Buffer
		err := run(t.Context(), []string{"-mode", mode, "-url", url, "-flows", "2", "-warmup", "50ms", "-window", "2s"}, &out)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		var r Result
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatalf("%s prints %q: %v", mode, out.String(), err)
		}
		if r.Bytes <= 0 || r.Total < r.Bytes || r.Seconds <= 0 || r.Gbits() <= 0 {
			t.Errorf("%s = %+v, want bytes within the window, and no fewer in all", mode, r)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-mode", "latency", "-url", url, "-count", "7"}, &out); err != nil {
		t.Fatalf("latency: %v", err)
	}
	var r Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Times) != 7 || r.Quantile(0.5) <= 0 || r.Quantile(1) < r.Quantile(0) {
		t.Errorf("latency = %+v, %v; want 7 times", r, err)
	}
	if err := run(t.Context(), []string{"-mode", "nonsense", "-url", url}, &out); err == nil {
		t.Error("a mode that does not exist is taken")
	}
}

func TestFetch(t *testing.T) {
	url := newServer(t)
	var body, headers bytes.Buffer
	if err := fetch(t.Context(), []string{"-H", "X-Test: 1", url + "/bytes/1000"}, &body, &headers); err != nil {
		t.Fatal(err)
	}
	if body.Len() != 1000 || !strings.Contains(headers.String(), "X-Sha256: ") {
		t.Errorf("fetch gave %d bytes and headers %q", body.Len(), headers.String())
	}
	if err := fetch(t.Context(), []string{url + "/nothing"}, &body, &headers); err == nil {
		t.Error("a page that does not exist gives no error")
	}
}

func TestRunEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	_, err := Upload(ctx, Config{URL: "http://" + netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 1).String(), Flows: 1, Window: time.Hour})
	if err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("Upload = %v after %v, want an error at once", err, time.Since(began))
	}
}

func TestQuantile(t *testing.T) {
	r := Result{Times: []float64{5, 1, 4, 2, 3}}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := r.Quantile(q); got != want {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
}

// TestStall: a server that falls silent in the middle is seen.
func TestStall(t *testing.T) {
	const silence = 300 * time.Millisecond
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 2 {
			for range 20 {
				_, _ = w.Write(make([]byte, 1000))
				_ = http.NewResponseController(w).Flush()
			}
			select {
			case <-time.After(silence):
			case <-r.Context().Done():
			}
		}
	}))
	defer s.Close()
	r, err := Download(t.Context(), Config{URL: s.URL, Flows: 1, Window: 2 * time.Second})
	if err != nil || r.Stall < silence.Seconds()*0.8 || r.Total == 0 {
		t.Errorf("Download = %+v, %v; want a stall of %v", r, err, silence)
	}
}

func TestLatencyEndsWithWindow(t *testing.T) {
	const count = 1 << 30
	r, err := Latency(t.Context(), Config{URL: newServer(t), Count: count, Window: 2 * time.Second})
	if err != nil || len(r.Times) == 0 || len(r.Times) == count {
		t.Errorf("Latency = %d times, %v; want some", len(r.Times), err)
	}
}

// TestProxy: with a proxy that does not exist nothing is reached, so it is used.
func TestProxy(t *testing.T) {
	if err := Prepare(t.Context(), Config{URL: newServer(t), Proxy: "socks5://127.0.0.1:1"}); err == nil {
		t.Error("the server is reached past the proxy")
	}
}
