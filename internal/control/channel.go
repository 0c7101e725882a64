package control

import (
	"context"
	"net/http"
	"net/url"
)

// Channeler is what a Node is, too, that pays and is paid out of channels of a
// hub. A neighbor is named by its address or the beginning of it; amounts are
// decimal numbers of token.
type Channeler interface {
	Channels(ctx context.Context) ([]Channel, error)
	CloseChannel(ctx context.Context, node string) error         // ask for what is left, after the notice
	TopUpChannel(ctx context.Context, node, amount string) error // add to the deposit
}

// ChannelState is where a channel stands.
type ChannelState string

// The states of a channel.
const (
	ChannelOpening ChannelState = "opening" // asked for, not deep enough in the chain
	ChannelOpen    ChannelState = "open"
	ChannelClosing ChannelState = "closing" // a close was asked for, or a notice runs
	ChannelClosed  ChannelState = "closed"
)

// Channel is one channel between us and a neighbor. Amounts are token, decimal, of
// the present epoch.
type Channel struct {
	Node      string       `json:"node"`
	Direction string       `json:"direction"` // "out" we pay, "in" we are paid
	State     ChannelState `json:"state"`
	Epoch     uint64       `json:"epoch"`     // grows each time it is opened
	Deposit   string       `json:"deposit"`   // paid in
	Given     string       `json:"given"`     // promised by vouchers
	Cashed    string       `json:"cashed"`    // of these
	Left      string       `json:"left"`      // of the deposit, for more vouchers
	Target    string       `json:"target"`    // what the deposit is to be
	CloseAt   int64        `json:"close_at"`  // Unix seconds from which the payer can close; 0: no notice runs
	UnderWay  string       `json:"under_way"` // what is being done to it on the chain, "" when nothing
	Payer     string       `json:"payer"`     // addresses on the chain
	Payee     string       `json:"payee"`
}

// Channels is the answer to GET /v1/channels.
type Channels struct {
	Schema   int       `json:"schema"`
	Channels []Channel `json:"channels"`
}

// serveChannels adds its calls.
func (s *Server) serveChannels(mux *http.ServeMux, c Channeler) {
	mux.HandleFunc("GET /v1/channels", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), verbTimeout)
		defer cancel()
		all, err := c.Channels(ctx)
		if err != nil {
			refuse(w, err)
			return
		}
		reply(w, http.StatusOK, Channels{Schema, orEmpty(all)})
	})
	mux.HandleFunc("POST /v1/channels/{node}/close", func(w http.ResponseWriter, r *http.Request) {
		s.do(w, r, func(ctx context.Context) error { return c.CloseChannel(ctx, r.PathValue("node")) })
	})
	mux.HandleFunc("POST /v1/channels/{node}/topup/{amount}", func(w http.ResponseWriter, r *http.Request) {
		s.do(w, r, func(ctx context.Context) error {
			return c.TopUpChannel(ctx, r.PathValue("node"), r.PathValue("amount"))
		})
	})
}

// Channels lists the channels with all neighbors.
func (c *Client) Channels(ctx context.Context) (Channels, error) {
	return call[Channels](ctx, c, http.MethodGet, "channels")
}

// CloseChannel asks for our channel to a neighbor to be closed.
func (c *Client) CloseChannel(ctx context.Context, node string) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "channels/"+url.PathEscape(node)+"/close")
}

// TopUpChannel adds to the deposit of our channel to a neighbor.
func (c *Client) TopUpChannel(ctx context.Context, node, amount string) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "channels/"+url.PathEscape(node)+"/topup/"+url.PathEscape(amount))
}
