package node

import (
	"context"
	"errors"
	"fmt"

	"cuttle/billing"
	"cuttle/internal/config"
	"cuttle/internal/control"
)

var _ control.Channeler = (*Node)(nil)

// Channels lists the channels with all neighbors.
func (n *Node) Channels(ctx context.Context) (out []control.Channel, err error) {
	if n.book == nil {
		return nil, errNoBook()
	}
	all, err := n.book.Channels(ctx)
	if err != nil {
		return nil, channelError(err, "")
	}
	for i := range all {
		out = append(out, channelOf(&all[i]))
	}
	return out, nil
}

func channelOf(c *billing.NeighborChannel) control.Channel {
	out := control.Channel{
		Node: c.Node.String(), Direction: "in", State: control.ChannelClosed, Epoch: c.Epoch, Deposit: c.Deposit.String(), Given: c.Vouchers.String(),
		Cashed: c.Cashed.String(), Left: (c.Deposit - c.Vouchers).String(), Target: c.Target.String(), CloseAt: int64(c.CloseAt), //nolint:gosec // a time
		UnderWay: c.UnderWay, Payer: c.Payer, Payee: c.Payee,
	}
	if c.WePay {
		out.Direction = "out"
	}
	switch {
	case c.Closing:
		out.State = control.ChannelClosing
	case c.Open:
		out.State = control.ChannelOpen
	case c.UnderWay != "":
		out.State = control.ChannelOpening
	}
	return out
}

// CloseChannel asks for our channel to a neighbor to be closed.
func (n *Node) CloseChannel(ctx context.Context, node string) error {
	id, err := n.debtor(node)
	if err != nil {
		return err
	}
	return channelError(n.book.CloseTo(ctx, id), node)
}

// TopUpChannel adds to the deposit of our channel to a neighbor.
func (n *Node) TopUpChannel(ctx context.Context, node, amount string) error {
	id, err := n.debtor(node)
	if err != nil {
		return err
	}
	units, err := config.Amount(amount)
	if err == nil && units == 0 {
		err = errors.New("want more than nothing")
	}
	if err != nil {
		return &control.Error{Status: 400, Text: fmt.Sprintf("amount: %v", err), Hint: "a decimal number of token, for example 0.1"}
	}
	return channelError(n.book.TopUp(ctx, id, billing.Amount(units)), node)
}

// channelError adds what to do.
func channelError(err error, node string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, billing.ErrNoChannels):
		return &control.Error{Status: 409, Text: err.Error(), Hint: "billing.hub in its configuration names the hub of channels; without one, transfers pay"}
	case errors.Is(err, billing.ErrNoChannel):
		return &control.Error{Status: 404, Text: fmt.Sprintf("%v in which we pay neighbor %q", err, node), Hint: "`cuttle channel` lists the channels; one is opened by itself when something is owed"}
	case errors.Is(err, billing.ErrFull):
		return &control.Error{Status: 409, Text: err.Error(), Hint: "`cuttle status` says how much is needed"}
	}
	return &control.Error{Status: 409, Text: err.Error(), Hint: "`cuttle channel` shows how it stands"}
}
