package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"

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
		if err := p.undone(ctx, in, head); err != nil {
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

// taken tells whether another transaction has used the nonce of an intent: at a
// block that counts as final it is used up, and none of the intent's attempts is in
// a block, as two endpoints say. What each says is of one branch: the block's hash
// is the same before and after.
func (c *Client) taken(ctx context.Context, wallet Address, in *Intent, at uint64) (bool, error) {
	type sight struct {
		block Hash
		taken bool
	}
	got, err := agreed(ctx, c, "look who has used a nonce", func(ctx context.Context, ec *ethclient.Client) (s sight, err error) {
		var nonce uint64
		if s.block, nonce, err = nonceAt(ctx, ec, wallet, at); err != nil || nonce <= in.Nonce {
			return s, err
		}
		for _, a := range in.Attempts {
			r, err := getReceipt(ctx, ec, a.Hash)
			switch {
			case errors.Is(err, ethereum.NotFound):
				continue
			case err != nil:
				return s, err
			case r.Tx != a.Hash:
				return s, errors.New("answers for another transaction")
			}
			return s, nil
		}
		s.taken = true
		return s, still(ctx, ec, Mark{at, s.block})
	}, func(a, b sight) bool { return a == b })
	return got.taken, err
}

// nonceAt is how many nonces of a wallet are used up at a block, and its hash.
func nonceAt(ctx context.Context, ec *ethclient.Client, wallet Address, at uint64) (block Hash, nonce uint64, err error) {
	number := new(big.Int).SetUint64(at)
	b, err := getBlock(ctx, ec, number)
	if errors.Is(err, ethereum.NotFound) {
		err = fmt.Errorf("%w: %d", errBehind, at)
	}
	if err != nil {
		return block, 0, err
	}
	if nonce, err = ec.NonceAt(ctx, wallet, number); err != nil {
		return block, 0, err
	}
	return b.Hash, nonce, still(ctx, ec, Mark{at, b.Hash})
}

// still is an error if a block is not on the endpoint's chain any more.
func still(ctx context.Context, ec *ethclient.Client, m Mark) error {
	b, err := getBlock(ctx, ec, new(big.Int).SetUint64(m.Number))
	if errors.Is(err, ethereum.NotFound) || err == nil && b.Hash != m.Hash {
		return fmt.Errorf("%w: %d has left the chain", errBehind, m.Number)
	}
	return err
}

// recall has payments that count as done sent again if the chain has not used their
// nonces: their block has left it in a fork that was deeper than Watch looks, or that
// the chain's tag had ruled out. Otherwise all later ones would wait for ever. Two
// endpoints have to say so, and say it again at a later block.
func (p *Payments) recall(ctx context.Context, v *view) error {
	done, err := p.journal.Unused(ctx, v.deepNonce, v.deep)
	if err != nil {
		return fmt.Errorf("read payments that are done: %w", err)
	}
	if len(done) == 0 {
		p.unused = 0
		return nil
	}
	type sight struct {
		block Hash
		nonce uint64
	}
	got, err := agreed(ctx, p.client, "look for unused nonces", func(ctx context.Context, ec *ethclient.Client) (s sight, err error) {
		s.block, s.nonce, err = nonceAt(ctx, ec, p.signer.Address(), v.deep)
		return s, err
	}, func(a, b sight) bool { return a == b })
	if err != nil {
		return err
	}
	done = slices.DeleteFunc(done, func(in Intent) bool { return in.Nonce < got.nonce })
	switch {
	case len(done) == 0:
		p.unused = 0
		return nil
	case p.unused == 0:
		p.unused = v.deep
	}
	if v.deep <= p.unused {
		return nil
	}
	for i := range done {
		if err := p.undone(ctx, &done[i], v.head.Number); err != nil {
			return err
		}
	}
	return nil
}

// undone looks where a payment is whose block has left the chain.
func (p *Payments) undone(ctx context.Context, in *Intent, head uint64) error {
	inc, err := p.client.find(ctx, in.Attempts)
	switch {
	case err != nil:
		return err
	case inc == nil:
		return p.mark(ctx, in, Sent, Inclusion{})
	}
	inc.Confirmations = max(head, inc.Block.Number) - inc.Block.Number + 1
	return p.mark(ctx, in, Mined, *inc)
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
