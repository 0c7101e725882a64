package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
)

// What gives or takes money is not believed on one endpoint's word, where there
// are several: payments received, channels and notices to close them, that a payment
// of ours is final, and that its nonce is somebody else's or nobody's.
// Two have to say the same of the same block. One that is outvoted is set aside,
// and asked nothing for a while; where there is nobody to decide, neither is
// believed. The only one that answers is believed alone: whoever wants more names
// more. What is sent goes to all that are not set aside.

const (
	asideFor     = 10 * time.Minute
	compareEvery = time.Minute // at most, what Compare looks at
)

// Errors of endpoints that are not of one mind.
var (
	// ErrDisagree says that endpoints contradict each other and nobody decides.
	ErrDisagree = errors.New("endpoints contradict each other")
	errBehind   = errors.New("endpoint does not have that block yet")
)

// setAside stops asking the endpoint for a while.
func (e *endpoint) setAside(why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.aside, e.why = time.Now().Add(asideFor), why
}

// Doubts says in words which endpoints are set aside, and why.
func (c *Client) Doubts() (out []string) {
	now := time.Now()
	for _, e := range c.ends {
		e.mu.Lock()
		if now.Before(e.aside) {
			out = append(out, fmt.Sprintf("RPC endpoint %s is set aside: %v: take it out of billing.rpc, or find out what is wrong with it", e.name, e.why))
		}
		e.mu.Unlock()
	}
	return out
}

// none is the error when no endpoint has answered.
func (c *Client) none(what string, failed error) error {
	if failed == nil { // nobody was asked
		for _, e := range c.ends {
			e.mu.Lock()
			failed = errors.Join(failed, fmt.Errorf("%s: %w", e.name, e.why))
			e.mu.Unlock()
		}
	}
	return fmt.Errorf("%s: %w: %w", what, ErrNoEndpoint, failed)
}

// vote is what an endpoint has answered.
type vote[T any] struct {
	e      *endpoint
	answer T
}

// agreed asks one endpoint after the other until two answer the same. ask must
// be about blocks that stay, and give errBehind where the endpoint lacks them.
func agreed[T any](ctx context.Context, c *Client, what string, ask func(context.Context, *ethclient.Client) (T, error), same func(a, b T) bool) (answer T, err error) {
	var votes []vote[T]
	var failed error
	behind := 0
	for _, e := range c.order() {
		var v T
		err := c.ask(ctx, e, func(ctx context.Context, ec *ethclient.Client) (err error) {
			v, err = ask(ctx, ec)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return answer, fmt.Errorf("%s: %w", what, ctx.Err())
		case err != nil:
			if errors.Is(err, errBehind) {
				behind++
			} else {
				e.fail()
			}
			failed = errors.Join(failed, fmt.Errorf("%s: %w", e.name, scrub(err)))
			continue
		}
		e.succeed()
		if slices.ContainsFunc(votes, func(o vote[T]) bool { return same(o.answer, v) }) {
			for _, o := range votes {
				if !same(o.answer, v) {
					o.e.setAside(fmt.Errorf("it contradicts two others (%s)", what))
				}
			}
			return v, nil
		}
		votes = append(votes, vote[T]{e, v})
	}
	switch {
	case len(votes) == 1 && behind == 0:
		return votes[0].answer, nil
	case len(votes) > 1:
		var names []string
		for _, o := range votes {
			names = append(names, o.e.name)
		}
		return answer, fmt.Errorf("%s: %w: %s: neither is believed; take the wrong one out of billing.rpc, or add another", what, ErrDisagree, strings.Join(names, ", "))
	}
	return answer, c.none(what, failed)
}

// reach is the newest block that counts as final at two endpoints, or at the only
// one that answers; 0: none yet. So one that invents a head moves nothing.
func (c *Client) reach(ctx context.Context, confirmations uint64) (uint64, error) {
	var deep []uint64
	var failed error
	for _, e := range c.order() {
		var d uint64
		err := c.ask(ctx, e, func(ctx context.Context, ec *ethclient.Client) error {
			head, err := getBlock(ctx, ec, nil)
			if err != nil {
				return err
			}
			if err := c.fresh(head); err != nil {
				return err
			}
			d, err = c.deep(ctx, ec, uint64(head.Number), confirmations)
			return err
		})
		switch {
		case ctx.Err() != nil:
			return 0, fmt.Errorf("look at the chain: %w", ctx.Err())
		case err != nil:
			e.fail()
			failed = errors.Join(failed, fmt.Errorf("%s: %w", e.name, scrub(err)))
			continue
		}
		e.succeed()
		deep = append(deep, d)
	}
	switch len(deep) {
	case 0:
		return 0, c.none("look at the chain", failed)
	case 1:
		return deep[0], nil
	}
	slices.Sort(deep)
	return deep[len(deep)-2], nil
}

// sighting is what honest endpoints say of one block alike.
type sighting struct {
	block      Mark
	code       Hash // of the token's contract
	token, gas Hash // of a wallet, as 256 bits
}

// Compare returns ErrDisagree if endpoints that are not set aside contradict each
// other; that one does not answer is no news here. It has them say the hash of the newest block that counts as final,
// the token's code and what a wallet holds there. With one endpoint, or within a
// minute of the last time, it asks nothing.
func (c *Client) Compare(ctx context.Context, confirmations uint64, wallet Address) error {
	if len(c.ends) < 2 || time.Since(time.Unix(0, c.compared.Load())) < compareEvery {
		return nil
	}
	at, err := c.reach(ctx, confirmations)
	if err != nil || at == 0 {
		return nil //nolint:nilerr // whoever needs an answer hears of it
	}
	_, err = agreed(ctx, c, "compare endpoints", func(ctx context.Context, ec *ethclient.Client) (sighting, error) {
		return c.sight(ctx, ec, at, wallet)
	}, func(a, b sighting) bool { return a == b })
	if errors.Is(err, ErrDisagree) {
		return err
	}
	c.compared.Store(time.Now().UnixNano())
	return nil
}

func (c *Client) sight(ctx context.Context, ec *ethclient.Client, at uint64, wallet Address) (s sighting, err error) {
	number := new(big.Int).SetUint64(at)
	b, err := getBlock(ctx, ec, number)
	if errors.Is(err, ethereum.NotFound) {
		return s, fmt.Errorf("%w: %d", errBehind, at)
	}
	if err != nil {
		return s, err
	}
	s.block = Mark{at, b.Hash}
	code, err := ec.CodeAt(ctx, c.token, nil)
	if err != nil {
		return s, err
	}
	s.code = crypto.Keccak256Hash(code)
	out, err := ec.CallContract(ctx, ethereum.CallMsg{To: &c.token, Data: c.abi.PackBalanceOf(wallet)}, number)
	if err != nil {
		return s, err
	}
	if len(out) > len(s.token) {
		return s, fmt.Errorf("%w: %s gives no balance", ErrWrongToken, c.token)
	}
	gas, err := ec.BalanceAt(ctx, wallet, number)
	if err != nil {
		return s, err
	}
	if gas.BitLen() > 256 {
		return s, errors.New("endpoint gives a balance that is none")
	}
	copy(s.token[:], out)
	gas.FillBytes(s.gas[:])
	return s, nil
}
