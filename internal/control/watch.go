package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Limits of streams of changes.
const (
	maxWatchers = 16                     // at a time
	watchStep   = 250 * time.Millisecond // between two looks, at least
	watchCost   = 20                     // and so many times as long as a look takes, e.g. for paths to many exits
	watchWrite  = 10 * time.Second       // for a line, before a caller who does not read is given up
	maxLine     = 1 << 20                // bytes of a line that a client takes
)

// show answers a GET: once, or with ?watch=1 as NDJSON, one line now and one
// whenever the answer has changed, until the caller goes or the server ends.
func (s *Server) show(w http.ResponseWriter, r *http.Request, f func() any) {
	switch r.URL.Query().Get("watch") {
	case "":
		reply(w, http.StatusOK, f())
		return
	case "1":
	default:
		refuse(w, &Error{Status: http.StatusBadRequest, Text: "watch: want 1 or nothing"})
		return
	}
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		refuse(w, &Error{Status: http.StatusTooManyRequests, Text: fmt.Sprintf("%d callers watch already", maxWatchers), Hint: "end one of them"})
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	if out.SetReadDeadline(time.Time{}) != nil { // otherwise the time for the request would end the stream
		return
	}
	var last []byte
	for {
		began := time.Now()
		line, err := json.Marshal(f())
		if err != nil {
			panic("control: a type of api.go does not marshal: " + err.Error())
		}
		took := time.Since(began)
		if !bytes.Equal(line, last) {
			last = line
			// An error of these is that the caller has gone.
			if out.SetWriteDeadline(time.Now().Add(watchWrite)) != nil {
				return
			}
			if _, err := w.Write(append(line, '\n')); err != nil {
				return
			}
			if out.Flush() != nil {
				return
			}
		}
		select {
		case <-time.After(max(watchStep, watchCost*took)):
		case <-r.Context().Done():
			return
		}
	}
}

// Watch calls each with the answer to a GET ("status", "circuits", ...) now and
// whenever it has changed. It returns nil when the daemon ends the stream, each's
// error when it gives one, and ctx's when that ends.
func (c *Client) Watch(ctx context.Context, name string, each func(line []byte) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cuttle/v1/"+name+"?watch=1", http.NoBody)
	if err != nil {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return explain(err, name)
	}
	defer func() { _ = resp.Body.Close() }() // nobody wants the rest
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := checkSchema(lines.Bytes()); err != nil {
			return err
		}
		if err := each(lines.Bytes()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("watch %s: %w", name, err)
	}
	return nil
}
