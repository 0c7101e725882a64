package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
)

// fundsBatch is how many wallets are asked for in one request.
const fundsBatch = 25

// Funds is what wallets hold: the most of the block at (if it is not 0, and the
// endpoint still has it) and the head. fee is the least that the head asks for a
// unit of gas, in wei. Of two endpoints the one counts that says more of a wallet,
// and less of the fee, so that none alone can call everybody poor; the only one that
// answers is believed.
func (c *Client) Funds(ctx context.Context, wallets []Address, at uint64) (held []Balances, fee *big.Int, err error) {
	var failed error
	answers := 0
	for _, e := range c.order() {
		if answers == 2 {
			break
		}
		var has []Balances
		var asks *big.Int
		err := c.ask(ctx, e, func(ctx context.Context, ec *ethclient.Client) (err error) {
			has, asks, err = c.fundsAt(ctx, ec, wallets, at)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return nil, nil, fmt.Errorf("look at neighbors' funds: %w", ctx.Err())
		case err != nil:
			e.fail()
			failed = errors.Join(failed, fmt.Errorf("%s: %w", e.name, scrub(err)))
			continue
		}
		e.succeed()
		if answers++; answers == 1 {
			held, fee = has, asks
			continue
		}
		fee = smaller(fee, asks)
		for i, b := range has {
			held[i] = Balances{larger(held[i].Token, b.Token), larger(held[i].Gas, b.Gas)}
		}
	}
	if answers == 0 {
		return nil, nil, c.none("look at neighbors' funds", failed)
	}
	return held, fee, nil
}

// fundsAt is what one endpoint says.
func (c *Client) fundsAt(ctx context.Context, ec *ethclient.Client, wallets []Address, at uint64) (held []Balances, fee *big.Int, err error) {
	head, err := getBlock(ctx, ec, nil)
	if err != nil {
		return nil, nil, err
	}
	if err := c.fresh(head); err != nil {
		return nil, nil, err
	}
	fee, held = new(big.Int), make([]Balances, len(wallets))
	if base := head.BaseFee.ToInt(); base != nil {
		fee.Set(base)
	}
	blocks := []string{hexutil.EncodeUint64(uint64(head.Number))}
	if at > 0 && at < uint64(head.Number) {
		blocks = append(blocks, hexutil.EncodeUint64(at))
	}
	for from := 0; from < len(wallets); from += fundsBatch {
		to := min(from+fundsBatch, len(wallets))
		if err := c.readFunds(ctx, ec, wallets[from:to], blocks, held[from:to]); err != nil {
			return nil, nil, err
		}
	}
	return held, fee, nil
}

// readFunds asks for wallets at each block; only the first has to be there.
func (c *Client) readFunds(ctx context.Context, ec *ethclient.Client, wallets []Address, blocks []string, out []Balances) error {
	tokens, coins := make([]hexutil.Bytes, len(wallets)*len(blocks)), make([]hexutil.Big, len(wallets)*len(blocks))
	batch := make([]rpc.BatchElem, 0, 2*len(tokens))
	for i, w := range wallets {
		call := map[string]any{"to": c.token, "data": hexutil.Bytes(c.abi.PackBalanceOf(w))}
		for j, block := range blocks {
			at := i*len(blocks) + j
			batch = append(batch, rpc.BatchElem{Method: "eth_call", Args: []any{call, block}, Result: &tokens[at]},
				rpc.BatchElem{Method: "eth_getBalance", Args: []any{w, block}, Result: &coins[at]})
		}
	}
	if err := ec.Client().BatchCallContext(ctx, batch); err != nil {
		return err
	}
	for i := range wallets {
		out[i] = Balances{new(big.Int), new(big.Int)}
		for j := range blocks {
			at := i*len(blocks) + j
			if err := errors.Join(batch[2*at].Error, batch[2*at+1].Error); err != nil {
				if j > 0 {
					continue // too long ago for this endpoint
				}
				return err
			}
			if len(tokens[at]) != 32 {
				return errors.New("endpoint gives no balance")
			}
			out[i].Token = larger(out[i].Token, new(big.Int).SetBytes(tokens[at]))
			out[i].Gas = larger(out[i].Gas, coins[at].ToInt())
		}
	}
	return nil
}
