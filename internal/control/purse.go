package control

import (
	"context"
	"net/http"
)

// Purse is what a node with wallets on a chain answers beside Node.
type Purse interface {
	// Balances asks the chain what both wallets hold now.
	Balances(ctx context.Context) (Balances, error)
}

// Balances is the answer to GET /v1/balances.
type Balances struct {
	Schema  int      `json:"schema"`
	ChainID uint64   `json:"chain_id"`
	Token   string   `json:"token"` // contract address
	Wallets []Wallet `json:"wallets"`
}

func (s *Server) servePurse(mux *http.ServeMux, p Purse) {
	mux.HandleFunc("GET /v1/balances", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), verbTimeout)
		defer cancel()
		b, err := p.Balances(ctx)
		if err != nil {
			refuse(w, err)
			return
		}
		b.Schema, b.Wallets = Schema, orEmpty(b.Wallets)
		reply(w, http.StatusOK, b)
	})
}

// Balances asks the chain, through the daemon, what both wallets hold.
func (c *Client) Balances(ctx context.Context) (Balances, error) {
	return call[Balances](ctx, c, http.MethodGet, "balances")
}
