package evm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/ethclient"
)

// view is the chain as one endpoint shows it at one time.
type view struct {
	head         Mark
	headTime     time.Time
	balances     Balances
	deep         uint64   // the newest block that counts as final; 0: none yet
	pendingNonce uint64   // pool included
	deepNonce    uint64   // nonces that are used up at the depth of a final payment
	tip, feeCap  *big.Int // wei per gas for a transaction signed now
	feeProblem   string   // set if the market is over the user's limit
	// For calls that cannot wait: up to four times the limit.
	urgentCap, mostUrgent *big.Int
	urgent                bool // an open call is urgent, and those before it by nonce hold it up
	urgentProblem         bool
}

func (c *Client) look(ctx context.Context, wallet Address, cfg PaymentConfig) (*view, error) {
	var v view
	err := c.do(ctx, "look at the chain", func(ctx context.Context, ec *ethclient.Client) error {
		b, err := getBlock(ctx, ec, nil)
		if err != nil {
			return err
		}
		if err := c.fresh(b); err != nil {
			return err
		}
		v = view{head: Mark{uint64(b.Number), b.Hash}, headTime: time.Unix(int64(b.Time), 0)} //nolint:gosec // a time
		if v.pendingNonce, err = ec.PendingNonceAt(ctx, wallet); err != nil {
			return err
		}
		if v.deep, err = c.deep(ctx, ec, v.head.Number, cfg.Confirmations); err != nil {
			return err
		}
		if v.deep > 0 {
			if v.deepNonce, err = ec.NonceAt(ctx, wallet, new(big.Int).SetUint64(v.deep)); err != nil {
				return err
			}
		}
		suggested, err := ec.SuggestGasTipCap(ctx)
		if err != nil {
			return err
		}
		v.setFees(b.BaseFee.ToInt(), suggested, cfg)
		return nil
	})
	if err != nil {
		return nil, err
	}
	v.balances, err = c.Balances(ctx, wallet)
	return &v, err
}

// urgency is how many times the user's highest fee a call pays whose delay would
// lose money.
const urgency = 4

// setFees follows EIP-1559: tip is what the miner is offered, feeCap leaves room
// for the base fee to double; both stay under the user's limit.
func (v *view) setFees(base, suggested *big.Int, cfg PaymentConfig) {
	if base == nil {
		base = new(big.Int)
	}
	v.tip = new(big.Int).Set(larger(suggested, cfg.MinTip))
	now := new(big.Int).Add(base, v.tip)
	v.feeCap = new(big.Int).Add(now, base)
	if now.Cmp(cfg.MaxFee) > 0 {
		v.feeProblem = fmt.Sprintf("payments wait: the chain asks %s wei per gas, the limit set is %s", now, cfg.MaxFee)
	}
	v.mostUrgent = new(big.Int).Mul(cfg.MaxFee, big.NewInt(urgency))
	v.urgentProblem = now.Cmp(v.mostUrgent) > 0
	v.urgentCap = new(big.Int).Set(v.feeCap)
	if v.urgentCap.Cmp(v.mostUrgent) > 0 {
		v.urgentCap.Set(v.mostUrgent)
	}
	if v.feeCap.Cmp(cfg.MaxFee) > 0 {
		v.feeCap.Set(cfg.MaxFee)
	}
}

// find looks for a receipt of one of the attempts at every endpoint: absence at
// one of them says nothing. Nil without error means that none has any.
func (c *Client) find(ctx context.Context, attempts []Attempt) (*Inclusion, error) {
	var unknown error
	for i := len(attempts) - 1; i >= 0; i-- {
		for _, e := range c.order() {
			var r *receipt
			err := c.ask(ctx, e, func(ctx context.Context, ec *ethclient.Client) (err error) {
				r, err = getReceipt(ctx, ec, attempts[i].Hash)
				return err
			})
			switch {
			case errors.Is(err, ethereum.NotFound):
			case ctx.Err() != nil:
				return nil, fmt.Errorf("look for payment: %w", ctx.Err())
			case err != nil:
				e.fail()
				unknown = fmt.Errorf("look for payment: %s: %w", e.name, scrub(err))
			case r.Tx != attempts[i].Hash:
				unknown = fmt.Errorf("look for payment: %s answers for another transaction", e.name)
			default:
				return r.inclusion().within(attempts[i]), nil
			}
		}
	}
	return nil, unknown
}

// knows asks whether any endpoint has the transaction, in its pool or a block.
func (c *Client) knows(ctx context.Context, tx Hash) (bool, error) {
	err := c.do(ctx, "look for payment", func(ctx context.Context, ec *ethclient.Client) error {
		_, _, err := ec.TransactionByHash(ctx, tx)
		return err
	})
	if errors.Is(err, ethereum.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// estimate asks for the gas of a call and adds a third: forks
// change prices, so no constant is right for ever.
func (c *Client) estimate(ctx context.Context, from, to Address, data []byte) (gas uint64, err error) {
	err = c.do(ctx, "estimate gas", func(ctx context.Context, ec *ethclient.Client) (err error) {
		gas, err = ec.EstimateGas(ctx, ethereum.CallMsg{From: from, To: &to, Data: data})
		return err
	})
	return gas + gas/3, err
}

// send gives raw to every endpoint; one that takes it, or has it already, is
// enough.
func (c *Client) send(ctx context.Context, raw []byte) error {
	tx := new(types.Transaction)
	if err := tx.UnmarshalBinary(raw); err != nil {
		return fmt.Errorf("stored transaction: %w", err)
	}
	took := false
	var failed error
	for _, e := range c.order() {
		err := c.ask(ctx, e, func(ctx context.Context, ec *ethclient.Client) error { return ec.SendTransaction(ctx, tx) })
		switch {
		case err == nil || isKnown(err):
			took = true
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			failed = errors.Join(failed, fmt.Errorf("%s: %w", e.name, scrub(err)))
		}
	}
	if took {
		return nil
	}
	return failed
}

// saturated is n as 64 bits; nil, which an endpoint may leave out, is zero.
func saturated(n *big.Int) uint64 {
	switch {
	case n == nil || n.Sign() <= 0:
		return 0
	case !n.IsUint64():
		return math.MaxUint64
	}
	return n.Uint64()
}
