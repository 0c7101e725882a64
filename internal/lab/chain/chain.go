package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"sync"
	"time"

	"cuttle/billing/evm/erc20"
	"cuttle/billing/evm/hub"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	"github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/params"
)

// mineTimeout bounds the wait for one of the faucet's transactions.
const mineTimeout = 30 * time.Second

// chain is the running node and its rich key.
type chain struct {
	backend *simulated.Backend
	key     *ecdsa.PrivateKey
	from    common.Address
	id      *big.Int
	binding *erc20.Token
	token   common.Address // this and hub: set by deploy, before anything is served
	hub     common.Address

	mu    sync.Mutex // guards nonce, and that they are broadcast in its order
	nonce uint64     // of the rich key's next transaction
}

// startChain starts the node with JSON-RPC on host and port.
func startChain(host string, port int, id int64) (*chain, error) {
	key, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make the rich key: %w", err)
	}
	from := crypto.PubkeyToAddress(key.PublicKey)
	rich := new(big.Int).Mul(big.NewInt(1_000_000_000), big.NewInt(params.Ether))
	backend := simulated.NewBackend(types.GenesisAlloc{from: {Balance: rich}}, func(n *node.Config, e *ethconfig.Config) {
		n.HTTPHost, n.HTTPPort = host, port
		n.HTTPModules = []string{"eth", "net", "web3"}
		n.HTTPVirtualHosts = []string{"*"}
		rules := *params.AllDevChainProtocolChanges
		rules.ChainID = big.NewInt(id)
		rules.OsakaTime, rules.BogotaTime = nil, nil // what public chains run today
		e.Genesis.Config = &rules
	})
	return &chain{backend: backend, key: key, from: from, id: big.NewInt(id), binding: erc20.NewToken()}, nil
}

// seal makes a block every period until ctx ends.
func (c *chain) seal(ctx context.Context, period time.Duration) {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			c.backend.Commit()
		}
	}
}

// hubNotice is how long a payer waits to close a channel of the lab's hub.
const hubNotice = time.Minute

// deploy puts the token on the chain, all of which the rich key holds, and the
// channel hub.
func (c *chain) deploy(ctx context.Context) error {
	supply := new(big.Int).Mul(big.NewInt(1_000_000_000), big.NewInt(params.Ether))
	data := append(common.FromHex(erc20.TokenMetaData.Bin), c.binding.PackConstructor(c.from, supply)...)
	hash, err := c.send(ctx, nil, new(big.Int), data)
	if err != nil {
		return err
	}
	receipt, err := c.await(ctx, hash)
	if err != nil {
		return err
	}
	c.token = receipt.ContractAddress
	data = append(common.FromHex(hub.HubMetaData.Bin), hub.NewHub().PackConstructor(c.token, big.NewInt(int64(hubNotice.Seconds())))...)
	if hash, err = c.send(ctx, nil, new(big.Int), data); err != nil {
		return err
	}
	if receipt, err = c.await(ctx, hash); err != nil {
		return err
	}
	c.hub = receipt.ContractAddress
	return nil
}

// send signs one transaction of the rich key and broadcasts it. to is nil for
// a contract.
func (c *chain) send(ctx context.Context, to *common.Address, value *big.Int, data []byte) (common.Hash, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client := c.backend.Client()
	head, err := client.HeaderByNumber(ctx, nil)
	if err != nil {
		return common.Hash{}, fmt.Errorf("read head: %w", err)
	}
	tip := big.NewInt(params.GWei)
	most := new(big.Int).Add(tip, new(big.Int).Mul(head.BaseFee, big.NewInt(2)))
	tx, err := types.SignNewTx(c.key, types.LatestSignerForChainID(c.id), &types.DynamicFeeTx{
		ChainID: c.id, Nonce: c.nonce, GasTipCap: tip, GasFeeCap: most, Gas: 2_000_000, To: to, Value: value, Data: data,
	})
	if err != nil {
		return common.Hash{}, fmt.Errorf("sign: %w", err)
	}
	if err := client.SendTransaction(ctx, tx); err != nil {
		return common.Hash{}, fmt.Errorf("send: %w", err)
	}
	c.nonce++
	return tx.Hash(), nil
}

// await polls for a receipt, at most mineTimeout. Any error may mean "not
// indexed yet", so none of them is final before the deadline.
func (c *chain) await(ctx context.Context, hash common.Hash) (*types.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, mineTimeout)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		receipt, err := c.backend.Client().TransactionReceipt(ctx, hash)
		switch {
		case err == nil && receipt.Status == types.ReceiptStatusSuccessful:
			return receipt, nil
		case err == nil:
			return nil, errors.New("the transaction was reverted")
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a block: %w", errors.Join(ctx.Err(), err))
		case <-t.C:
		}
	}
}

// handler answers the faucet's port.
func (c *chain) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /fund", func(w http.ResponseWriter, r *http.Request) {
		if err := c.fund(r.Context(), http.MaxBytesReader(w, r.Body, 4096)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	return mux
}

// fund reads who gets how much and sends it.
func (c *chain) fund(ctx context.Context, body io.Reader) error {
	var want struct{ Address, Gas, Token string }
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&want); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if !common.IsHexAddress(want.Address) {
		return fmt.Errorf("%q is not an address", want.Address)
	}
	to := common.HexToAddress(want.Address)
	gas, err := amount(want.Gas)
	if err != nil {
		return err
	}
	token, err := amount(want.Token)
	if err != nil {
		return err
	}
	var sent []common.Hash
	if gas.Sign() > 0 {
		hash, err := c.send(ctx, &to, gas, nil)
		if err != nil {
			return fmt.Errorf("send gas: %w", err)
		}
		sent = append(sent, hash)
	}
	if token.Sign() > 0 {
		hash, err := c.send(ctx, &c.token, new(big.Int), c.binding.PackTransfer(to, token))
		if err != nil {
			return fmt.Errorf("send token: %w", err)
		}
		sent = append(sent, hash)
	}
	for _, hash := range sent {
		if _, err := c.await(ctx, hash); err != nil {
			return err
		}
	}
	return nil
}

// amount reads a decimal number of smallest units; empty is none.
func amount(s string) (*big.Int, error) {
	if s == "" {
		return new(big.Int), nil
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok || n.Sign() < 0 {
		return nil, fmt.Errorf("%q is not an amount", s)
	}
	return n, nil
}
