// Package evm is a node's way to an EVM chain: it sends ERC-20 transfers and
// watches for those that arrive (EIP-20, EIP-1559, EIP-712, the Ethereum
// JSON-RPC API).
//
// Three parts. Client speaks JSON-RPC to one or more endpoints, each checked
// for its chain id before it is believed. Payments carries intents to pay
// through PLANNED, SIGNED, SENT, MINED, FINAL; Receipts credits transfers to
// the earning wallet. What must survive a crash is kept by the caller, behind
// the interfaces Journal and Inbox, and is durable before the chain hears of it.
//
// The package never signs for another chain than the configured one, never
// gives a payment a second nonce, never reads a block's transactions (chains
// have types of their own) and never trusts an answer's size. It knows nothing
// of neighbors, cells or prices. billing is the only caller.
//
// A Client is safe for concurrent use; Payments and Receipts belong to one
// goroutine each.
package evm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"

	"cuttle/billing/evm/erc20"
)

// Address is an account of the chain, under a name that callers can use without
// importing go-ethereum.
type Address = common.Address

// Hash is a hash of the chain, likewise.
type Hash = common.Hash

// ParseAddress reads 0x and 40 hexadecimal digits; mixed case must be the EIP-55
// checksum, and zero is nobody's address.
func ParseAddress(s string) (Address, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok || len(digits) != 2*common.AddressLength || !common.IsHexAddress(digits) {
		return Address{}, fmt.Errorf("address %q: want 0x and 40 hexadecimal digits", s)
	}
	a := common.HexToAddress(digits)
	switch {
	case a == Address{}:
		return Address{}, errors.New("the zero address is nobody's")
	case s != a.Hex() && digits != strings.ToLower(digits) && digits != strings.ToUpper(digits):
		return Address{}, fmt.Errorf("address %q: the EIP-55 checksum does not match: check for a typing error", s)
	}
	return a, nil
}

// Defaults of ClientConfig.
const (
	DefaultTimeout     = 10 * time.Second
	DefaultMaxResponse = 4 << 20
	maxEndpoints       = 8
	maxBench           = time.Minute // an endpoint that failed is asked last for at most this long
)

// Errors that callers tell apart.
var (
	ErrWrongChain = errors.New("wrong chain")
	ErrWrongToken = errors.New("wrong token")
	ErrNoEndpoint = errors.New("no endpoint answers")
)

// ClientConfig says where the chain is. Zero durations and sizes mean the
// defaults.
type ClientConfig struct {
	Endpoints   []string // http or https URLs, in order of preference, at most 8
	ChainID     uint64   // every endpoint must report it
	Token       Address  // the ERC-20 contract
	Timeout     time.Duration
	MaxResponse int64 // bytes of one answer
	Finality    Finality
	// DialContext makes the connections to the endpoints, for instance through
	// the node's own circuits. Nil means the host's network.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client asks the endpoints of one chain, the next one when one fails.
type Client struct {
	chainID *big.Int
	token   Address
	abi     *erc20.Token
	timeout time.Duration

	finality Finality
	http     *http.Client
	ends     []*endpoint

	decimals atomic.Uint32 // of the token, once Check has read them
	compared atomic.Int64  // when Compare has last asked, Unix nanoseconds
}

type endpoint struct {
	name string // scheme and host, which errors may show; the path may hold an API key
	rpc  *ethclient.Client

	mu       sync.Mutex
	checked  bool // has reported the right chain id
	failures int
	benched  time.Time // asked last until then
	aside    time.Time // not asked until then,
	why      error     // for this
}

// NewClient checks the configuration; it does not touch the network.
func NewClient(cfg ClientConfig) (*Client, error) {
	switch {
	case len(cfg.Endpoints) == 0 || len(cfg.Endpoints) > maxEndpoints:
		return nil, fmt.Errorf("chain: want 1 to %d RPC endpoints, got %d", maxEndpoints, len(cfg.Endpoints))
	case cfg.ChainID == 0:
		return nil, errors.New("chain: chain id is zero")
	case cfg.Token == Address{}:
		return nil, errors.New("chain: token address is zero")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxResponse == 0 {
		cfg.MaxResponse = DefaultMaxResponse
	}
	transport := &http.Transport{DialContext: cfg.DialContext, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: cfg.Timeout}
	c := &Client{chainID: new(big.Int).SetUint64(cfg.ChainID), token: cfg.Token, abi: erc20.NewToken(), timeout: cfg.Timeout, finality: cfg.Finality}
	c.http = &http.Client{
		Transport: limited{transport, cfg.MaxResponse},
		Timeout:   cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("endpoint redirects")
		},
	}
	for _, e := range cfg.Endpoints {
		u, err := url.Parse(e)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, errors.New("chain: an RPC endpoint is not an http or https URL")
		}
		conn, err := rpc.DialOptions(context.Background(), e, rpc.WithHTTPClient(c.http)) // for HTTP this opens nothing
		if err != nil {
			return nil, fmt.Errorf("chain: endpoint %s://%s: %w", u.Scheme, u.Host, scrub(err))
		}
		c.ends = append(c.ends, &endpoint{name: u.Scheme + "://" + u.Host, rpc: ethclient.NewClient(conn)})
	}
	return c, nil
}

// Close gives back idle connections. Calls that are under way end by their own
// contexts.
func (c *Client) Close() {
	for _, e := range c.ends {
		e.rpc.Close()
	}
	c.http.CloseIdleConnections()
}

// ChainID is the configured chain's id, Token the configured token.
func (c *Client) ChainID() uint64 { return c.chainID.Uint64() }

// Token is the configured token's address.
func (c *Client) Token() Address { return c.token }

// do calls f with one endpoint after the other until one answers. An answer
// that every endpoint would give (a revert, a transaction that is not there) is
// returned at once. f runs its calls against one endpoint, so they see one view
// of the chain.
func (c *Client) do(ctx context.Context, what string, f func(context.Context, *ethclient.Client) error) error {
	var failed error
	for _, e := range c.order() {
		err := c.ask(ctx, e, f)
		switch {
		case err == nil:
			e.succeed()
			return nil
		case isAnswer(err):
			e.succeed()
			return fmt.Errorf("%s: %w", what, scrub(err))
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		e.fail()
		failed = errors.Join(failed, fmt.Errorf("%s: %w", e.name, scrub(err)))
	}
	return c.none(what, failed)
}

func (c *Client) ask(ctx context.Context, e *endpoint, f func(context.Context, *ethclient.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*c.timeout) // f may make several calls
	defer cancel()
	e.mu.Lock()
	checked := e.checked
	e.mu.Unlock()
	if !checked {
		id, err := e.rpc.ChainID(ctx)
		if err != nil {
			return err
		}
		if id.Cmp(c.chainID) != 0 {
			err := fmt.Errorf("%w: the endpoint is on chain %s, configured is %s", ErrWrongChain, id, c.chainID)
			e.setAside(err)
			return err
		}
		e.mu.Lock()
		e.checked = true
		e.mu.Unlock()
	}
	return f(ctx, e.rpc)
}

// order lists the endpoints, benched ones last, without those that are set aside.
func (c *Client) order() []*endpoint {
	now := time.Now()
	var good, bad []*endpoint
	for _, e := range c.ends {
		e.mu.Lock()
		switch {
		case now.Before(e.aside):
		case now.Before(e.benched):
			bad = append(bad, e)
		default:
			good = append(good, e)
		}
		e.mu.Unlock()
	}
	return append(good, bad...)
}

func (e *endpoint) succeed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures, e.benched = 0, time.Time{}
}

func (e *endpoint) fail() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failures++
	e.checked = false // whatever answers there next may be another node
	d := min(time.Second<<min(e.failures, 6), maxBench)
	e.benched = time.Now().Add(d/2 + rand.N(d/2))
}

// isAnswer tells whether err is the chain's answer rather than an endpoint's
// failure.
func isAnswer(err error) bool {
	if errors.Is(err, ethereum.NotFound) {
		return true
	}
	_, reverted := ethclient.RevertErrorData(err)
	return reverted || isRevert(err)
}

// Check asks for what must hold before anything is signed: the chain id, code
// at the token's address and its decimals, which it returns (0 to 36).
func (c *Client) Check(ctx context.Context) (decimals uint8, err error) {
	err = c.do(ctx, "check token", func(ctx context.Context, ec *ethclient.Client) error {
		code, err := ec.CodeAt(ctx, c.token, nil)
		if err != nil {
			return err
		}
		if len(code) == 0 {
			return fmt.Errorf("%w: no contract at %s on chain %s", ErrWrongToken, c.token, c.chainID)
		}
		out, err := ec.CallContract(ctx, ethereum.CallMsg{To: &c.token, Data: c.abi.PackDecimals()}, nil)
		if err != nil {
			return err
		}
		if len(out) != 32 {
			return fmt.Errorf("%w: %s gives no decimals", ErrWrongToken, c.token)
		}
		n := new(big.Int).SetBytes(out)
		if !n.IsUint64() || n.Uint64() > 36 {
			return fmt.Errorf("%w: %s has %s decimals", ErrWrongToken, c.token, n)
		}
		decimals = uint8(n.Uint64())
		return nil
	})
	if err == nil {
		c.decimals.Store(uint32(decimals))
	}
	return decimals, err
}

// Format writes an amount of the token with its decimal point, exactly; before
// Check has succeeded, in smallest units.
func (c *Client) Format(amount *big.Int) string {
	return formatUnits(amount, int(c.decimals.Load()))
}

// Balances are what a wallet holds at an endpoint's head.
type Balances struct {
	Token *big.Int // smallest units of the token
	Gas   *big.Int // wei of the chain's own coin
}

// Balances asks what a wallet holds.
func (c *Client) Balances(ctx context.Context, wallet Address) (b Balances, err error) {
	err = c.do(ctx, "read balances", func(ctx context.Context, ec *ethclient.Client) error {
		out, err := ec.CallContract(ctx, ethereum.CallMsg{To: &c.token, Data: c.abi.PackBalanceOf(wallet)}, nil)
		if err != nil {
			return err
		}
		if len(out) != 32 {
			return fmt.Errorf("%w: %s gives no balance", ErrWrongToken, c.token)
		}
		b.Token = new(big.Int).SetBytes(out)
		b.Gas, err = ec.BalanceAt(ctx, wallet, nil)
		return err
	})
	return b, err
}

// Mark names a block.
type Mark struct {
	Number uint64
	Hash   Hash
}

// block is the part of a block's header that is the same on every EVM chain.
type block struct {
	Number  hexutil.Uint64 `json:"number"`
	Hash    Hash           `json:"hash"`
	Time    hexutil.Uint64 `json:"timestamp"`
	BaseFee *hexutil.Big   `json:"baseFeePerGas"`
}

// getBlock reads a header without decoding transactions and takes the hash as
// the endpoint states it, since chains differ in what they hash. A nil number
// is the head.
func getBlock(ctx context.Context, ec *ethclient.Client, number *big.Int) (*block, error) {
	arg := "latest"
	if number != nil {
		arg = hexutil.EncodeBig(number)
	}
	var b *block
	if err := ec.Client().CallContext(ctx, &b, "eth_getBlockByNumber", arg, false); err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("block %s: %w", arg, ethereum.NotFound)
	}
	if number != nil && uint64(b.Number) != number.Uint64() {
		return nil, fmt.Errorf("asked for block %s, got %d", number, b.Number)
	}
	return b, nil
}

// limited bounds the size of an answer (one larger is cut, which no JSON parser
// accepts) and asks again when an endpoint is busy for a moment: every call here
// may be repeated, a broadcast of the same bytes too.
type limited struct {
	next http.RoundTripper
	max  int64
}

const (
	maxTries   = 5
	firstPause = 50 * time.Millisecond
)

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	for try := 0; ; try++ {
		resp, err := l.next.RoundTrip(r)
		last := try == maxTries-1 || r.GetBody == nil
		switch {
		case err != nil && (last || r.Context().Err() != nil):
			return nil, err
		case err == nil && (last || !busy(resp.StatusCode)):
			return l.bound(resp)
		case err == nil:
			resp.Body.Close()
		}
		select {
		case <-time.After(firstPause<<try + rand.N(firstPause)):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = body
	}
}

func busy(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

func (l limited) bound(resp *http.Response) (*http.Response, error) {
	if resp.ContentLength > l.max {
		resp.Body.Close()
		return nil, fmt.Errorf("answer of %d bytes is over the limit", resp.ContentLength)
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, l.max), resp.Body}
	return resp, nil
}

// CloseIdleConnections lets http.Client reach through.
func (l limited) CloseIdleConnections() {
	if t, ok := l.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}
