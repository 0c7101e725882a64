package billing

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// TestThreeCreditors: a node that owes three neighbors pays each of them exactly
// what it owes, by the curve alone; what they are owed goes back to zero and all
// four ledgers are equal to the unit.
func TestThreeCreditors(t *testing.T) {
	debtor := running(t, 1, func(c *Config) { c.SettleAbove, c.SettleAfter = Owed(1_000_000, 1), 2*time.Second })
	var creditors []*Book
	var links []*memLink
	for i := range byte(3) {
		c := running(t, 2+i, func(c *Config) { c.Credit, c.CreditStart = Owed(1_000_000, 1), Owed(1_000_000, 1) })
		l := join(t, debtor, c)
		l.run()
		defer l.cut()
		creditors, links = append(creditors, c), append(links, l)
	}
	for i, l := range links {
		for range 10 * (i + 1) {
			l.ends[1].send(TheyPay, wire.Tier(i+1), 100)
			l.ends[0].send(WePay, wire.Tier(i+1), 7)
		}
		eventually(t, "all cells are counted", l.drained)
		flushBoth(t, debtor, creditors[i])
	}
	eventually(t, "every creditor is paid", func() bool {
		for i := range creditors {
			n := standing(t, creditors[i], testID(1))
			if n.TheyOwe != 0 || n.Earned == 0 {
				return false
			}
		}
		for _, n := range report(t, debtor).Neighbors {
			if n.InTransit != 0 || n.WeOwe != 0 {
				return false
			}
		}
		return true
	})
	for i, c := range creditors {
		cells := wire.Cells(10*(i+1)) * 107
		want := Owed(cells, wire.Tier(i+1)) //nolint:gosec // small
		theirs, ours := standing(t, c, testID(1)), standing(t, debtor, c.cfg.Self)
		if theirs.Earned != want || ours.Spent != want || sums(t, c)[accReceived] != want {
			t.Errorf("creditor %d has earned %v and received %v, we have spent %v; want %v of each", i, theirs.Earned, sums(t, c)[accReceived], ours.Spent, want)
		}
	}
	if s := sums(t, append(creditors, debtor)...); s[""] != 0 || s[accPaid]+s[accReceived] != 0 || s[accTransit] != 0 {
		t.Errorf("the network does not sum to zero: %v", s)
	}
}

// flaky is a JSON-RPC endpoint with one transfer in its blocks, whose next answers
// may be refused.
type flaky struct {
	fail atomic.Int64 // answers to the question for logs
	head atomic.Int64
	from evm.Address
	to   evm.Address
	at   evm.Address // the token
	pay  Amount
}

func hash(n int64) string { return fmt.Sprintf("0x%064x", n) }

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct {
		ID     json.RawMessage
		Method string
		Params []json.RawMessage
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	answer := map[string]any{"jsonrpc": "2.0", "id": q.ID}
	switch q.Method {
	case "eth_chainId":
		answer["result"] = "0x539"
	case "eth_getCode":
		answer["result"] = "0x60"
	case "eth_call":
		answer["result"] = hash(18) // decimals
	case "eth_getBlockByNumber":
		n := f.head.Load()
		var at string
		if json.Unmarshal(q.Params[0], &at) == nil && strings.HasPrefix(at, "0x") {
			_, _ = fmt.Sscanf(at, "0x%x", &n)
		}
		answer["result"] = map[string]any{"number": fmt.Sprintf("0x%x", n), "hash": hash(n + 1000), "parentHash": hash(n + 999), "timestamp": fmt.Sprintf("0x%x", time.Now().Unix()), "baseFeePerGas": "0x1"}
	case "eth_getLogs":
		if f.fail.Add(-1) >= 0 {
			answer["error"] = map[string]any{"code": -32000, "message": "try again"}
			break
		}
		var filter struct{ FromBlock, ToBlock string }
		var from, to int64
		_ = json.Unmarshal(q.Params[0], &filter)
		_, _ = fmt.Sscanf(filter.FromBlock, "0x%x", &from)
		_, _ = fmt.Sscanf(filter.ToBlock, "0x%x", &to)
		logs := []any{}
		if from <= 5 && to >= 5 {
			logs = append(logs, map[string]any{
				"address": f.at.Hex(), "topics": []string{"0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef", "0x" + strings.Repeat("0", 24) + f.from.Hex()[2:], "0x" + strings.Repeat("0", 24) + f.to.Hex()[2:]},
				"data": fmt.Sprintf("0x%064x", toToken(f.pay, 18)), "blockNumber": "0x5", "blockHash": hash(1005), "transactionHash": hash(77),
				"transactionIndex": "0x0", "logIndex": "0x0", "removed": false,
			})
		}
		answer["result"] = logs
	default:
		answer["error"] = map[string]any{"code": -32601, "message": "no such method"}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// TestCreditedOnce: a payment that the endpoint does not show in seven answers is
// credited when it does, once, over restarts; meanwhile its payer is not cut.
func TestCreditedOnce(t *testing.T) {
	f := &flaky{from: evm.Address{7}, to: evm.Address{8}, at: evm.Address{9}, pay: Owed(1200, 1)}
	f.head.Store(20)
	f.fail.Store(7)
	server := httptest.NewServer(f)
	defer server.Close()
	clock, path := newClocked(), filepath.Join(t.TempDir(), "ledger.db")
	open := func() *Book {
		client, err := evm.NewClient(evm.ClientConfig{Endpoints: []string{server.URL}, ChainID: 1337, Token: f.at})
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{Self: testID(1), CreditStart: Owed(1000, 1), Direct: &DirectConfig{Client: client, Earning: f.to, Payments: evm.PaymentConfig{Confirmations: 2}}}
		clock.config(path)(&cfg)
		cfg.Account = false
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	id := testID(2)
	p := debt(t, b, id, TheyPay, 1200)
	if err := b.ledger.update(t.Context(), func(x *tx) error {
		return x.bind(p, &hello{bound: true, wallet: f.from, expiry: 1})
	}); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range 3 { // three runs of the program
		for range 5 {
			clock.pass(time.Minute)
			before := f.fail.Load()
			if err := b.poll(context.Background()); err != nil {
				failed++
				if before <= 0 {
					t.Errorf("a poll fails although the endpoint answers: %v", err)
				}
				if r := standing(t, b, id); r.Standing != Throttled || r.TheyOwe != f.pay {
					t.Errorf("while the chain cannot be read: %v, owes %v; want throttled and %v", r.Standing, r.TheyOwe, f.pay)
				}
			}
			f.head.Add(1 + rand.Int64N(3))
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = open()
	}
	if failed != 7 {
		t.Errorf("%d polls failed, want 7", failed)
	}
	if err := b.poll(context.Background()); err != nil {
		t.Fatal(err)
	}
	if r := standing(t, b, id); r.Standing != Active || r.TheyOwe != 0 || len(r.Receipts) != 1 {
		t.Errorf("in the end: %v, owes %v, %d payments; want active, 0 and 1", r.Standing, r.TheyOwe, len(r.Receipts))
	}
	if got := sums(t, b)[accReceived]; got != f.pay {
		t.Errorf("received %v, want %v", got, f.pay)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}
