package evm

import (
	"context"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/ethclient"
)

// Held is what a wallet held of the token at a block, in smallest units.
func (c *Client) Held(ctx context.Context, wallet Address, block uint64) (n *big.Int, err error) {
	err = c.do(ctx, "read balance", func(ctx context.Context, ec *ethclient.Client) error {
		out, err := ec.CallContract(ctx, ethereum.CallMsg{To: &c.token, Data: c.abi.PackBalanceOf(wallet)}, new(big.Int).SetUint64(block))
		if err != nil {
			return err
		}
		if len(out) != 32 {
			return fmt.Errorf("%w: %s gives no balance", ErrWrongToken, c.token)
		}
		n = new(big.Int).SetBytes(out)
		return nil
	})
	return n, err
}
