package https

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cuttle/obfs"
	"cuttle/relay/wire"
)

// startMask and startStock serve one site under one TLS configuration with the same
// timeouts: the mask, and net/http with nothing of ours between.
func startMask(t *testing.T, in net.Listener) {
	ln, err := Mask{}.Listen(in, obfs.Options{Node: wire.NodeID{1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := http2.ConfigureServer(new(http.Server), ln.(*listener).h2); err != nil { //nolint:staticcheck // so that no pool outlives the bubble
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
}

func startStock(t *testing.T, in net.Listener) {
	certificate, err := newCertificates(obfs.Options{Node: wire.NodeID{1}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:           drawSite(wire.NodeID{1}),
		ReadHeaderTimeout: firstTimeout,
		WriteTimeout:      visitTimeout,
		IdleTimeout:       visitTimeout,
		HTTP2:             &http.HTTP2Config{WriteByteTimeout: visitTimeout},
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{http2.NextProtoTLS, "http/1.1"},
		GetCertificate: certificate.get,
	}
	served := make(chan struct{})
	go func() { // ends when in is closed
		defer close(served)
		_ = srv.Serve(tls.NewListener(in, conf)) // http.ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
}

// probe tells a server something over HTTP/2, step by step, and gives the frames that
// come back, each with its time and all its bytes, and how it ends. Before each step the
// server has said what it had to, so that frames come in one order. It must run in a bubble.
func probe(t *testing.T, start func(*testing.T, net.Listener), steps []string) []string {
	in := &pipes{ends: make(chan net.Conn), closed: make(chan struct{})}
	start(t, in)
	here, there := net.Pipe()
	in.ends <- there
	c := tls.Client(here, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{http2.NextProtoTLS}})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var heard []string
	done := make(chan struct{})
	go func() { // ends when the server hangs up
		defer close(done)
		for {
			head := make([]byte, frameHead)
			if _, err := io.ReadFull(c, head); err != nil {
				heard = append(heard, fmt.Sprintf("%v %v", time.Since(began), err))
				return
			}
			body := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
			if _, err := io.ReadFull(c, body); err != nil {
				heard = append(heard, fmt.Sprintf("%v %v in a frame", time.Since(began), err))
				return
			}
			heard = append(heard, fmt.Sprintf("%v %v %x %x", time.Since(began), http2.FrameType(head[3]), head, body))
		}
	}()
	for _, step := range steps {
		synctest.Wait()
		if _, err := c.Write([]byte(step)); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	_ = here.Close() // the server has hung up
	return heard
}

// TestLikeNetHTTP: over HTTP/2 nobody who proves nothing can tell the mask from a
// plain net/http server of the same Go by these probes: the same frames come at the
// same times, to the byte.
func TestLikeNetHTTP(t *testing.T) {
	settings := func(of ...http2.Setting) string {
		b := bytes.NewBufferString(http2.ClientPreface)
		_ = http2.NewFramer(b, nil).WriteSettings(of...) // a bytes.Buffer takes everything
		return b.String()
	}
	request := func(method, path string) string {
		var b, block bytes.Buffer
		e := hpack.NewEncoder(&block)
		for _, h := range [...][2]string{{":method", method}, {":scheme", "https"}, {":authority", "www.example.org"}, {":path", path}} {
			_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		_ = http2.NewFramer(&b, nil).WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		return b.String()
	}
	get, end := request("GET", "/"), visitTimeout.String()+" GOAWAY"
	type steps []string
	for _, c := range []struct {
		name     string
		steps    steps
		from, to int    // of the frames that come, which to compare; to 0: all
		wants    string // what is among them
	}{
		{"the first SETTINGS", steps{settings()}, 0, 1, "SETTINGS"},
		{"no preface", nil, 1, 0, "10s"},
		{"no SETTINGS", steps{http2.ClientPreface}, 1, 0, "2s"},
		{"silence before a request", steps{settings()}, 1, 0, end},
		{"half a head", steps{settings(), get[:4]}, 1, 0, end},
		{"half a frame", steps{settings(), get[:12]}, 1, 0, end},
		{"headers that do not end", steps{settings(), "\x00\x00\x01\x01\x01\x00\x00\x00\x01\x82"}, 1, 0, end},
		{"silence after a request", steps{settings(), get}, 1, 0, end},
		{"a page for which there is no window", steps{settings(http2.Setting{ID: http2.SettingInitialWindowSize}), get},
			1, 0, (2 * visitTimeout).String() + " GOAWAY"},
		{"a page that is not there", steps{settings(), request("GET", "/wp-login.php")}, 1, 0, "DATA"},
		{"POST", steps{settings(), request("POST", "/")}, 1, 0, "DATA"},
		{"OPTIONS of a page", steps{settings(), request("OPTIONS", "/")}, 1, 0, "DATA"},
		{"OPTIONS *", steps{settings(), request("OPTIONS", "*")}, 1, 0, "HEADERS"},
		{"the switch", steps{settings(), get, ask(100)}, 1, 0, "RST_STREAM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got, want []string
			part := func(heard []string) []string {
				if c.to > 0 {
					return heard[c.from:c.to]
				}
				return heard[c.from:]
			}
			synctest.Test(t, func(t *testing.T) { got = part(probe(t, startMask, c.steps)) })
			synctest.Test(t, func(t *testing.T) { want = part(probe(t, startStock, c.steps)) })
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant what net/http does\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if !strings.Contains(strings.Join(want, "\n"), c.wants) {
				t.Errorf("net/http does\n%s\nand this probe wants %q among it", strings.Join(want, "\n"), c.wants)
			}
		})
	}
}

// TestSilenceIsCut: a silent connection ends also when the HTTP/2 server's timers do not end it.
func TestSilenceIsCut(t *testing.T) {
	ask := ask(100)
	for _, c := range []struct {
		name   string
		sent   string
		proven bool
	}{
		{"before the preface", "", false},
		{"in the preface", http2.ClientPreface[:9], false},
		{"before a frame", http2.ClientPreface, false},
		{"in a head", http2.ClientPreface + ask[:3], false},
		{"in a frame", http2.ClientPreface + ask[:20], false},
		{"in the switch", http2.ClientPreface + ask[:20], true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				certificate, err := newCertificates(obfs.Options{})
				if err != nil {
					t.Fatal(err)
				}
				here, there := net.Pipe()
				client := tls.Client(here, &tls.Config{InsecureSkipVerify: true})
				go func() { _, _ = client.Write([]byte(c.sent)) }() // ends when that is read, or the pipe closed
				own := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate.current, nil }
				f := newFrames(tls.Server(there, &tls.Config{GetCertificate: own, SessionTicketsDisabled: true}))
				if c.proven {
					f.proven.Store(&claim{})
				}
				start := time.Now()
				_, err = io.Copy(io.Discard, struct{ io.Reader }{f})
				if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != silenceTimeout {
					t.Errorf("cut after %v (%v), want %v", took, err, silenceTimeout)
				}
				_, _ = here.Close(), there.Close()
			})
		})
	}
}
