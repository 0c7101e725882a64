package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// Purse is what a node with wallets on a chain answers beside Node.
type Purse interface {
	// Balances asks the chain what both wallets hold now.
	Balances(ctx context.Context) (Balances, error)
	// Taken lists what of ours was lost to another program that uses the wallet. digest
	// stands for the list.
	Taken(ctx context.Context) (all []Taken, digest string, err error)
	// Resume lets the wallet send again after that, if what was lost is still the list
	// with this digest.
	Resume(ctx context.Context, digest string) error
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
	Digest string  `json:"digest"` // of the list; whoever confirms it gives it back
}

// Confirmation is the body of POST /v1/wallet/resume.
type Confirmation struct {
	Digest string `json:"digest"` // of the TakenAll that was shown
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
		all, digest, err := p.Taken(ctx)
		if err != nil {
			refuse(w, err)
			return
		}
		reply(w, http.StatusOK, TakenAll{Schema, orEmpty(all), digest})
	})
	mux.HandleFunc("POST /v1/wallet/resume", func(w http.ResponseWriter, r *http.Request) {
		var shown Confirmation
		d := json.NewDecoder(r.Body)
		d.DisallowUnknownFields()
		err := d.Decode(&shown)
		if err == nil {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) || shown.Digest == "" {
			refuse(w, &Error{Status: http.StatusBadRequest, Text: "this call has to say what was shown (the digest of GET /v1/wallet/taken)", Hint: "nothing was changed; are cuttle and cuttled of the same version?"})
			return
		}
		r.Body = http.NoBody
		s.do(w, r, func(ctx context.Context) error { return p.Resume(ctx, shown.Digest) })
	})
}

// Balances asks the chain, through the daemon, what both wallets hold.
func (c *Client) Balances(ctx context.Context) (Balances, error) {
	return call[Balances](ctx, c, http.MethodGet, "balances")
}

// Taken lists what was lost to another program that uses the wallet.
func (c *Client) Taken(ctx context.Context) (TakenAll, error) {
	return call[TakenAll](ctx, c, http.MethodGet, "wallet/taken")
}

// Resume lets the wallet send again after what was shown, which has this digest.
func (c *Client) Resume(ctx context.Context, digest string) (Done, error) {
	body, err := json.Marshal(Confirmation{digest})
	if err != nil {
		return Done{}, err
	}
	return callWith[Done](ctx, c, http.MethodPost, "wallet/resume", bytes.NewReader(body))
}
