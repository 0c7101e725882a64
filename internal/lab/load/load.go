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
	Window time.Duration // counted
	Count  int           // requests, for Latency
}

// Result is what one measurement gave.
type Result struct {
	Bytes   int64     `json:"bytes"`   // delivered within the window
	Seconds float64   `json:"seconds"` // length of the window
	Total   int64     `json:"total"`   // delivered in all, warm-up included
	Times   []float64 `json:"times,omitempty"`
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

// newClient dials anew for every transport, so that flows have connections of
// their own.
func newClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
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
			client := newClient()
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
		before, begin := wait(gctx, c.Warmup, &total)
		after, end := wait(gctx, c.Window, &total)
		r.Bytes, r.Seconds = after-before, end.Sub(begin).Seconds()
		return nil
	})
	err := g.Wait()
	r.Total = total.Load()
	return r, err
}

// wait sleeps for d or until ctx ends, then reads the counter.
func wait(ctx context.Context, d time.Duration, total *atomic.Int64) (int64, time.Time) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return total.Load(), time.Now()
}

func downloadOnce(ctx context.Context, client *http.Client, url string, buf []byte, total *atomic.Int64) error {
	resp, err := get(ctx, client, fmt.Sprintf("%s/bytes/%d", url, perRequest))
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

func get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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
	client := newClient()
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
// after another.
func Latency(ctx context.Context, c Config) (Result, error) {
	var r Result
	for range c.Count {
		ms, err := firstByte(ctx, fmt.Sprintf("%s/bytes/%d", c.URL, smallPage))
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
func firstByte(ctx context.Context, url string) (float64, error) {
	client := newClient()
	defer client.CloseIdleConnections()
	begin := time.Now()
	resp, err := get(ctx, client, url)
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
