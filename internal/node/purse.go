package node

import (
	"context"
	"errors"

	"cuttle/billing"
	"cuttle/internal/control"
)

var _ control.Purse = (*Node)(nil)

// Balances asks the chain what both wallets hold now.
func (n *Node) Balances(ctx context.Context) (control.Balances, error) {
	if n.book == nil {
		return control.Balances{}, &control.Error{Text: "nobody bills on this node", Hint: "billing.mode is none in its configuration"}
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
