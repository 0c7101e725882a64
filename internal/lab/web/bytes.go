package web

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// chunkSize is the unit in which bytes are made, in bytes. Chunk k is one
	// random block with k written over its start: cheap to make, and no chunk
	// lost, repeated or moved goes unseen.
	chunkSize = 256 << 10
	maxBytes  = 1 << 40 // largest N of /bytes/N
	maxCanary = 256     // longest text asked for by ?canary=
	maxKnown  = 256     // digests kept; beyond that they are forgotten and made anew
)

// content makes the bytes of one /bytes/N. Not safe for concurrent use.
type content struct {
	chunk []byte
	next  uint64
	left  int64
}

// newContent gives n bytes that depend on n and canary only. The canary stands
// in each chunk, after the chunk's number.
func newContent(n int64, canary string) *content {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	c := &content{chunk: make([]byte, chunkSize), left: n}
	_, _ = rand.NewChaCha8(seed).Read(c.chunk) // never fails
	copy(c.chunk[8:], canary)
	return c
}

// WriteTo writes all that is left.
func (c *content) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for c.left > 0 {
		binary.BigEndian.PutUint64(c.chunk, c.next)
		n, err := w.Write(c.chunk[:min(c.left, chunkSize)])
		written += int64(n)
		c.left -= int64(n)
		if err != nil {
			return written, err
		}
		c.next++
	}
	return written, nil
}

// digests remembers the SHA-256 of contents, so that only the first request
// pays for it.
type digests struct {
	mu    sync.Mutex
	known map[digestKey]func() string
}

type digestKey struct {
	n      int64
	canary string
}

// of returns the digest in hexadecimal; it takes as long as hashing n bytes the
// first time (about a second per gigabyte).
func (d *digests) of(n int64, canary string) string {
	key := digestKey{n, canary}
	d.mu.Lock()
	if len(d.known) >= maxKnown || d.known == nil {
		d.known = make(map[digestKey]func() string)
	}
	sum, ok := d.known[key]
	if !ok {
		sum = sync.OnceValue(func() string {
			h := sha256.New()
			_, _ = newContent(n, canary).WriteTo(h) // a hash never fails
			return hex.EncodeToString(h.Sum(nil))
		})
		d.known[key] = sum
	}
	d.mu.Unlock()
	return sum()
}

func (d *digests) serve(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
	canary := r.URL.Query().Get("canary")
	if err != nil || n < 0 || n > maxBytes || len(canary) > maxCanary {
		http.Error(w, "want /bytes/N, N at most 2^40, and a canary of at most 256 bytes", http.StatusBadRequest)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(n, 10))
	h.Set("X-SHA256", d.of(n, canary))
	if r.Method == http.MethodHead {
		return
	}
	_, _ = newContent(n, canary).WriteTo(w) // the caller has gone; nobody to tell
}

// received is the answer to an upload.
type received struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256,omitempty"`
	Window int64  `json:"window,omitempty"` // bytes that came within the window asked for
}

func upload(w http.ResponseWriter, r *http.Request) {
	var answer received
	h := sha256.New()
	if err := take(r.Body, func(b []byte) bool {
		answer.Bytes += int64(len(b))
		_, _ = h.Write(b) // a hash never fails
		return true
	}); err != nil {
		http.Error(w, "the upload broke off", http.StatusBadRequest)
		return
	}
	answer.SHA256 = hex.EncodeToString(h.Sum(nil))
	reply(w, answer)
}

func sink(w http.ResponseWriter, r *http.Request) {
	skip, err1 := milliseconds(r, "skip")
	window, err2 := milliseconds(r, "window")
	if err1 != nil || err2 != nil {
		http.Error(w, "want skip and window in milliseconds", http.StatusBadRequest)
		return
	}
	c := http.NewResponseController(w)
	if err := c.EnableFullDuplex(); err != nil {
		http.Error(w, "no answer can be given while an upload lasts", http.StatusHTTPVersionNotSupported)
		return
	}
	var answer received
	begin := time.Now()
	err := take(r.Body, func(b []byte) bool {
		answer.Bytes += int64(len(b))
		at := time.Since(begin)
		if at >= skip && at < skip+window {
			answer.Window += int64(len(b))
		}
		return window == 0 || at < skip+window
	})
	if err != nil {
		http.Error(w, "the upload broke off", http.StatusBadRequest)
		return
	}
	reply(w, answer)
	_ = c.Flush() // the sender is gone if it fails
	// What is under way is taken, so that no reset overtakes the answer.
	_ = c.SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.Copy(io.Discard, r.Body)
}

// drainTime is how long a sender that was answered may go on.
const drainTime = 2 * time.Second

// milliseconds reads a parameter; none is zero.
func milliseconds(r *http.Request, name string) (time.Duration, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.ParseUint(text, 10, 31)
	return time.Duration(ms) * time.Millisecond, err
}

// take reads body piece by piece, to its end or until piece has enough.
func take(body io.Reader, piece func([]byte) (more bool)) error {
	buf := make([]byte, chunkSize)
	for {
		n, err := body.Read(buf)
		if !piece(buf[:n]) || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func reply(w http.ResponseWriter, answer received) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the caller has gone; nobody to tell
}
