package control

import (
	"context"
	"net/http"
)

// Purse is what a node with wallets on a chain answers beside Node.
type Purse interface {
	// Balances asks the chain what both wallets hold now.
	Balances(ctx context.Context) (Balances, error)
	// Taken lists what of ours was lost to another program that uses the wallet.
	Taken(ctx context.Context) ([]Taken, error)
	// Resume lets the wallet send again after that.
	Resume(ctx context.Context) error
}

// Taken is one of our transactions whose nonce another program has used.
type Taken struct {
	Nonce  uint64 `json:"nonce"`
	Tx     string `json:"tx"`     // ours
	Payee  string `json:"payee"`  // address on the chain
	Amount string `json:"amount"` // token, decimal
	Call   bool   `json:"call"`   // what channels need, not a payment to a neighbor
}

// TakenAll is the answer to GET /v1/wallet/taken.
type TakenAll struct {
	Schema int     `json:"schema"`
	Taken  []Taken `json:"taken"`
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
	mux.HandleFunc("GET /v1/wallet/taken", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), verbTimeout)
		defer cancel()
		all, err := p.Taken(ctx)
		if err != nil {
			refuse(w, err)
			return
		}
		reply(w, http.StatusOK, TakenAll{Schema, orEmpty(all)})
	})
	mux.HandleFunc("POST /v1/wallet/resume", func(w http.ResponseWriter, r *http.Request) { s.do(w, r, p.Resume) })
}

// Balances asks the chain, through the daemon, what both wallets hold.
func (c *Client) Balances(ctx context.Context) (Balances, error) {
	return call[Balances](ctx, c, http.MethodGet, "balances")
}

// Taken lists what was lost to another program that uses the wallet.
func (c *Client) Taken(ctx context.Context) (TakenAll, error) {
	return call[TakenAll](ctx, c, http.MethodGet, "wallet/taken")
}

// Resume lets the wallet send again after that.
func (c *Client) Resume(ctx context.Context) (Done, error) {
	return call[Done](ctx, c, http.MethodPost, "wallet/resume")
}
