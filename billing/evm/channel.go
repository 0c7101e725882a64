package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"

	"cuttle/billing/evm/hub"
)

// Hub reads the channel hub (billing/contract/Hub.sol) at one address and makes
// the calls to it, which Payments sends. It is safe for concurrent use.
type Hub struct {
	client *Client
	at     Address
	abi    *hub.Hub
}

// NewHub makes a Hub; nothing is asked of the chain before Check.
func NewHub(c *Client, at Address) *Hub { return &Hub{client: c, at: at, abi: hub.NewHub()} }

// Address is where the hub is.
func (h *Hub) Address() Address { return h.at }

// Check compares the contract with the one that this program knows, to the byte,
// and its token with the client's. It returns the notice: how long a payer has
// to wait from its request to close a channel until it can.
func (h *Hub) Check(ctx context.Context) (notice time.Duration, err error) {
	err = h.client.do(ctx, "check channel hub", func(ctx context.Context, ec *ethclient.Client) error {
		code, err := ec.CodeAt(ctx, h.at, nil)
		if err != nil {
			return err
		}
		token, seconds, err := hub.Check(code)
		switch {
		case err != nil:
			return fmt.Errorf("%w: %s on chain %s", err, h.at, h.client.chainID)
		case token != h.client.token:
			return fmt.Errorf("%w: the channel hub %s is for token %s, configured is %s", ErrWrongToken, h.at, token, h.client.token)
		case seconds > 366*24*3600:
			return fmt.Errorf("%w: %s has a notice of %d s", hub.ErrNotHub, h.at, seconds)
		}
		notice = time.Duration(seconds) * time.Second //nolint:gosec // bounded above
		return nil
	})
	return notice, err
}

// Pair names a channel of the hub.
type Pair struct{ Payer, Payee Address }

// Channel is a channel at one block. Amounts are in smallest units of the token.
type Channel struct {
	Deposit *big.Int // locked and not paid out
	Paid    *big.Int // paid out in this epoch
	Epoch   uint64   // 0: never opened
	CloseAt uint64   // Unix seconds from which the payer can close; 0: no notice was given
	Signer  Address  // of vouchers; zero: not open
}

// Open tells whether vouchers can be cashed.
func (c *Channel) Open() bool { return c.Signer != Address{} }

func (c *Channel) same(o *Channel) bool {
	return c.Epoch == o.Epoch && c.Signer == o.Signer && c.CloseAt == o.CloseAt && c.Deposit.Cmp(o.Deposit) == 0 && c.Paid.Cmp(o.Paid) == 0
}

// Total is what the epoch can ever pay.
func (c *Channel) Total() *big.Int { return new(big.Int).Add(c.Deposit, c.Paid) }

// ChannelView is a channel as it is believed, and what the head says of a notice,
// which shows there first.
type ChannelView struct {
	Deep    Channel
	CloseAt uint64 // Unix seconds from which the payer can close; 0: no notice runs
}

// channelBatch is how many channels are asked for in one request.
const channelBatch = 50

// Look reads channels at the depth that counts as final and at the head. deep is
// the block of the former; its number is 0 while the chain is shorter than that.
// A notice at the head counts when two endpoints show it, or one does and the depth
// that counts as final does, too.
func (h *Hub) Look(ctx context.Context, pairs []Pair, confirmations uint64) (deep Mark, now time.Time, views []ChannelView, err error) {
	number, err := h.client.reach(ctx, confirmations)
	if err != nil {
		return deep, now, nil, err
	}
	type sight struct {
		deep   Mark
		now    time.Time
		deeps  []Channel
		latest []Channel
	}
	var heads []sight // all that answered, outvoted ones too
	got, err := agreed(ctx, h.client, "look at channels", func(ctx context.Context, ec *ethclient.Client) (s sight, err error) {
		s.deeps, s.latest = make([]Channel, len(pairs)), make([]Channel, len(pairs))
		head, err := getBlock(ctx, ec, nil)
		if err != nil {
			return s, err
		}
		if err := h.client.fresh(head); err != nil {
			return s, err
		}
		if number > uint64(head.Number) {
			return s, fmt.Errorf("%w: %d", errBehind, number)
		}
		s.now = time.Unix(int64(head.Time), 0) //nolint:gosec // a time
		if number > 0 {
			b, err := getBlock(ctx, ec, new(big.Int).SetUint64(number))
			if err != nil {
				return s, err
			}
			s.deep = Mark{number, b.Hash}
		}
		for from := 0; from < len(pairs); from += channelBatch {
			part := pairs[from:min(from+channelBatch, len(pairs))]
			if err := h.read(ctx, ec, part, s.deeps[from:], s.latest[from:], number, uint64(head.Number)); err != nil {
				return s, err
			}
		}
		heads = append(heads, s)
		return s, nil
	}, func(a, b sight) bool {
		return a.deep == b.deep && slices.EqualFunc(a.deeps, b.deeps, func(x, y Channel) bool { return x.same(&y) })
	})
	if err != nil {
		return deep, now, nil, err
	}
	for i, d := range got.deeps {
		v := ChannelView{Deep: d}
		seen := 0
		for _, s := range heads {
			switch l := &s.latest[i]; {
			case l.Open() && l.CloseAt != 0:
				seen++
				v.CloseAt = max(v.CloseAt, l.CloseAt)
			case !l.Open() && d.Open(): // the notice is over
				seen++
			}
		}
		switch {
		case seen > 0 && d.CloseAt != 0:
			v.CloseAt = d.CloseAt
		case seen < min(2, len(heads)):
			v.CloseAt = 0
		}
		views = append(views, v)
	}
	return got.deep, got.now, views, nil
}

func (h *Hub) read(ctx context.Context, ec *ethclient.Client, pairs []Pair, deeps, latest []Channel, deep, head uint64) error {
	answers := make([]hexutil.Bytes, 2*len(pairs))
	batch := make([]rpc.BatchElem, 0, 2*len(pairs))
	for i, p := range pairs {
		call := map[string]any{"to": h.at, "data": hexutil.Bytes(h.abi.PackChannels(p.Payer, p.Payee))}
		for j, block := range []uint64{deep, head} {
			batch = append(batch, rpc.BatchElem{Method: "eth_call", Args: []any{call, hexutil.EncodeUint64(block)}, Result: &answers[2*i+j]})
		}
	}
	if err := ec.Client().BatchCallContext(ctx, batch); err != nil {
		return err
	}
	for i := range batch {
		if batch[i].Error != nil {
			return batch[i].Error
		}
		c, err := h.parse(answers[i])
		if err != nil {
			return err
		}
		if i%2 == 0 {
			deeps[i/2] = c
		} else {
			latest[i/2] = c
		}
	}
	return nil
}

// parse reads what channels() returns; nothing at all is a block before the hub.
func (h *Hub) parse(b []byte) (Channel, error) {
	if len(b) == 0 {
		return Channel{Deposit: new(big.Int), Paid: new(big.Int)}, nil
	}
	o, err := h.abi.UnpackChannels(b)
	if err != nil || len(b) != 5*32 || !o.Epoch.IsInt64() || !o.CloseAt.IsInt64() {
		return Channel{}, errors.New("endpoint gives a channel that is none")
	}
	return Channel{Deposit: o.Deposit, Paid: o.Paid, Epoch: o.Epoch.Uint64(), CloseAt: o.CloseAt.Uint64(), Signer: o.Signer}, nil
}

// Cashed adds up what an epoch of a channel paid in a range of blocks, for
// channels that were closed and opened again between two looks.
func (h *Hub) Cashed(ctx context.Context, p Pair, epoch, first, last uint64) (sum *big.Int, err error) {
	topic := h.abi.GetABI()
	err = h.client.do(ctx, "look for cashed vouchers", func(ctx context.Context, ec *ethclient.Client) error {
		sum = new(big.Int)
		for from := first; from <= last; from += maxRange {
			logs, err := ec.FilterLogs(ctx, ethereum.FilterQuery{
				FromBlock: new(big.Int).SetUint64(from), ToBlock: new(big.Int).SetUint64(min(from+maxRange-1, last)), Addresses: []Address{h.at},
				Topics: [][]Hash{{topic.Events["Cashed"].ID}, {leftPad(p.Payer)}, {leftPad(p.Payee)}},
			})
			if err != nil {
				return err
			}
			for i := range logs {
				e, err := h.abi.UnpackCashedEvent(&logs[i])
				if err != nil || logs[i].Address != h.at || e.Payer != p.Payer || e.Payee != p.Payee || logs[i].Removed {
					return errors.New("endpoint gives a log that was not asked for")
				}
				if e.Epoch == epoch {
					sum.Add(sum, e.Amount)
				}
			}
		}
		return nil
	})
	return sum, err
}

// Allowance is what the hub may take from a wallet now.
func (h *Hub) Allowance(ctx context.Context, wallet Address) (n *big.Int, err error) {
	err = h.client.do(ctx, "read allowance", func(ctx context.Context, ec *ethclient.Client) error {
		out, err := ec.CallContract(ctx, ethereum.CallMsg{To: &h.client.token, Data: h.client.abi.PackAllowance(wallet, h.at)}, nil)
		if err != nil {
			return err
		}
		if len(out) != 32 {
			return fmt.Errorf("%w: %s gives no allowance", ErrWrongToken, h.client.token)
		}
		n = new(big.Int).SetBytes(out)
		return nil
	})
	return n, err
}

// Call is a transaction to a contract.
type Call struct {
	To   Address
	Data []byte
	// Urgent calls pay up to four times the user's highest fee: a notice runs.
	Urgent bool
}

// Claim is a voucher to be cashed.
type Claim struct {
	Pair
	Cumulative *big.Int
	Sig        [65]byte
}

// Approve lets the hub take amount from the sender.
func (h *Hub) Approve(amount *big.Int) Call {
	return Call{To: h.client.token, Data: h.client.abi.PackApprove(h.at, amount)}
}

// Open opens the sender's channel to payee.
func (h *Hub) Open(payee, signer Address, amount *big.Int) Call {
	return Call{To: h.at, Data: h.abi.PackOpen(payee, signer, amount)}
}

// TopUp adds to the sender's channel to payee, and takes back a notice.
func (h *Hub) TopUp(payee Address, amount *big.Int) Call {
	return Call{To: h.at, Data: h.abi.PackTopUp(payee, amount)}
}

// Cash pays vouchers out; anybody may send it.
func (h *Hub) Cash(claims []Claim, urgent bool) Call {
	var in []hub.HubClaim
	for _, c := range claims {
		in = append(in, hub.HubClaim{Payer: c.Payer, Payee: c.Payee, Cumulative: c.Cumulative, Sig: c.Sig[:]})
	}
	return Call{To: h.at, Data: h.abi.PackCash(in), Urgent: urgent}
}

// RequestClose starts the notice for the sender's channel to payee.
func (h *Hub) RequestClose(payee Address) Call {
	return Call{To: h.at, Data: h.abi.PackRequestClose(payee)}
}

// Close gives the sender back what its channel to payee holds, after the notice.
func (h *Hub) Close(payee Address) Call { return Call{To: h.at, Data: h.abi.PackClose(payee)} }

// ChannelKey signs the vouchers of one channel. Whoever has it can pay the
// channel's payee what the deposit holds, and nothing else to nobody else.
type ChannelKey [32]byte

// NewChannelKey makes a key from the system's randomness.
func NewChannelKey() (k ChannelKey, err error) {
	key, err := crypto.GenerateKey()
	if err != nil {
		return k, fmt.Errorf("make channel key: %w", err)
	}
	copy(k[:], crypto.FromECDSA(key))
	return k, nil
}

// Address is the signer as the hub knows it; zero if the key is none.
func (k ChannelKey) Address() Address {
	key, err := crypto.ToECDSA(k[:])
	if err != nil {
		return Address{}
	}
	return crypto.PubkeyToAddress(key.PublicKey)
}

// SignDigest signs as a wallet does: r, s in the lower half, v 27 or 28.
func (k ChannelKey) SignDigest(digest [32]byte) (sig [65]byte, err error) {
	key, err := crypto.ToECDSA(k[:])
	if err != nil {
		return sig, fmt.Errorf("channel key: %w", err)
	}
	raw, err := crypto.Sign(digest[:], key)
	if err != nil {
		return sig, fmt.Errorf("sign voucher: %w", err)
	}
	sig = [65]byte(raw)
	sig[64] += 27
	return sig, nil
}

// String hides the key, whatever prints it.
func (ChannelKey) String() string { return "channel key" }

// GoString hides it likewise.
func (k ChannelKey) GoString() string { return k.String() }

// request is what a payment's transaction says.
func (p *Payments) request(in *Intent) (to Address, data []byte) {
	if in.Call != nil {
		return in.Call.To, in.Call.Data
	}
	return p.client.token, p.client.abi.PackTransfer(in.Payee, in.Amount)
}
