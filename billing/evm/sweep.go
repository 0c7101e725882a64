package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
)

// ErrWaiting says that transactions of the wallet are on their way.
var ErrWaiting = errors.New("transactions of this wallet are not in a block yet")

// Sweep is what emptying a wallet would do now. Amounts of the token are
// smallest units, the others wei of the chain's own coin.
type Sweep struct {
	From, To Address
	Contract bool     // To is a contract's address
	Token    *big.Int // all of it; may be zero
	TokenFee *big.Int // at most, for sending the token; nil without any
	Coin     *big.Int // about what is left to send; zero if it does not pay its own fee
	CoinFee  *big.Int

	wallet   Address
	nonce    uint64
	tokenGas uint64
}

// PlanSweep asks what it takes to send all of a wallet's token, and then the
// rest of the chain's coin, to another address. It refuses while transactions of
// the wallet wait (ErrWaiting): whose nonces are open cannot be emptied without
// a collision. cfg gives the limits of fees.
func (c *Client) PlanSweep(ctx context.Context, from, to Address, cfg PaymentConfig) (*Sweep, error) {
	if to == (Address{}) || to == from || to == c.token {
		return nil, errors.New("sweep: the target is zero, the wallet itself or the token's contract: what is sent there is lost or stays")
	}
	if _, err := c.Check(ctx); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	v, err := c.look(ctx, from, cfg)
	if err != nil {
		return nil, err
	}
	if v.feeProblem != "" {
		return nil, errors.New(v.feeProblem)
	}
	s := &Sweep{From: from, To: to, wallet: from, nonce: v.pendingNonce, Token: v.balances.Token, Coin: new(big.Int)}
	if err := c.sweepable(ctx, s); err != nil {
		return nil, err
	}
	rest := new(big.Int).Set(v.balances.Gas)
	if s.Token.Sign() > 0 {
		data := c.abi.PackTransfer(to, s.Token)
		if s.tokenGas, err = c.estimate(ctx, from, c.Token(), data); err != nil {
			if isNoFunds(err) {
				return nil, c.noGasToSweep(from, rest)
			}
			return nil, err
		}
		l1, err := c.dataFee(ctx, len(data))
		if err != nil {
			return nil, err
		}
		s.TokenFee = new(big.Int).Add(cost(s.tokenGas, v.feeCap), l1)
		if rest.Sub(rest, s.TokenFee).Sign() < 0 {
			return nil, c.noGasToSweep(from, v.balances.Gas)
		}
	}
	s.CoinFee, err = c.coinFee(ctx, s, rest, v.feeCap)
	if err != nil {
		return nil, err
	}
	if rest.Cmp(s.CoinFee) > 0 {
		s.Coin.Sub(rest, s.CoinFee)
	}
	return s, nil
}

func (c *Client) noGasToSweep(from Address, have *big.Int) error {
	return fmt.Errorf("sweep: not enough gas: wallet %s on chain %s has %s of the chain's coin, which does not pay for sending its token: send some more to it",
		from, c.chainID, FormatCoin(have))
}

// sweepable asks whether the wallet's nonces are at rest, and what the target is.
func (c *Client) sweepable(ctx context.Context, s *Sweep) error {
	return c.do(ctx, "look at the wallet", func(ctx context.Context, ec *ethclient.Client) error {
		mined, err := ec.NonceAt(ctx, s.wallet, nil)
		if err != nil {
			return err
		}
		if mined != s.nonce {
			return fmt.Errorf("%w: the chain has %d of %d: try again when they are", ErrWaiting, mined, s.nonce)
		}
		code, err := ec.CodeAt(ctx, s.To, nil)
		s.Contract = len(code) > 0
		return err
	})
}

// coinFee is what sending the coin costs, for which feeCap is paid in full so
// that nothing is left.
func (c *Client) coinFee(ctx context.Context, s *Sweep, have, feeCap *big.Int) (*big.Int, error) {
	gas, err := c.coinGas(ctx, s, have)
	if err != nil {
		return nil, err
	}
	l1, err := c.dataFee(ctx, 0)
	return l1.Add(l1, cost(gas, feeCap)), err
}

// coinGas is 21,000 exactly for a plain address (what is not used would be
// left); a contract may ask for more.
func (c *Client) coinGas(ctx context.Context, s *Sweep, have *big.Int) (gas uint64, err error) {
	if !s.Contract || have.Sign() <= 0 {
		return transferGas, nil
	}
	err = c.do(ctx, "estimate gas", func(ctx context.Context, ec *ethclient.Client) (err error) {
		gas, err = ec.EstimateGas(ctx, ethereum.CallMsg{From: s.wallet, To: &s.To, Value: big.NewInt(1)})
		return err
	})
	return gas + gas/3, err
}

// transferGas is the gas of a transfer of the chain's coin (Yellow Paper, appendix G).
const transferGas = 21_000

// gasOracle is where OP-stack chains say what publishing a transaction on the
// chain beneath costs (GasPriceOracle, a predeploy).
var gasOracle = Address{0x42, 19: 0x0f}

// dataFee is that fee for a transaction with so many bytes of data, twice so
// that it may rise; zero on chains that have none.
func (c *Client) dataFee(ctx context.Context, size int) (*big.Int, error) {
	fee := new(big.Int)
	if !opStack[c.chainID.Uint64()] {
		return fee, nil
	}
	// getL1Fee(bytes), with as many bytes as the signed transaction has; none of
	// them zero, which would be cheaper.
	data := crypto.Keccak256([]byte("getL1Fee(bytes)"))[:4]
	word := func(n int) []byte { return new(big.Int).SetInt64(int64(n)).FillBytes(make([]byte, 32)) }
	n := signedSize + size
	data = append(append(data, word(32)...), word(n)...)
	filler := make([]byte, (n+31)/32*32)
	for i := range n {
		filler[i] = byte(i*7 | 1)
	}
	data = append(data, filler...)
	err := c.do(ctx, "ask for the data fee", func(ctx context.Context, ec *ethclient.Client) error {
		out, err := ec.CallContract(ctx, ethereum.CallMsg{To: &gasOracle, Data: data}, nil)
		if err != nil {
			return err
		}
		if len(out) != 32 {
			return errors.New("the gas oracle gives no fee")
		}
		fee.SetBytes(out).Lsh(fee, 1)
		return nil
	})
	return fee, err
}

// opStack names the chains whose transactions pay for data on another chain.
var opStack = map[uint64]bool{10: true, 8453: true, 84532: true}

const signedSize = 180 // of an EIP-1559 transaction without data, at most

// Sweep sends what a plan says: the token, and when that is in a block, all of
// the coin that is left then. step is told the hash of each transaction before
// it is sent, and again when it is in a block. If the program ends in between, a
// new plan goes on from there. ctx bounds the wait for blocks.
func (c *Client) Sweep(ctx context.Context, signer Signer, s *Sweep, cfg PaymentConfig, step func(what string, tx Hash)) error {
	cfg.setDefaults()
	if signer.Address() != s.wallet {
		return errors.New("sweep: the plan is another wallet's")
	}
	nonce := s.nonce
	if s.Token.Sign() > 0 {
		v, err := c.look(ctx, s.wallet, cfg)
		if err != nil {
			return err
		}
		if v.pendingNonce != nonce {
			return fmt.Errorf("sweep: %w: somebody else uses it: nothing was sent", ErrWaiting)
		}
		tx := &types.DynamicFeeTx{ChainID: c.chainID, Nonce: nonce, GasTipCap: smaller(v.tip, v.feeCap), GasFeeCap: v.feeCap, Gas: s.tokenGas, To: &c.token, Data: c.abi.PackTransfer(s.To, s.Token)}
		if err := c.sendAndWait(ctx, signer, tx, "token", step); err != nil {
			return err
		}
		nonce++
	}
	v, err := c.look(ctx, s.wallet, cfg)
	if err != nil {
		return err
	}
	if v.pendingNonce != nonce {
		return fmt.Errorf("sweep: %w: somebody else uses it: the coin stays", ErrWaiting)
	}
	gas, err := c.coinGas(ctx, s, v.balances.Gas)
	if err != nil {
		return err
	}
	l1, err := c.dataFee(ctx, 0)
	if err != nil {
		return err
	}
	value := new(big.Int).Sub(v.balances.Gas, l1)
	if value.Sub(value, cost(gas, v.feeCap)).Sign() <= 0 {
		return nil // what is left does not pay its own fee
	}
	// The tip is the cap, so that the whole fee is spent and nothing is left over.
	return c.sendAndWait(ctx, signer, &types.DynamicFeeTx{ChainID: c.chainID, Nonce: nonce, GasTipCap: v.feeCap, GasFeeCap: v.feeCap, Gas: gas, To: &s.To, Value: value}, "coin", step)
}

const sweepPoll = time.Second

// sendAndWait sends a transaction until it is in a block: the same bytes again
// each time, which no chain takes twice.
func (c *Client) sendAndWait(ctx context.Context, signer Signer, data *types.DynamicFeeTx, what string, step func(string, Hash)) error {
	tx, err := signer.SignTx(types.NewTx(data), c.chainID)
	if err != nil {
		return err
	}
	raw, err := tx.MarshalBinary()
	if err != nil {
		return fmt.Errorf("encode transaction: %w", err)
	}
	hash := tx.Hash()
	step("sending "+what, hash)
	tick := time.NewTicker(sweepPoll)
	defer tick.Stop()
	for {
		refused := c.send(ctx, raw)
		inc, err := c.find(ctx, []Attempt{{Hash: hash}})
		switch {
		case inc != nil && !inc.Success:
			return fmt.Errorf("sweep: the chain took transaction %s and it failed: its fee is spent, the rest is where it was", hash)
		case inc != nil:
			step(what+" sent", hash)
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("sweep: transaction %s is not in a block yet: look for it before you try again: %w", hash, errors.Join(ctx.Err(), refused, err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func smaller(a, b *big.Int) *big.Int {
	if a.Cmp(b) <= 0 {
		return a
	}
	return b
}
