package node

import (
	"context"
	"errors"

	"cuttle/billing"
	"cuttle/billing/evm"
	"cuttle/internal/control"
)

var _ control.Purse = (*Node)(nil)

// Balances asks the chain what both wallets hold now.
func (n *Node) Balances(ctx context.Context) (control.Balances, error) {
	if n.book == nil {
		return control.Balances{}, errNoBook()
	}
	id, token, all, err := n.book.Balances(ctx)
	if errors.Is(err, billing.ErrNoChain) {
		return control.Balances{}, &control.Error{Text: "this node settles without a chain, so there are no wallets", Hint: "billing.mode in its configuration says how it settles"}
	}
	if err != nil {
		return control.Balances{}, &control.Error{Text: "the chain cannot be asked: " + err.Error(), Hint: "see billing.rpc and billing.token in the configuration"}
	}
	out := control.Balances{ChainID: id, Token: token}
	for _, w := range all {
		out.Wallets = append(out.Wallets, control.Wallet{Purpose: w.Purpose, Address: w.Address, Token: w.Token, Gas: w.Gas, Checked: w.At.Unix()})
	}
	return out, nil
}

// Taken lists our transactions that were lost to another program.
func (n *Node) Taken(ctx context.Context) (out []control.Taken, digest string, err error) {
	if n.book == nil {
		return nil, "", errNoBook()
	}
	all, digest, err := n.book.Taken(ctx)
	if err != nil {
		return nil, "", resumeError(err)
	}
	for _, t := range all {
		out = append(out, control.Taken(t))
	}
	return out, digest, nil
}

// Resume lets the consuming wallet send again after another program has used it, if
// what was lost is what was shown.
func (n *Node) Resume(ctx context.Context, digest string) error {
	if n.book == nil {
		return errNoBook()
	}
	return resumeError(n.book.Resume(ctx, digest))
}

// resumeError adds what to do.
func resumeError(err error) error {
	if err == nil {
		return nil
	}
	hint := "see billing.rpc in the configuration; nothing was changed"
	switch {
	case errors.Is(err, billing.ErrNoChain), errors.Is(err, billing.ErrNoWallet):
		hint = "billing.mode and billing.consuming in its configuration say how it pays"
	case errors.Is(err, billing.ErrNotStopped):
		hint = "there is nothing to resume; `cuttle status` says what keeps payments waiting, if anything does"
	case errors.Is(err, billing.ErrNotAsShown):
		hint = "nothing was changed; `cuttle wallet resume` shows what is lost now, and asks again"
	case errors.Is(err, evm.ErrNotAtRest):
		hint = "stop the other program, wait some minutes and try again; what the chain gives back to this node goes on by itself"
	}
	return &control.Error{Status: 409, Text: err.Error(), Hint: hint}
}
