package https

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cuttle/obfs"
	"cuttle/obfs/obfstest"
	"cuttle/relay/wire"
)

// browser is an ordinary client of the web site.
func browser(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type answer struct {
	status int
	proto  string
	header http.Header
	body   string
}

func get(t *testing.T, c *http.Client, url string, cookie *http.Cookie) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if cookie != nil {
		req.AddCookie(cookie)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	resp.Header.Del("Date")
	return answer{resp.StatusCode, resp.Proto, resp.Header, string(body)}
}

// TestStrangersGetTheSite: over HTTP/1.1 and HTTP/2, with no cookie, a wrong one,
// or one recorded in another session, the answers are the same to the byte.
func TestStrangersGetTheSite(t *testing.T) {
	srv := obfstest.Listen(t, tested)
	p := newProver(srv.To.Node)
	recorded := p.value(newClaim(binding{1, 2, 3}, time.Now()))
	for _, h2 := range []bool{false, true} {
		want := get(t, browser(t, h2), "https://"+srv.To.Address+"/", nil)
		if want.status != http.StatusOK || !strings.Contains(want.body, "<html") || (want.proto == "HTTP/2.0") != h2 {
			t.Fatalf("front page: got status %d over %s and %d bytes", want.status, want.proto, len(want.body))
		}
		for name, cookie := range map[string]*http.Cookie{
			"of another session": {Name: p.cookie, Value: recorded},
			"too short":          {Name: p.cookie, Value: "x"},
			"other name":         {Name: "other", Value: recorded},
		} {
			if got := get(t, browser(t, h2), "https://"+srv.To.Address+"/", cookie); !reflect.DeepEqual(got, want) {
				t.Errorf("cookie %s: got %v, want what everybody gets, %v", name, got, want)
			}
		}
		if got := get(t, browser(t, h2), "https://"+srv.To.Address+"/wp-login.php", nil); got.status != http.StatusNotFound {
			t.Errorf("a page that is not there: got status %d, want 404", got.status)
		}
	}
}

// TestBuiltInSite: every link of the drawn site leads somewhere, and two nodes
// differ.
func TestBuiltInSite(t *testing.T) {
	sums := map[[32]byte]bool{}
	for i := range 40 {
		p := drawSite(wire.NodeID{byte(i)})
		sums[sha256.Sum256(p.files["/index.html"])] = true
		for name, body := range p.files {
			for _, part := range strings.Split(string(body), `href="`)[1:] {
				to, _, _ := strings.Cut(part, `"`)
				if to == "/" {
					to = "/index.html"
				}
				if p.files[to] == nil {
					t.Errorf("site %d: %s leads to %s, which is not there", i, name, to)
				}
			}
			if bytes.Contains(bytes.ToLower(body), []byte("cuttle")) || bytes.Contains(body, []byte("ZgotmplZ")) {
				t.Errorf("site %d: %s gives something away", i, name)
			}
		}
	}
	if len(sums) != 40 {
		t.Errorf("40 nodes have %d different front pages", len(sums))
	}
}

// TestFolderSite: an operator's folder is served without hidden files, listings
// and links that lead out of it.
func TestFolderSite(t *testing.T) {
	folder, outside := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		filepath.Join(folder, "index.html"):    "front",
		filepath.Join(folder, ".htpasswd"):     "secret",
		filepath.Join(folder, "list", "a.txt"): "a",
		filepath.Join(outside, "o.txt"):        "outside",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, "o.txt"), filepath.Join(folder, "link.txt")); err != nil {
		t.Fatal(err)
	}
	s := tested
	s.Values = map[string]string{"site": folder}
	srv := obfstest.Listen(t, s)
	c := browser(t, true)
	for path, want := range map[string]answer{
		"/": {status: 200, body: "front"}, "/list/a.txt": {status: 200, body: "a"},
		"/.htpasswd": {status: 404}, "/list/": {status: 404}, "/link.txt": {status: 404}, "/nothing": {status: 404},
	} {
		got := get(t, c, "https://"+srv.To.Address+path, nil)
		if got.status != want.status || want.body != "" && got.body != want.body {
			t.Errorf("%s: got %d %q, want %d %q", path, got.status, got.body, want.status, want.body)
		}
		if strings.Contains(got.body, "outside") || strings.Contains(got.body, "secret") || strings.Contains(got.body, "a.txt") {
			t.Errorf("%s: got %q", path, got.body)
		}
	}
	obfstest.Pair(t, s, srv) // the mask works with any site
}

// TestListenRefused: options that cannot work are said at once.
func TestListenRefused(t *testing.T) {
	for name, values := range map[string]map[string]string{
		"folder without a front page": {"site": t.TempDir()},
		"no such folder":              {"site": filepath.Join(t.TempDir(), "x")},
		"certificate without key":     {"cert": "x.pem"},
		"no such certificate":         {"cert": filepath.Join(t.TempDir(), "c"), "key": filepath.Join(t.TempDir(), "k")},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (Mask{}).Listen(ln, obfs.Options{Values: values}); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPin: a pinned key is insisted on.
func TestPin(t *testing.T) {
	state := t.TempDir()
	made, err := newCertificates(obfs.Options{State: state})
	if err != nil {
		t.Fatal(err)
	}
	s := tested
	s.Values = map[string]string{"cert": filepath.Join(state, ownCertFile), "key": filepath.Join(state, ownKeyFile)}
	s.Params = map[string]string{"pin": Pin(made.current.Leaf)}
	srv := obfstest.Listen(t, s)
	obfstest.Pair(t, s, srv)
	srv.To.Params = map[string]string{"pin": strings.Repeat("A", 43)}
	if _, err := s.Mask.Dial(t.Context(), new(net.Dialer), srv.To); err == nil || !strings.Contains(err.Error(), "pinned") {
		t.Errorf("dial with another pin: got %v, want an error about the pin", err)
	}
}

// TestWrongKeyIsAStranger: the error says what happened.
func TestWrongKeyIsAStranger(t *testing.T) {
	srv := obfstest.Listen(t, tested)
	srv.To.Node = obfstest.NodeID(t)
	if _, err := tested.Mask.Dial(t.Context(), new(net.Dialer), srv.To); !errors.Is(err, ErrStranger) {
		t.Errorf("got %v, want ErrStranger", err)
	}
}

// TestTooManyStrangers: whoever holds connections open keeps nobody out.
func TestTooManyStrangers(t *testing.T) {
	srv := obfstest.Listen(t, tested)
	var held []net.Conn
	for range maxStrangers + 20 {
		c, err := net.Dial("tcp", srv.To.Address)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		t.Cleanup(func() { _ = c.Close() }) // the server may have done so
	}
	if err := held[0].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := held[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first of too many strangers: got %v, want a closed connection", err)
	}
	obfstest.Pair(t, tested, srv)
}

// TestAskingWithoutProof: the switch does nothing for those who proved nothing.
func TestAskingWithoutProof(t *testing.T) {
	srv := obfstest.Listen(t, tested)
	to := srv.To
	to.Node = obfstest.NodeID(t) // the cookie of another node
	accepted := make(chan error, 1)
	go func() { // ends with the listener's Close
		_, err := srv.Accept()
		accepted <- err
	}()
	for range 3 {
		if _, err := tested.Mask.Dial(context.WithoutCancel(t.Context()), new(net.Dialer), to); !errors.Is(err, ErrStranger) {
			t.Errorf("got %v, want ErrStranger", err)
		}
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: got %v, want net.ErrClosed: nobody proved anything", err)
	}
}
