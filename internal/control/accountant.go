package control

import (
	"context"
	"net/http"
	"net/url"
)

// Accountant is what a Node is, too, that keeps accounts with neighbors. A
// neighbor is named by its address or the beginning of it.
type Accountant interface {
	PayNeighbor(ctx context.Context, node string) error // settle with one neighbor now
	Unban(ctx context.Context, node string) error       // serve a neighbor again that was cut off
}

// serveAccountant adds its calls.
func (s *Server) serveAccountant(mux *http.ServeMux, a Accountant) {
	for name, f := range map[string]func(context.Context, string) error{"pay": a.PayNeighbor, "unban": a.Unban} {
		mux.HandleFunc("POST /v1/"+name+"/{node}", func(w http.ResponseWriter, r *http.Request) {
			s.do(w, r, func(ctx context.Context) error { return f(ctx, r.PathValue("node")) })
		})
	}
}

// PayNeighbor asks the accountant to settle with one neighbor now.
func (c *Client) PayNeighbor(ctx context.Context, node string) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "pay/"+url.PathEscape(node))
}

// Unban has a neighbor served again.
func (c *Client) Unban(ctx context.Context, node string) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "unban/"+url.PathEscape(node))
}
