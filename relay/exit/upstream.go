package exit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	failures = 3                // failures of a resolver in a row, after which it is asked last
	failTime = 30 * time.Second // for as long
	dnsType  = "application/dns-message"
)

var errStatus = errors.New("resolver answers with another status than 200")

// upstream is a resolver in use. Queries are asked as they are but for their
// identifier.
type upstream struct {
	ask   func(ctx context.Context, query []byte) ([]byte, error)
	close func()

	failed atomic.Int64 // in a row
	until  atomic.Int64 // nanoseconds since the Unix epoch: asked last before
}

// connect makes an upstream of a resolver; it opens nothing yet.
func (e *Exit) connect(r Resolver) *upstream {
	dial := func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{Control: e.cfg.Control, Timeout: tcpTime}
		return d.DialContext(ctx, "tcp", r.addr.String())
	}
	host := r.name
	if host == "" {
		host = r.addr.Addr().String()
	}
	secure := &tls.Config{ServerName: host, RootCAs: e.cfg.Roots, MinVersion: tls.VersionTLS12}
	switch r.way {
	case overTLS:
		p := newPipe(func(ctx context.Context) (net.Conn, error) {
			raw, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			conn := tls.Client(raw, secure)
			if err := conn.HandshakeContext(ctx); err != nil {
				_ = raw.Close()
				return nil, err
			}
			return conn, nil
		})
		return &upstream{ask: within(tcpTime, p.ask), close: p.close}
	case overHTTPS:
		t := &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			TLSClientConfig: secure, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConns: 2, MaxConnsPerHost: 2, IdleConnTimeout: lineIdle, TLSHandshakeTimeout: tcpTime,
			HTTP2: &http.HTTP2Config{SendPingTimeout: tcpTime, PingTimeout: udpTime},
		}
		w := &web{url: r.url, client: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}
		return &upstream{ask: within(tcpTime, w.ask), close: w.close}
	}
	p := newPipe(dial)
	long := within(tcpTime, p.ask)
	return &upstream{close: p.close, ask: func(ctx context.Context, query []byte) ([]byte, error) {
		answer, err := e.askUDP(ctx, r, query)
		if errors.Is(err, errStrays) || err == nil && flags(answer)&flagTruncated != 0 {
			return long(ctx, query)
		}
		return answer, err
	}}
}

// within bounds each call in time.
func within(most time.Duration, ask func(context.Context, []byte) ([]byte, error)) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, query []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		return ask(ctx, query)
	}
}

// note counts what a resolver is good for; a query that was given up says nothing.
func (u *upstream) note(ctx context.Context, err error) {
	switch {
	case err == nil:
		u.failed.Store(0)
	case !errors.Is(ctx.Err(), context.Canceled) && u.failed.Add(1) >= failures: // not given up by who asked
		u.until.Store(time.Now().Add(failTime).UnixNano())
	}
}

// inOrder lists the resolvers as they were given, those that fail last.
func (e *Exit) inOrder() []*upstream {
	now := time.Now().UnixNano()
	out := slices.Clone(e.upstreams)
	slices.SortStableFunc(out, func(a, b *upstream) int {
		bad := func(u *upstream) int {
			if u.until.Load() > now {
				return 1
			}
			return 0
		}
		return bad(a) - bad(b)
	})
	return out
}

// askUDP puts a query over a socket of its own, whose port the kernel chooses at
// random.
func (e *Exit) askUDP(ctx context.Context, r Resolver, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, udpTime)
	defer cancel()
	query = slices.Clone(query)
	_, _ = rand.Read(query[:2]) // never fails
	d := net.Dialer{Control: e.cfg.Control}
	conn, err := d.DialContext(ctx, "udp", r.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for range maxStrays {
		n, err := conn.Read(b[:])
		if err != nil {
			return nil, err
		}
		if answers(query, b[:n]) {
			return slices.Clone(b[:n]), nil
		}
	}
	return nil, errStrays
}

// web asks over HTTPS.
type web struct {
	url    string
	client *http.Client
	work   sync.WaitGroup // calls under way
}

func (w *web) ask(ctx context.Context, query []byte) ([]byte, error) {
	w.work.Add(1)
	defer w.work.Done()
	query = slices.Clone(query)
	query[0], query[1] = 0, 0 // RFC 8484 section 4.1
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", dnsType)
	req.Header.Set("Accept", dnsType)
	req.Header["User-Agent"] = nil      // not sent
	req.Header["Idempotency-Key"] = nil // not sent, but the query may be sent again over another connection
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %d", errStatus, resp.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return nil, err
	}
	if resp.Header.Get("Content-Type") != dnsType || len(answer) >= 1<<16 || !answers(query, answer) {
		return nil, errReply
	}
	return answer, nil
}

func (w *web) close() {
	w.client.CloseIdleConnections()
	w.work.Wait()
}
