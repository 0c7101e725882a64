package emulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Request shapes both directions between two nodes. The zero Shape gives the
// pair back to the kernel.
type Request struct {
	A     []netip.Addr `json:"a"` // addresses of one node
	B     []netip.Addr `json:"b"` // and of the other
	Shape Shape        `json:"shape"`
}

// maxMessage bounds a request and an answer, in bytes.
const maxMessage = 64 << 10

type answer struct {
	Error string `json:"error,omitempty"`
}

// Ask has the emulator behind the socket carry out requests, in order.
func Ask(ctx context.Context, socket string, requests ...Request) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("reach the link emulator: %w", err)
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	dec := json.NewDecoder(io.LimitReader(c, int64(len(requests)+1)*maxMessage))
	enc := json.NewEncoder(c)
	for _, r := range requests {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("ask the link emulator: %w", err)
		}
		var a answer
		if err := dec.Decode(&a); err != nil {
			return fmt.Errorf("hear the link emulator: %w", err)
		}
		if a.Error != "" {
			return errors.New(a.Error)
		}
	}
	return nil
}

// talk answers the requests of one connection until it ends.
func talk(c net.Conn, do func(Request) error) {
	dec := json.NewDecoder(c)
	enc := json.NewEncoder(c)
	for {
		var r Request
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return
		}
		if err := dec.Decode(&r); err != nil {
			return
		}
		var a answer
		if err := do(r); err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return
		}
	}
}
