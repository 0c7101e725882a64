package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
)

// transferTopic is the first topic of EIP-20's Transfer(address,address,uint256).
var transferTopic = crypto.Keccak256Hash([]byte("Transfer(address,address,uint256)"))

// Bounds of one scan.
const (
	startRange   = 500 // blocks asked for at first
	minRange     = 10
	maxRange     = 5000  // blocks asked for at most
	maxTransfers = 10000 // logs accepted in one answer
)

// Transfer is one arrival of tokens at the earning address, deep enough to be
// believed. (Tx, LogIndex) names it.
type Transfer struct {
	Tx       Hash
	LogIndex uint32
	Block    Mark
	From     Address
	Amount   *big.Int // smallest units of the token, not zero
}

// Inbox keeps what was received and how far the chain was read.
type Inbox interface {
	// Marks returns the blocks that scans ended at, newest first (at most the
	// last 512); none before the first scan.
	Marks(ctx context.Context) ([]Mark, error)
	// Credit books the transfers, each once, and moves to the mark, in one
	// durable step.
	Credit(ctx context.Context, upTo Mark, transfers []Transfer) error
	// Rewind takes back what was booked from blocks after the mark, which left
	// the chain, and moves there. A zero Mark means everything.
	Rewind(ctx context.Context, to Mark) error
}

// Receipts watches for transfers to one address.
type Receipts struct {
	client        *Client
	earning       Address
	inbox         Inbox
	confirmations uint64
	from          uint64 // first block of interest
	span          uint64 // blocks of the next query
	reached       uint64 // the newest block that counted as final at the last scan
}

// NewReceipts makes a watcher that believes a transfer when its block has that
// many confirmations (itself counted, at least 1) and reads from block from on.
func NewReceipts(c *Client, earning Address, inbox Inbox, confirmations, from uint64) *Receipts {
	return &Receipts{client: c, earning: earning, inbox: inbox, confirmations: max(confirmations, 1), from: from, span: startRange}
}

// Scan books everything up to the believed depth, in bounded steps; it returns
// the number of transfers that it booked. After an error it may be called
// again; nothing is booked twice.
func (r *Receipts) Scan(ctx context.Context) (booked int, err error) {
	for {
		n, done, err := r.step(ctx)
		booked += n
		if err != nil || done {
			return booked, err
		}
	}
}

// Reached is the newest block that counted as final at the last scan.
func (r *Receipts) Reached() uint64 { return r.reached }

// scanned is what an endpoint says of a range of blocks.
type scanned struct {
	fork      *Mark // the newest mark that is still on the chain, if not the newest of all
	upTo      Mark  // zero: nothing new
	done      bool
	transfers []Transfer
}

func (a scanned) same(b scanned) bool {
	if (a.fork == nil) != (b.fork == nil) || a.fork != nil && *a.fork != *b.fork || a.upTo != b.upTo || a.done != b.done {
		return false
	}
	return slices.EqualFunc(a.transfers, b.transfers, func(x, y Transfer) bool {
		return x.Tx == y.Tx && x.LogIndex == y.LogIndex && x.Block == y.Block && x.From == y.From && x.Amount.Cmp(y.Amount) == 0
	})
}

// step reads one range of blocks.
func (r *Receipts) step(ctx context.Context) (booked int, done bool, err error) {
	marks, err := r.inbox.Marks(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("read scan position: %w", err)
	}
	deep, err := r.client.reach(ctx, r.confirmations)
	if err != nil {
		return 0, false, err
	}
	r.reached = deep
	got, err := agreed(ctx, r.client, "scan for payments", func(ctx context.Context, ec *ethclient.Client) (scanned, error) {
		return r.scan(ctx, ec, marks, deep)
	}, scanned.same)
	if err != nil {
		r.span = max(r.span/2, minRange) // an endpoint's limits show as errors of all kinds
		return 0, false, err
	}
	r.span = min(2*r.span, maxRange)
	switch {
	case got.fork != nil:
		if err := r.inbox.Rewind(ctx, *got.fork); err != nil {
			return 0, false, fmt.Errorf("take back payments of a fork: %w", err)
		}
		return 0, false, nil
	case got.upTo == Mark{}:
		return 0, true, nil
	}
	if err := r.inbox.Credit(ctx, got.upTo, got.transfers); err != nil {
		return 0, false, fmt.Errorf("book payments received: %w", err)
	}
	return len(got.transfers), got.done, nil
}

// scan reads the next range from one endpoint.
func (r *Receipts) scan(ctx context.Context, ec *ethclient.Client, marks []Mark, deep uint64) (s scanned, err error) {
	head, err := getBlock(ctx, ec, nil)
	if err != nil {
		return s, err
	}
	if err := r.client.fresh(head); err != nil {
		return s, err
	}
	if deep > uint64(head.Number) {
		return s, fmt.Errorf("%w: %d", errBehind, deep)
	}
	if s.fork, err = forked(ctx, ec, uint64(head.Number), marks); err != nil || s.fork != nil {
		return s, err
	}
	first := r.from
	if len(marks) > 0 {
		first = marks[0].Number + 1
	}
	if deep < first {
		s.done = true
		return s, nil
	}
	last := min(deep, first+r.span-1)
	s.done = last == deep
	s.upTo, s.transfers, err = r.read(ctx, ec, first, last)
	return s, err
}

// forked returns the newest mark that is still on the chain, if the newest of
// all is not. An endpoint that lags behind the newest mark is an error, not a
// fork.
func forked(ctx context.Context, ec *ethclient.Client, head uint64, marks []Mark) (*Mark, error) {
	for i, m := range marks {
		if m.Number > head {
			return nil, fmt.Errorf("%w: its head is block %d, we have read %d", errBehind, head, m.Number)
		}
		b, err := getBlock(ctx, ec, new(big.Int).SetUint64(m.Number))
		if errors.Is(err, ethereum.NotFound) {
			return nil, fmt.Errorf("endpoint does not have block %d", m.Number)
		}
		if err != nil {
			return nil, err
		}
		if b.Hash == m.Hash {
			if i == 0 {
				return nil, nil
			}
			return &m, nil
		}
	}
	if len(marks) == 0 {
		return nil, nil
	}
	return &Mark{}, nil
}

// read gets and checks the transfers of a range of blocks.
func (r *Receipts) read(ctx context.Context, ec *ethclient.Client, first, last uint64) (Mark, []Transfer, error) {
	logs, err := ec.FilterLogs(ctx, ethereum.FilterQuery{
		FromBlock: new(big.Int).SetUint64(first), ToBlock: new(big.Int).SetUint64(last),
		Addresses: []Address{r.client.token},
		Topics:    [][]Hash{{transferTopic}, nil, {Hash(leftPad(r.earning))}},
	})
	if err != nil {
		return Mark{}, nil, err
	}
	if len(logs) > maxTransfers {
		return Mark{}, nil, fmt.Errorf("%d transfers in one answer", len(logs))
	}
	hashes := map[uint64]Hash{}
	var out []Transfer
	for i := range logs {
		l := &logs[i]
		t, err := r.check(l, first, last)
		if err != nil {
			return Mark{}, nil, err
		}
		if t.Amount.Sign() == 0 {
			continue // anybody can send nothing, for free
		}
		h, ok := hashes[l.BlockNumber]
		if !ok {
			b, err := getBlock(ctx, ec, new(big.Int).SetUint64(l.BlockNumber))
			if err != nil {
				return Mark{}, nil, err
			}
			h, hashes[l.BlockNumber] = b.Hash, b.Hash
		}
		if h != l.BlockHash {
			return Mark{}, nil, fmt.Errorf("endpoint shows a transfer in block %d that is not on its chain", l.BlockNumber)
		}
		out = append(out, t)
	}
	end, err := getBlock(ctx, ec, new(big.Int).SetUint64(last))
	if err != nil {
		return Mark{}, nil, err
	}
	return Mark{last, end.Hash}, out, nil
}

// check verifies that a log is what was asked for.
func (r *Receipts) check(l *types.Log, first, last uint64) (Transfer, error) {
	if l.Removed || l.Address != r.client.token || len(l.Topics) != 3 || l.Topics[0] != transferTopic ||
		l.Topics[2] != Hash(leftPad(r.earning)) || len(l.Data) != 32 || l.BlockNumber < first || l.BlockNumber > last || uint64(l.Index) > 1<<31 {
		return Transfer{}, errors.New("endpoint gives a log that was not asked for")
	}
	return Transfer{
		Tx: l.TxHash, LogIndex: uint32(l.Index), Block: Mark{l.BlockNumber, l.BlockHash}, //nolint:gosec // bounded above
		From: Address(l.Topics[1][12:]), Amount: new(big.Int).SetBytes(l.Data),
	}, nil
}

func leftPad(a Address) (h Hash) {
	copy(h[12:], a[:])
	return h
}
