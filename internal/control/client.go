package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds what a client reads, bytes.
const maxAnswer = 16 << 20

// Client asks the daemon behind one control socket.
type Client struct {
	http *http.Client
}

// Dial checks that a daemon listens at path and gives a client for it. Errors
// are *Error with a hint, and answer to ErrNotRunning and ErrNotPermitted.
func Dial(path string) (*Client, error) {
	open := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerAfter)
	defer cancel()
	probe, err := open(ctx)
	if err != nil {
		return nil, explain(err, path)
	}
	if err := probe.Close(); err != nil {
		return nil, explain(err, path)
	}
	transport := &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return open(ctx) },
		DisableKeepAlives:     true, // calls are rare; nothing stays open between them
		ResponseHeaderTimeout: verbTimeout + 5*time.Second,
	}
	return &Client{&http.Client{Transport: transport}}, nil
}

// Status asks what the node is doing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "status")
}

// Circuits lists our own circuits.
func (c *Client) Circuits(ctx context.Context) (Circuits, error) {
	return call[Circuits](ctx, c, http.MethodGet, "circuits")
}

// Neighbors lists the neighbors and their links.
func (c *Client) Neighbors(ctx context.Context) (Neighbors, error) {
	return call[Neighbors](ctx, c, http.MethodGet, "neighbors")
}

// Ledger shows what is owed, and how it was paid.
func (c *Client) Ledger(ctx context.Context) (Ledger, error) {
	return call[Ledger](ctx, c, http.MethodGet, "ledger")
}

// Exits lists the exits of the network map.
func (c *Client) Exits(ctx context.Context) (Exits, error) {
	return call[Exits](ctx, c, http.MethodGet, "exits")
}

// Traffic reads the byte counters.
func (c *Client) Traffic(ctx context.Context) (Traffic, error) {
	return call[Traffic](ctx, c, http.MethodGet, "traffic")
}

// Allowed asks what may be seen on the physical devices.
func (c *Client) Allowed(ctx context.Context) (Allowed, error) {
	return call[Allowed](ctx, c, http.MethodGet, "allowed")
}

// Up asks the node to capture this machine's traffic.
func (c *Client) Up(ctx context.Context) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "up")
}

// Down asks the node to stop and put the machine back as it was.
func (c *Client) Down(ctx context.Context) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "down")
}

// Lock turns the lock on or off.
func (c *Client) Lock(ctx context.Context, on bool) (Done, error) {
	if on {
		return call[Done](ctx, c, http.MethodPost, "lock")
	}
	return call[Done](ctx, c, http.MethodPost, "unlock")
}

// Metrics reads the Prometheus text.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cuttle/metrics", http.NoBody)
	if err != nil {
		return "", fmt.Errorf("metrics: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", explain(err, "metrics")
	}
	defer func() { _ = resp.Body.Close() }() // all of it has been read, or nobody wants the rest
	if resp.StatusCode != http.StatusOK {
		return "", refusal(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", explain(err, "metrics")
	}
	return string(body), nil
}

// Pay asks the accountant for a scan now.
func (c *Client) Pay(ctx context.Context) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "pay")
}

func call[T any](ctx context.Context, c *Client, method, name string) (answer T, err error) {
	return callWith[T](ctx, c, method, name, http.NoBody)
}

// callWith is call with a body.
func callWith[T any](ctx context.Context, c *Client, method, name string, with io.Reader) (answer T, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://cuttle/v1/"+name, with)
	if err != nil {
		return answer, fmt.Errorf("%s: %w", name, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer, explain(err, name)
	}
	defer func() { _ = resp.Body.Close() }() // all of it has been read, or nobody wants the rest
	if resp.StatusCode != http.StatusOK {
		return answer, refusal(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer, explain(err, name)
	}
	if len(body) > maxAnswer {
		return answer, fmt.Errorf("%s: answer is longer than %d bytes", name, maxAnswer)
	}
	if err := checkSchema(body); err != nil {
		return answer, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("%s: read answer: %w", name, err)
	}
	return answer, nil
}

// refusal reads an answer that is not 200.
func refusal(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return explain(err, "read answer")
	}
	var head Failure
	if err := json.Unmarshal(body, &head); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	e := &Error{Status: resp.StatusCode, Text: head.Text, Hint: head.Hint}
	if resp.StatusCode == http.StatusForbidden {
		e.cause = ErrNotPermitted
	}
	return e
}

// checkSchema refuses answers of another schema than ours.
func checkSchema(body []byte) error {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if head.Schema != Schema {
		return &Error{Text: fmt.Sprintf("the daemon speaks schema %d, this program %d", head.Schema, Schema),
			Hint: "install cuttle and cuttled of the same version"}
	}
	return nil
}

// explain turns what the kernel says about the socket into advice.
func explain(err error, where string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return &Error{Text: "cuttled is not running (" + where + ")", cause: ErrNotRunning,
			Hint: "start it with `systemctl start cuttled`, or `cuttled -config FILE`; another socket is named with -s"}
	case errors.Is(err, fs.ErrPermission):
		return &Error{Status: http.StatusForbidden, Text: "not permitted to open the control socket", cause: ErrNotPermitted,
			Hint: "run it as root, or as a member of the socket's group"}
	}
	return fmt.Errorf("%s: %w", where, err)
}
