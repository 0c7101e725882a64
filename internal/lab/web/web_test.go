package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// freePorts finds n ports on loopback that are free for TCP and UDP, below those
// that the system gives to connections.
func freePorts(t *testing.T, n int) []uint16 {
	t.Helper()
	var ports []uint16
	for range 100 {
		port := uint16(10_000 + rand.IntN(20_000))
		address := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		defer func() { _ = ln.Close() }()
		pc, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		defer func() { _ = pc.Close() }()
		if ports = append(ports, port); len(ports) == n {
			return ports
		}
	}
	t.Fatal("no ports are free")
	return nil
}

type world struct {
	cfg    Config
	pool   *x509.CertPool
	client *http.Client
}

func (w world) url(scheme string, port uint16, path string) string {
	return fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, port, path)
}

// start runs a server on loopback until the test ends.
func start(t *testing.T) world {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	ca, err := NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Pair("web.lab", []netip.Addr{loopback})
	if err != nil {
		t.Fatal(err)
	}
	p := freePorts(t, 4)
	zone := Zone{"web.lab.": {loopback, netip.MustParseAddr("fd99::2")}}
	cfg := Config{Addresses: []netip.Addr{loopback}, HTTP: p[0], HTTPS: p[1], DNS: p[2], Echo: p[3], Zone: zone, TLS: pair}
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }() // ends with ctx, in the cleanup
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "web.lab"}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	return world{cfg: cfg, pool: pool, client: &http.Client{Transport: tr}}
}

func (w world) get(t *testing.T, url string) (*http.Response, []byte) {
	t.Helper()
	resp, err := w.client.Get(url)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return resp, body
}

func TestBytes(t *testing.T) {
	w := start(t)
	for _, n := range []int{0, 1, 7, 8, chunkSize - 1, chunkSize, chunkSize + 1, 3*chunkSize + 5} {
		for _, scheme := range []struct {
			name string
			port uint16
		}{{"http", w.cfg.HTTP}, {"https", w.cfg.HTTPS}} {
			resp, body := w.get(t, w.url(scheme.name, scheme.port, fmt.Sprintf("/bytes/%d", n)))
			sum := sha256.Sum256(body)
			if got, want := resp.Header.Get("X-SHA256"), hex.EncodeToString(sum[:]); len(body) != n || got != want {
				t.Errorf("%s /bytes/%d = %d bytes, X-SHA256 %s; want %d and %s", scheme.name, n, len(body), got, n, want)
			}
		}
	}
	_, a := w.get(t, w.url("http", w.cfg.HTTP, "/bytes/70000"))
	_, b := w.get(t, w.url("http", w.cfg.HTTP, "/bytes/70000"))
	_, c := w.get(t, w.url("http", w.cfg.HTTP, "/bytes/70001"))
	if !bytes.Equal(a, b) || bytes.Equal(a, c[:70000]) {
		t.Error("the same N must give the same bytes and another N others")
	}
	_, d := w.get(t, w.url("http", w.cfg.HTTP, "/bytes/600000?canary=tweet"))
	if got := bytes.Count(d, []byte("tweet")); got != 3 {
		t.Errorf("canary stands %d times in 600000 bytes, want 3 (once per chunk)", got)
	}
	for _, bad := range []string{"/bytes/-1", "/bytes/x", "/bytes/1099511627777", "/bytes/1?canary=" + strings.Repeat("x", 257), "/delay/-1", "/delay/700000"} {
		if resp, _ := w.get(t, w.url("http", w.cfg.HTTP, bad)); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("GET %.20s = %d, want 400", bad, resp.StatusCode)
		}
	}
}

func TestUploadAndIP(t *testing.T) {
	w := start(t)
	body := bytes.Repeat([]byte("0123456789"), 100_000)
	sum := sha256.Sum256(body)
	for _, c := range []struct {
		path string
		want received
	}{
		{"/upload", received{Bytes: int64(len(body)), SHA256: hex.EncodeToString(sum[:])}},
		{"/sink", received{Bytes: int64(len(body))}},
	} {
		resp, err := w.client.Post(w.url("http", w.cfg.HTTP, c.path), "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatalf("post: %v", err)
		}
		var got received
		err = json.NewDecoder(resp.Body).Decode(&got)
		_ = resp.Body.Close()
		if err != nil || got != c.want {
			t.Errorf("POST %s = %+v, %v; want %+v", c.path, got, err, c.want)
		}
	}
	endless := io.MultiReader(bytes.NewReader(body), forever{})
	resp, err := w.client.Post(w.url("http", w.cfg.HTTP, "/sink?skip=20&window=500"), "application/octet-stream", endless)
	if err != nil {
		t.Fatalf("post without end: %v", err)
	}
	var got received
	err = json.NewDecoder(resp.Body).Decode(&got)
	_ = resp.Body.Close()
	if err != nil || got.Window == 0 || got.Bytes <= got.Window {
		t.Errorf("/sink with a window, of a body without end = %+v, %v; want an answer after the window", got, err)
	}
	if _, ip := w.get(t, w.url("http", w.cfg.HTTP, "/ip")); string(ip) != "127.0.0.1\n" {
		t.Errorf("/ip = %q, want 127.0.0.1", ip)
	}
	if _, ms := w.get(t, w.url("http", w.cfg.HTTP, "/delay/1")); string(ms) != "1\n" {
		t.Errorf("/delay/1 = %q, want 1", ms)
	}
}

// forever is a body without end.
type forever struct{}

func (forever) Read(p []byte) (int, error) { return len(p), nil }

func TestDNS(t *testing.T) {
	w := start(t)
	server := fmt.Sprintf("127.0.0.1:%d", w.cfg.DNS)
	for _, c := range []struct {
		name    string
		qtype   uint16
		network string
		rcode   int
		answers int
		cut     bool
	}{
		{"web.lab.", dns.TypeA, "udp", dns.RcodeSuccess, 1, false},
		{"WEB.lab.", dns.TypeAAAA, "udp", dns.RcodeSuccess, 1, false},
		{"web.lab.", dns.TypeA, "tcp", dns.RcodeSuccess, 1, false},
		{"web.lab.", dns.TypeMX, "udp", dns.RcodeSuccess, 0, false},
		{"nothing.lab.", dns.TypeA, "udp", dns.RcodeNameError, 0, false},
		{"servfail.lab.", dns.TypeA, "udp", dns.RcodeServerFailure, 0, false},
		{"big.lab.", dns.TypeTXT, "udp", dns.RcodeSuccess, 1, true},
		{"big.lab.", dns.TypeTXT, "tcp", dns.RcodeSuccess, 16, false},
	} {
		q := new(dns.Msg).SetQuestion(c.name, c.qtype)
		m, _, err := (&dns.Client{Net: c.network}).Exchange(q, server)
		if err != nil {
			t.Errorf("%s %s: %v", c.network, c.name, err)
			continue
		}
		if m.Rcode != c.rcode || len(m.Answer) != c.answers || m.Truncated != c.cut {
			t.Errorf("%s %s: rcode %d, %d answers, truncated %v; want %d, %d, %v",
				c.network, c.name, m.Rcode, len(m.Answer), m.Truncated, c.rcode, c.answers, c.cut)
		}
	}
}

func TestEcho(t *testing.T) {
	w := start(t)
	for _, network := range []string{"tcp", "udp"} {
		c, err := net.Dial(network, fmt.Sprintf("127.0.0.1:%d", w.cfg.Echo))
		if err != nil {
			t.Fatalf("dial: %v", err)
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Errorf("%s write: %v", network, err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Errorf("%s echo = %q, %v; want hello", network, got, err)
		}
		_ = c.Close()
	}
}

func TestNewRefusesTakenPort(t *testing.T) {
	w := start(t)
	if _, err := New(t.Context(), w.cfg); err == nil {
		t.Fatal("New on taken ports gave no error")
	}
}

func BenchmarkContent(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(100 << 20)
	for b.Loop() {
		if _, err := newContent(100<<20, "").WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
