package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/ethclient"
)

// Watch looks whether payments that count as done are still where they were, as
// long as only their depth says so. One whose block has left the chain is SENT
// again, or MINED in another block, with its nonce and its bytes; Advance goes on
// with it. It returns how many it looks after.
func (p *Payments) Watch(ctx context.Context) (watched int, err error) {
	if p.client.finality.Tag != "" {
		return 0, nil // what counts as final there is
	}
	var head uint64
	if err := p.client.do(ctx, "look for forks", func(ctx context.Context, ec *ethclient.Client) error {
		b, err := getBlock(ctx, ec, nil)
		if err == nil {
			head = uint64(b.Number)
		}
		return err
	}); err != nil {
		return 0, err
	}
	done, err := p.journal.Settled(ctx, head-min(head, p.cfg.Watch))
	if err != nil {
		return 0, fmt.Errorf("read payments that are done: %w", err)
	}
	hashes := map[uint64]Hash{}
	for i := range done {
		in := &done[i]
		at := in.Included.Block
		is, ok := hashes[at.Number]
		if !ok {
			is, err = p.client.hashOf(ctx, at.Number)
			if errors.Is(err, errBehind) {
				continue // seen when the chain is that long again
			}
			if err != nil {
				return len(done), err
			}
			hashes[at.Number] = is
		}
		if is == at.Hash {
			continue
		}
		inc, err := p.client.find(ctx, in.Attempts)
		switch {
		case err != nil:
			return len(done), err
		case inc == nil:
			err = p.mark(ctx, in, Sent, Inclusion{})
		default:
			inc.Confirmations = max(head, inc.Block.Number) - inc.Block.Number + 1
			err = p.mark(ctx, in, Mined, *inc)
		}
		if err != nil {
			return len(done), err
		}
	}
	return len(done), nil
}

// hashOf is the hash of a block, as two endpoints say it.
func (c *Client) hashOf(ctx context.Context, number uint64) (Hash, error) {
	return agreed(ctx, c, "look for forks", func(ctx context.Context, ec *ethclient.Client) (Hash, error) {
		b, err := getBlock(ctx, ec, new(big.Int).SetUint64(number))
		if errors.Is(err, ethereum.NotFound) { // the endpoint is not as far, or the chain is shorter than it was
			return Hash{}, fmt.Errorf("%w: %d", errBehind, number)
		}
		if err != nil {
			return Hash{}, err
		}
		return b.Hash, nil
	}, func(a, b Hash) bool { return a == b })
}

// verdict is where an endpoint has a transaction; zero: in no block.
type verdict struct {
	block   Mark
	success bool
}

// confirm has a second endpoint say what one has said of a payment, before it
// counts as done.
func (c *Client) confirm(ctx context.Context, inc Inclusion) error {
	if len(c.ends) < 2 {
		return nil
	}
	got, err := agreed(ctx, c, "confirm payment", func(ctx context.Context, ec *ethclient.Client) (v verdict, err error) {
		r, err := getReceipt(ctx, ec, inc.Tx)
		switch {
		case errors.Is(err, ethereum.NotFound):
			head, err := getBlock(ctx, ec, nil)
			if err == nil && uint64(head.Number) < inc.Block.Number {
				err = fmt.Errorf("%w: %d", errBehind, inc.Block.Number)
			}
			return v, err
		case err != nil:
			return v, err
		case r.Tx != inc.Tx:
			return v, errors.New("answers for another transaction")
		}
		got := r.inclusion()
		return verdict{got.Block, got.Success}, nil
	}, func(a, b verdict) bool { return a == b })
	if err == nil && got != (verdict{inc.Block, inc.Success}) {
		err = fmt.Errorf("confirm payment: %w", ErrDisagree)
	}
	return err
}
