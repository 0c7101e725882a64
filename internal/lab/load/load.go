// Package load makes traffic for measurements and demonstrations: a plain HTTP
// client that knows nothing of Cuttle, to be run as a process of its own inside
// a node's namespace.
//
// cuttle-lab starts itself again with one of the package's verbs (Hidden);
// internal/lab/bench and internal/lab/demo read what it prints. It follows no
// redirect, keeps nothing, and takes its names from /etc/resolv.conf like any
// program. A run is told when to end; flows share nothing but counters.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config is one measurement.
type Config struct {
	URL    string        // of the web server, without a path
	Flows  int           // connections at once
	Warmup time.Duration // not counted
	Window time.Duration // counted; the longest time for Latency, 0: as long as it takes
	Count  int           // requests, for Latency
	Proxy  string        // URL of a SOCKS proxy, empty: none
}

// Result is what one measurement gave.
type Result struct {
	Bytes   int64     `json:"bytes"`           // delivered within the window
	Seconds float64   `json:"seconds"`         // length of the window
	Total   int64     `json:"total"`           // delivered in all, warm-up included
	Times   []float64 `json:"times,omitempty"` // milliseconds
	Stall   float64   `json:"stall"`           // longest time within the window in which no byte came, in seconds
}

// Gbits is the throughput in gigabits per second.
func (r Result) Gbits() float64 {
	if r.Seconds == 0 {
		return 0
	}
	return float64(r.Bytes) * 8 / r.Seconds / 1e9
}

// Quantile gives a quantile of Times, in milliseconds; q between 0 and 1.
func (r Result) Quantile(q float64) float64 {
	if len(r.Times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.Times))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

const (
	bufferSize = 256 << 10
	perRequest = 1 << 30 // bytes asked for at once; flows ask again when they have them
	smallPage  = 10_000  // bytes of a page whose first byte is timed
)

// client dials anew for every transport, so that flows have connections of
// their own.
func (c Config) client() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	if c.Proxy != "" {
		t.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(c.Proxy) }
	}
	t.DisableCompression = true
	t.WriteBufferSize, t.ReadBufferSize = bufferSize, bufferSize
	return &http.Client{Transport: t}
}

// Download reads from flows connections and counts at this end.
func Download(ctx context.Context, c Config) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Warmup+c.Window)
	defer cancel()
	var total atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range c.Flows {
		g.Go(func() error { // ends with ctx
			client := c.client()
			defer client.CloseIdleConnections()
			buf := make([]byte, bufferSize)
			for gctx.Err() == nil {
				if err := downloadOnce(gctx, client, c.URL, buf, &total); err != nil && gctx.Err() == nil {
					return err
				}
			}
			return nil
		})
	}
	var r Result
	g.Go(func() error { // ends with ctx
		before, begin, _ := wait(gctx, c.Warmup, &total)
		after, end, stall := wait(gctx, c.Window, &total)
		r.Bytes, r.Seconds, r.Stall = after-before, end.Sub(begin).Seconds(), stall.Seconds()
		return nil
	})
	err := g.Wait()
	r.Total = total.Load()
	return r, err
}

// stallPeriod is how often wait looks whether bytes have come: the precision of
// a stall.
const stallPeriod = 10 * time.Millisecond

// wait sleeps for d or until ctx ends, then reads the counter. It also gives the
// longest time during which the counter stood still.
func wait(ctx context.Context, d time.Duration, total *atomic.Int64) (bytes int64, end time.Time, stall time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	look := time.NewTicker(stallPeriod)
	defer look.Stop()
	seen, last := total.Load(), time.Now()
	for {
		select {
		case <-look.C:
			if now := total.Load(); now != seen {
				seen, last = now, time.Now()
			}
			stall = max(stall, time.Since(last))
			continue
		case <-t.C:
		case <-ctx.Done():
		}
		return total.Load(), time.Now(), stall
	}
}

func downloadOnce(ctx context.Context, client *http.Client, server string, buf []byte, total *atomic.Int64) error {
	resp, err := get(ctx, client, fmt.Sprintf("%s/bytes/%d", server, perRequest))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	for {
		n, err := resp.Body.Read(buf)
		total.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("download: %w", err)
		}
	}
}

func get(ctx context.Context, client *http.Client, page string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the server answers %s", resp.Status)
	}
	return resp, nil
}

// Prepare asks for the head of what Download reads, so that the server knows its
// digest before anything is timed.
func Prepare(ctx context.Context, c Config) error {
	client := c.client()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, fmt.Sprintf("%s/bytes/%d", c.URL, perRequest), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return resp.Body.Close()
}

// Upload writes to flows connections; the server counts.
func Upload(ctx context.Context, c Config) (Result, error) {
	var mu sync.Mutex // guards sum
	sum := Result{Seconds: c.Window.Seconds()}
	g, ctx := errgroup.WithContext(ctx)
	for range c.Flows {
		g.Go(func() error { // ends when the flow's time is over, or with ctx
			r, err := uploadOnce(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			sum.Bytes += r.Window
			sum.Total += r.Bytes
			return err
		})
	}
	err := g.Wait()
	return sum, err
}

// Latency times the first byte of small pages, each over a new connection, one
// after another: Count of them, or as many as begin within the window.
func Latency(ctx context.Context, c Config) (Result, error) {
	var r Result
	begin := time.Now()
	for range c.Count {
		if c.Window > 0 && time.Since(begin) > c.Window {
			break
		}
		ms, err := c.firstByte(ctx)
		if err != nil {
			return r, err
		}
		r.Times = append(r.Times, ms)
		r.Total += smallPage
	}
	r.Bytes = r.Total
	return r, nil
}

// firstByte gives milliseconds from before the name is resolved and the
// connection opened until the first byte of the answer's body is here.
func (c Config) firstByte(ctx context.Context) (float64, error) {
	client := c.client()
	defer client.CloseIdleConnections()
	begin := time.Now()
	resp, err := get(ctx, client, fmt.Sprintf("%s/bytes/%d", c.URL, smallPage))
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	var one [1]byte
	if _, err := io.ReadFull(resp.Body, one[:]); err != nil {
		return 0, fmt.Errorf("first byte: %w", err)
	}
	ms := float64(time.Since(begin)) / float64(time.Millisecond)
	_, err = io.Copy(io.Discard, resp.Body)
	return ms, err
}
