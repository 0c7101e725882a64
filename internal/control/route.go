package control

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
)

// UpOptions is the body of POST /v1/up, which may also be empty. They hold until
// the daemon ends, then the configuration counts again; what is left out stays as
// it is.
type UpOptions struct {
	Hops int      `json:"hops,omitempty"` // 1 to 6; 0: as it is
	Exit []string `json:"exit,omitempty"` // countries or node addresses in order of preference; ["any"]: any
}

// up reads the options, which an empty body leaves out.
func (s *Server) up(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, &Error{Status: http.StatusBadRequest, Text: "the options are too long"})
		return
	}
	r.Body = http.NoBody
	if len(body) == 0 {
		s.do(w, r, s.node.Up)
		return
	}
	var o UpOptions
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil || d.More() {
		refuse(w, &Error{Status: http.StatusBadRequest, Text: "these options cannot be read", Hint: `want {"hops": 3, "exit": ["DE"]}`})
		return
	}
	s.do(w, r, func(ctx context.Context) error { return s.node.UpWith(ctx, o) })
}

// UpWith asks the node to capture this machine's traffic over such paths.
func (c *Client) UpWith(ctx context.Context, o UpOptions) (Done, error) {
	if o.Hops == 0 && len(o.Exit) == 0 {
		return c.Up(ctx)
	}
	body, err := json.Marshal(o)
	if err != nil {
		return Done{}, err
	}
	return callWith[Done](ctx, c, http.MethodPost, "up", bytes.NewReader(body))
}

// NewPath asks for new circuits for new flows.
func (c *Client) NewPath(ctx context.Context) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "newpath")
}
