package evm

import (
	"context"
	"errors"
	"math/big"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/ethclient"
)

// receipt is the part of a transaction's receipt that is needed, with what OP-stack
// chains add (specs.optimism.io, "L1 fees in receipts"): logs and bloom stay
// unread, and types of transactions that others have do not matter.
type receipt struct {
	Tx        Hash            `json:"transactionHash"`
	Number    *hexutil.Uint64 `json:"blockNumber"`
	BlockHash *Hash           `json:"blockHash"`
	Status    *hexutil.Uint64 `json:"status"`
	GasUsed   *hexutil.Uint64 `json:"gasUsed"`
	GasPrice  *hexutil.Big    `json:"effectiveGasPrice"`
	L1Fee     *hexutil.Big    `json:"l1Fee"`
}

// getReceipt asks for a receipt; ethereum.NotFound if there is none.
func getReceipt(ctx context.Context, ec *ethclient.Client, tx Hash) (*receipt, error) {
	var r *receipt
	switch err := ec.Client().CallContext(ctx, &r, "eth_getTransactionReceipt", tx); {
	case err != nil:
		return nil, err
	case r == nil, r.Number == nil:
		return nil, ethereum.NotFound
	case r.BlockHash == nil || r.Status == nil || r.GasUsed == nil:
		return nil, errors.New("a receipt lacks its block, its status or its gas")
	}
	return r, nil
}

// arrived is what a transaction has brought to an address, by the logs of its
// receipt; two endpoints agree where there are two.
func (c *Client) arrived(ctx context.Context, tx Hash, to Address) (*big.Int, error) {
	return agreed(ctx, c, "look at what has arrived", func(ctx context.Context, ec *ethclient.Client) (*big.Int, error) {
		var r *struct {
			Tx   Hash        `json:"transactionHash"`
			Logs []types.Log `json:"logs"`
		}
		if err := ec.Client().CallContext(ctx, &r, "eth_getTransactionReceipt", tx); err != nil {
			return nil, err
		}
		if r == nil || r.Tx != tx || r.Logs == nil {
			return nil, errors.New("no logs of that transaction")
		}
		sum := new(big.Int)
		for _, l := range r.Logs {
			if l.Address == c.token && len(l.Topics) == 3 && l.Topics[0] == transferTopic && l.Topics[2] == leftPad(to) && len(l.Data) == 32 {
				sum.Add(sum, new(big.Int).SetBytes(l.Data))
			}
		}
		return sum, nil
	}, func(a, b *big.Int) bool { return a.Cmp(b) == 0 })
}

// mostDataFee is more than any chain asks for a transaction's data: one coin, in wei.
const mostDataFee = 1e18

// within holds a receipt to what the transaction was signed for, since an endpoint
// alone says what it has cost.
func (inc *Inclusion) within(a Attempt) *Inclusion {
	if a.Gas > 0 {
		inc.GasUsed = min(inc.GasUsed, a.Gas)
	}
	if a.FeeCap != nil {
		inc.GasPrice = min(inc.GasPrice, saturated(a.FeeCap))
	}
	inc.DataFee = min(inc.DataFee, mostDataFee)
	return inc
}

func (r *receipt) inclusion() *Inclusion {
	return &Inclusion{
		Tx: r.Tx, Block: Mark{uint64(*r.Number), *r.BlockHash}, Success: uint64(*r.Status) == types.ReceiptStatusSuccessful,
		GasUsed: uint64(*r.GasUsed), GasPrice: saturated(r.GasPrice.ToInt()), DataFee: saturated(r.L1Fee.ToInt()),
	}
}
