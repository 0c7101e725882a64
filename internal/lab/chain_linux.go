package lab

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strconv"
	"strings"
)

// maxAnswer bounds what the chain may say at once, in bytes.
const maxAnswer = 4 << 20

// post sends JSON to the chain's namespace; answer, if not nil, gets what comes
// back.
func (l *Lab) post(ctx context.Context, url string, body []byte, answer any) error {
	chain, ok := l.plan.Node("chain")
	if !ok {
		return errors.New("this lab has no chain; start it with --billing")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the chain: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpIn(chain.Namespace).Do(req)
	if err != nil {
		return fmt.Errorf("ask the chain: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("hear the chain: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the chain refuses: %s", strings.TrimSpace(string(b)))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("hear the chain: %w", err)
	}
	return nil
}

// Call makes a JSON-RPC call past all of Cuttle's code, for checks that must
// not believe it.
func (l *Lab) Call(ctx context.Context, result any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return fmt.Errorf("ask the chain: %w", err)
	}
	var answer struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := l.post(ctx, rpcURL(), body, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return fmt.Errorf("%s: %s", method, answer.Error.Message)
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// TokenBalance is what an address holds of the token now, in smallest units.
func (l *Lab) TokenBalance(ctx context.Context, address string) (*big.Int, error) {
	if len(address) != 42 || l.state.Chain == nil {
		return nil, fmt.Errorf("no balance of %q", address)
	}
	data := "0x70a08231" + strings.Repeat("0", 24) + address[2:] // balanceOf(address), EIP-20
	var word string
	call := map[string]string{"to": l.state.Chain.Token, "data": data}
	if err := l.Call(ctx, &word, "eth_call", call, "latest"); err != nil {
		return nil, err
	}
	n, ok := new(big.Int).SetString(strings.TrimPrefix(word, "0x"), 16)
	if !ok {
		return nil, fmt.Errorf("no balance in %q", word)
	}
	return n, nil
}

// Transfer is one transfer of the token as the chain itself has it.
type Transfer struct {
	Tx       string
	Block    uint64
	From, To string // lower-case hexadecimal
	Value    *big.Int
}

// transferTopic is keccak256("Transfer(address,address,uint256)"), EIP-20.
const transferTopic = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"

// Transfers lists every transfer of the token since the chain began, and the
// newest block.
func (l *Lab) Transfers(ctx context.Context) ([]Transfer, uint64, error) {
	var head string
	if err := l.Call(ctx, &head, "eth_blockNumber"); err != nil {
		return nil, 0, err
	}
	newest, err := quantity(head)
	if err != nil {
		return nil, 0, err
	}
	var logs []struct {
		Topics                             []string
		Data, BlockNumber, TransactionHash string
		Removed                            bool
	}
	filter := map[string]any{"fromBlock": "0x0", "toBlock": head, "address": l.state.Chain.Token, "topics": []string{transferTopic}}
	if err := l.Call(ctx, &logs, "eth_getLogs", filter); err != nil {
		return nil, 0, err
	}
	var transfers []Transfer
	for _, e := range logs {
		if e.Removed || len(e.Topics) != 3 || len(e.Topics[1]) != 66 || len(e.Topics[2]) != 66 {
			continue
		}
		block, err := quantity(e.BlockNumber)
		if err != nil {
			return nil, 0, err
		}
		value, err := hex.DecodeString(strings.TrimPrefix(e.Data, "0x"))
		if err != nil {
			return nil, 0, fmt.Errorf("amount of a transfer: %w", err)
		}
		transfers = append(transfers, Transfer{
			Tx: e.TransactionHash, Block: block, From: "0x" + e.Topics[1][26:], To: "0x" + e.Topics[2][26:], Value: new(big.Int).SetBytes(value),
		})
	}
	return transfers, newest, nil
}

// quantity reads a number as JSON-RPC writes it.
func quantity(s string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("number of the chain: %w", err)
	}
	return n, nil
}
