package load

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Verbs by which a program whose main begins with Hidden is started again.
const (
	VerbLoad  = "_load"  // -mode download|upload|latency|prepare -url ...: prints a Result as JSON
	VerbFetch = "_fetch" // [-H "Name: value"] URL: body to stdout, headers to stderr, as `curl -D /dev/stderr` does
)

// Hidden runs a verb of this package, if the program's arguments have one, and
// tells whether they had; then the process must end.
func Hidden(args []string, stdout, stderr io.Writer) (bool, error) {
	if len(args) < 2 || args[1] != VerbLoad && args[1] != VerbFetch {
		return false, nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if args[1] == VerbLoad {
		return true, run(ctx, args[2:], stdout)
	}
	return true, fetch(ctx, args[2:], stdout, stderr)
}

func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet(VerbLoad, flag.ContinueOnError)
	var c Config
	mode := fs.String("mode", "download", "download, upload, latency or prepare")
	fs.StringVar(&c.URL, "url", "", "of the web server")
	fs.IntVar(&c.Flows, "flows", 1, "connections at once")
	fs.DurationVar(&c.Warmup, "warmup", 0, "time not counted")
	fs.DurationVar(&c.Window, "window", 0, "time counted")
	fs.StringVar(&c.Proxy, "proxy", "", "URL of a SOCKS proxy")
	fs.IntVar(&c.Count, "count", 0, "requests, for latency")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var r Result
	var err error
	switch *mode {
	case "download":
		r, err = Download(ctx, c)
	case "upload":
		r, err = Upload(ctx, c)
	case "latency":
		r, err = Latency(ctx, c)
	case "prepare":
		err = Prepare(ctx, c)
	default:
		err = fmt.Errorf("no mode %q", *mode)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// fetch is curl for machines without it: as much of it as the demo needs.
func fetch(ctx context.Context, args []string, out, headers io.Writer) error {
	fs := flag.NewFlagSet(VerbFetch, flag.ContinueOnError)
	header := fs.String("H", "", "a header to send")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return errors.New("fetch: want one address")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fs.Arg(0), nil)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if name, value, ok := strings.Cut(*header, ":"); ok {
		req.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	client := Config{}.client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := resp.Header.Write(headers); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch: the server answers %s", resp.Status)
	}
	if _, err := io.Copy(out, resp.Body); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	return nil
}
