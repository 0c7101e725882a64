package load

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// counted is what the server's /sink answers.
type counted struct {
	Bytes  int64 `json:"bytes"`
	Window int64 `json:"window"` // those that came within the window
}

// zeros is a body without end, until a moment.
type zeros struct {
	done  <-chan struct{} // ends it before its time
	until time.Time
}

// Read gives whatever the buffer holds; its content does not matter.
func (z zeros) Read(p []byte) (int, error) {
	select {
	case <-z.done:
		return 0, context.Canceled
	default:
	}
	if time.Now().After(z.until) {
		return 0, io.EOF
	}
	return len(p), nil
}

// uploadOnce sends for warm-up, window and a little more, and hears how much of
// it came within the window.
func uploadOnce(ctx context.Context, c Config) (counted, error) {
	client := c.client()
	defer client.CloseIdleConnections()
	url := fmt.Sprintf("%s/sink?skip=%d&window=%d", c.URL, c.Warmup.Milliseconds(), c.Window.Milliseconds())
	body := zeros{ctx.Done(), time.Now().Add(c.Warmup + c.Window + 500*time.Millisecond)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return counted{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return counted{}, fmt.Errorf("upload: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	var n counted
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&n); err != nil {
		return counted{}, fmt.Errorf("upload: %w", err)
	}
	return n, nil
}
