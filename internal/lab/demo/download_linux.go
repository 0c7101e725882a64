package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"
)

// download is what the client's program has fetched.
type download struct {
	program string
	bytes   int64
	took    time.Duration // from its start to its end
	digest  string        // of what we got
	server  string        // the digest the server announced
	err     error
}

// maxHeaders bounds what is kept of the program's headers, in bytes.
const maxHeaders = 64 << 10

// fetch runs curl, or a plain HTTP client where there is none, inside a
// namespace, and shows its progress.
func fetch(ctx context.Context, namespace, url, header string, want int64, show io.Writer) download {
	argv := []string{"/proc/self/exe", load.VerbFetch, "-H", header, url}
	d := download{program: "a plain HTTP client (curl is not installed)"}
	if path, err := exec.LookPath("curl"); err == nil {
		argv = []string{path, "--silent", "--show-error", "--fail", "--noproxy", "*", "-H", header, "-D", "/dev/stderr", url}
		d.program = "curl"
	}
	cmd := netns.Command(ctx, namespace, argv...)
	var headers bytes.Buffer
	cmd.Stderr = &limited{w: &headers, left: maxHeaders}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.err = err
		return d
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		d.err = fmt.Errorf("start %s: %w", d.program, err)
		return d
	}
	h := sha256.New()
	p := progress{w: show, want: want, begin: begin, live: isTerminal(show)}
	n, err := io.CopyBuffer(io.MultiWriter(h, &p), out, make([]byte, 256<<10))
	d.err = errors.Join(err, cmd.Wait())
	d.took = time.Since(begin)
	p.end()
	d.bytes, d.digest, d.server = n, hex.EncodeToString(h.Sum(nil)), digestIn(headers.String())
	if d.err != nil {
		d.err = fmt.Errorf("%s: %w: %s", d.program, d.err, strings.TrimSpace(headers.String()))
	}
	return d
}

// digestIn finds the header X-SHA256.
func digestIn(headers string) string {
	for l := range strings.Lines(headers) {
		if name, value, ok := strings.Cut(l, ":"); ok && strings.EqualFold(strings.TrimSpace(name), "X-SHA256") {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// limited keeps the first bytes only.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	keep := b[:min(len(b), l.left)]
	l.left -= len(keep)
	if _, err := l.w.Write(keep); err != nil {
		return 0, err
	}
	return len(b), nil
}

// progress is a line that follows the download.
type progress struct {
	w     io.Writer
	live  bool // a terminal: one line is rewritten
	want  int64
	got   int64
	begin time.Time
	shown time.Time
	last  int64 // got when it was shown
}

func (p *progress) Write(b []byte) (int, error) {
	p.got += int64(len(b))
	every := time.Second
	if p.live {
		every = 100 * time.Millisecond
	}
	if p.shown.IsZero() {
		p.shown = p.begin
	}
	if now := time.Now(); now.Sub(p.shown) >= every {
		p.show(now)
	}
	return len(b), nil
}

func (p *progress) show(now time.Time) {
	rate := float64(p.got-p.last) * 8 / now.Sub(p.shown).Seconds() / 1e6
	p.print(fmt.Sprintf("%s of %s, %3.0f%%, %7.1f Mbit/s", size(uint64(p.got)), size(uint64(p.want)), 100*float64(p.got)/float64(p.want), rate))
	p.shown, p.last = now, p.got
}

func (p *progress) print(text string) {
	if p.live {
		_, _ = fmt.Fprintf(p.w, "\r      %-60s", text) // what is shown is not checked
		return
	}
	_, _ = fmt.Fprintf(p.w, "      %s\n", text)
}

// end shows the whole.
func (p *progress) end() {
	rate := float64(p.got) * 8 / time.Since(p.begin).Seconds() / 1e6
	p.print(fmt.Sprintf("%s of %s, %.1f Mbit/s on average", size(uint64(p.got)), size(uint64(p.want)), rate))
	if p.live {
		_, _ = fmt.Fprintln(p.w)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
