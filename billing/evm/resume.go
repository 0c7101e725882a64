package evm

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/ethclient"
)

// ErrNotAtRest says that the chain does not show yet, or not any more, that whoever
// used a wallet beside us has done with it.
var ErrNotAtRest = errors.New("the wallet is not at rest")

// Resumable asks whether a wallet may send again after others have used its nonces:
// two endpoints say of each of these payments that its nonce is used up, at a depth
// that stays, by another transaction than ours, and nothing waits for a block that
// is not ours. open are the payments of ours that may.
func (c *Client) Resumable(ctx context.Context, wallet Address, confirmations uint64, taken, open []Intent) error {
	at, err := c.reach(ctx, confirmations)
	if err != nil {
		return err
	}
	if at == 0 {
		return fmt.Errorf("%w: chain %s has no block yet that stays", ErrNotAtRest, c.chainID)
	}
	for i := range taken {
		ok, err := c.taken(ctx, wallet, &taken[i], at)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: chain %s does not show that nonce %d of wallet %s went to a transaction of somebody else", ErrNotAtRest, c.chainID, taken[i].Nonce, wallet)
		}
	}
	var mined, pending uint64
	if err := c.do(ctx, "look at the wallet", func(ctx context.Context, ec *ethclient.Client) (err error) {
		if mined, err = ec.NonceAt(ctx, wallet, nil); err != nil {
			return err
		}
		pending, err = ec.PendingNonceAt(ctx, wallet)
		return err
	}); err != nil {
		return err
	}
	for _, in := range open {
		if in.State != Planned && in.Nonce >= mined && in.Nonce < pending {
			mined++
		}
	}
	if mined < pending {
		return fmt.Errorf("%w: on chain %s transactions of wallet %s wait that are not ours", ErrNotAtRest, c.chainID, wallet)
	}
	return nil
}
