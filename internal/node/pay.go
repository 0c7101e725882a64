package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cuttle/billing"
	"cuttle/internal/control"
	"cuttle/relay/wire"
)

var _ control.Accountant = (*Node)(nil)

// Pay agrees on the counts with all neighbors and settles what is owed, however
// little.
func (n *Node) Pay(ctx context.Context) error {
	if n.book == nil {
		return errNoBook()
	}
	return n.book.Settle(ctx)
}

// PayNeighbor does so with one neighbor, named by the beginning of its address.
func (n *Node) PayNeighbor(ctx context.Context, node string) error {
	id, err := n.debtor(node)
	if err != nil {
		return err
	}
	return n.book.Settle(ctx, id)
}

// Unban has a neighbor served again that was cut off, or whose counts were
// disputed; what it owes stays owed.
func (n *Node) Unban(ctx context.Context, node string) error {
	id, err := n.debtor(node)
	if err != nil {
		return err
	}
	return n.book.Unban(ctx, id)
}

func errNoBook() error {
	return &control.Error{Text: "nobody bills on this node", Hint: "billing.mode is none in its configuration"}
}

// debtor finds the one neighbor with an account whose address begins so.
func (n *Node) debtor(begins string) (found wire.NodeID, err error) {
	if n.book == nil {
		return found, errNoBook()
	}
	begins = strings.ToLower(begins)
	var many int
	for _, id := range n.book.Known() {
		if begins != "" && strings.HasPrefix(id.String(), begins) {
			found = id
			many++
		}
	}
	const hint = "`cuttle ledger` lists the neighbors that there is an account with"
	switch many {
	case 0:
		return found, &control.Error{Status: 404, Text: fmt.Sprintf("there is no account with a neighbor %q", begins), Hint: hint}
	case 1:
		return found, nil
	}
	return found, &control.Error{Status: 400, Text: fmt.Sprintf("%q is the beginning of %d neighbors' addresses", begins, many), Hint: "give more of it; " + hint}
}

// moneyProblems tells what money keeps from being carried; failure is why there
// is no circuit.
func (n *Node) moneyProblems(failure error) []control.Problem {
	if n.book == nil {
		return nil
	}
	out := n.client.limits.problems(n.client.guards(), failure)
	for _, d := range n.book.Demands() {
		does := "carries our traffic slowly"
		if d.Standing != billing.Throttled {
			does = "refuses new circuits of ours"
		}
		p := control.Problem{Text: fmt.Sprintf("neighbor %s %s: %s (we owe %v, it lets us owe %v)", d.Node, does, d.Reason, d.Owed, d.Limit)}
		switch {
		case d.Pay > 0:
			p.Hint = fmt.Sprintf("paying %v restores it: `cuttle pay %s`; `cuttle ledger` shows what keeps payments", d.Pay, d.Node.String()[:shortAddress])
		case d.Standing == billing.Disputed:
			p.Hint = "it ends with the next link, or when its operator lifts it"
		default:
			p.Hint = "use another neighbor meanwhile; it ends when others have paid, or a day later"
		}
		if d.Reason == billing.ReasonNoSettlement {
			p.Hint = "both need the same billing.mode, chain and token"
		}
		if d.Reason == billing.ReasonFunds {
			p.Hint = "send token, and some of the chain's coin for fees, to the consuming wallet (`cuttle wallet show`); the neighbor sees it on the chain by itself"
		}
		out = append(out, p)
	}
	out = append(out, n.payProblems()...)
	for i := range out {
		out[i].Area = control.AreaMoney
	}
	return out
}

// payProblems tells what is wrong with payments.
func (n *Node) payProblems() (out []control.Problem) {
	for _, p := range n.book.Problems() {
		out = append(out, control.Problem{Text: p.Text, Hint: p.Hint, Area: control.AreaMoney})
	}
	return out
}

// shortAddress is how much of an address people are shown.
const shortAddress = 12

// epoch is a time for JSON, 0 for none.
func epoch(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
