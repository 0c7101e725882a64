package evm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
)

// Finality is how a chain says that a block stays. Depth counts besides: a block
// has to be deep enough in any case.
type Finality struct {
	// Tag is the block tag to believe, "finalized" or "safe"; empty: depth only.
	Tag string
	// Deeper is the depth that counts where an endpoint does not know the tag; 0: the
	// usual depth.
	Deeper uint64
	// MaxHeadAge is how old an endpoint's newest block may be; 0: any age.
	MaxHeadAge time.Duration
}

// Tag is the tag of blocks that the chain itself calls final; empty: depth alone
// counts.
func (c *Client) Tag() string { return c.finality.Tag }

// deep is the newest block that counts as final: confirmations deep, the block
// itself counted, and no newer than the chain's own tag. 0 while there is none.
func (c *Client) deep(ctx context.Context, ec *ethclient.Client, head, confirmations uint64) (uint64, error) {
	depth := func(n uint64) uint64 {
		if head+1 < n {
			return 0
		}
		return head + 1 - n
	}
	deep := depth(max(confirmations, 1))
	if c.finality.Tag == "" {
		return deep, nil
	}
	var b *block
	err := ec.Client().CallContext(ctx, &b, "eth_getBlockByNumber", c.finality.Tag, false)
	switch {
	case err == nil && b != nil:
		return min(deep, uint64(b.Number)), nil
	case err == nil, unknownTag(err):
		return min(deep, depth(c.finality.Deeper)), nil
	}
	return 0, err
}

// unknownTag tells whether an endpoint has answered that it does not know a
// block tag, or has no such block yet.
func unknownTag(err error) bool {
	if errors.Is(err, ethereum.NotFound) || says(err, "finalized block not found", "safe block not found", "unknown block") {
		return true
	}
	var e rpc.Error
	return errors.As(err, &e) && e.ErrorCode() == -32602 // invalid params, JSON-RPC 2.0
}

// ErrStale says that an endpoint has stopped following the chain.
var ErrStale = errors.New("endpoint is behind")

// fresh refuses a head that is too old.
func (c *Client) fresh(b *block) error {
	age := time.Since(time.Unix(int64(b.Time), 0)) //nolint:gosec // a time
	if most := c.finality.MaxHeadAge; most > 0 && age > most {
		return fmt.Errorf("%w: its newest block is %s old", ErrStale, age.Round(time.Second))
	}
	return nil
}
