package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"
)

// runUnsure is a JSON-RPC endpoint that loses calls before or, worse, after the
// chain has acted on them, as busy public endpoints do.
func runUnsure(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 3 {
		return errors.New("unsure endpoint: want a URL, an address and a percentage")
	}
	target, err := url.Parse(args[0])
	if err != nil {
		return fmt.Errorf("unsure endpoint: %w", err)
	}
	percent, err := strconv.Atoi(args[2])
	if err != nil {
		return fmt.Errorf("unsure endpoint: percentage: %w", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", args[1])
	if err != nil {
		return fmt.Errorf("unsure endpoint: %w", err)
	}
	server := &http.Server{Handler: unsure(target, percent), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() { // ends when ctx does
		defer close(ended)
		<-ctx.Done()
		_ = server.Close()
	}()
	fmt.Fprintln(stdout, "ready")
	if err = server.Serve(ln); ctx.Err() == nil {
		return fmt.Errorf("unsure endpoint: %w", err)
	}
	<-ended
	return nil
}

// unsure passes calls on to target, but for percent of them: a quarter of those
// are refused, of a quarter the connection ends, and of a half the answer is lost.
func unsure(target *url.URL, percent int) http.Handler {
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rand.IntN(100) >= percent {
			proxy.ServeHTTP(w, r)
			return
		}
		switch rand.IntN(4) {
		case 0:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		case 1:
			panic(http.ErrAbortHandler) // net/http's way to end the connection
		default:
			proxy.ServeHTTP(lost{http.Header{}}, r)
			http.Error(w, "internal error", http.StatusInternalServerError)
		}
	})
}

// lost is an answer that nobody hears.
type lost struct{ header http.Header }

func (l lost) Header() http.Header       { return l.header }
func (lost) Write(b []byte) (int, error) { return len(b), nil }
func (lost) WriteHeader(int)             {}
