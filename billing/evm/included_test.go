package evm

import (
	"context"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
)

// baseReceipt is a receipt of the chain Base (block 18,374,229): a plain transfer,
// with what the chain beneath was paid for its data.
const baseReceipt = `{
	"blockHash": "0x70a8a64a0f8b141718f60e49c30f027cb9e4f91753d5f13a48d8e1ad263c08bf", "blockNumber": "0x1185e55",
	"contractAddress": null, "cumulativeGasUsed": "0xc74f5e", "effectiveGasPrice": "0x31b41b",
	"from": "0x889ebdac39408782b5165c5185c1a769b4dd3ce6", "gasUsed": "0x5208",
	"l1BaseFeeScalar": "0x8dd", "l1BlobBaseFee": "0x1", "l1BlobBaseFeeScalar": "0x101c12", "l1Fee": "0x125f723f3",
	"l1GasPrice": "0x50f928b4", "l1GasUsed": "0x640", "logs": [], "status": "0x1",
	"to": "0x7449061f45d7b39b3b80b4159286cd8682f60a3c",
	"transactionHash": "0xca564948e3e825f65731424da063240eec34ba921dd117ac5d06b8c2e0b2d962", "transactionIndex": "0x3e", "type": "0x2"
}`

// TestReceipts reads receipts of chains with and without a fee for data, and
// believes none that is another's or not whole.
func TestReceipts(t *testing.T) {
	tx := Hash{}
	if err := tx.UnmarshalText([]byte("0xca564948e3e825f65731424da063240eec34ba921dd117ac5d06b8c2e0b2d962")); err != nil {
		t.Fatal(err)
	}
	change := func(key string, to any) map[string]any {
		var r map[string]any
		if err := json.Unmarshal([]byte(baseReceipt), &r); err != nil {
			t.Fatal(err)
		}
		if key != "" {
			r[key] = to
		}
		return r
	}
	const l1 = 4_931_920_883 // 0x125f723f3
	for _, c := range []struct {
		name    string
		answer  any
		dataFee uint64
		success bool
		none    bool // no receipt
		fails   bool
	}{
		{"of Base", change("", nil), l1, true, false, false},
		{"of a chain without", change("l1Fee", nil), 0, true, false, false},
		{"of a fee beyond 64 bits", change("l1Fee", "0x1ffffffffffffffffff"), mostDataFee, true, false, false},
		{"of one that failed", change("status", "0x0"), l1, false, false, false},
		{"none", nil, 0, false, true, false},
		{"in no block", change("blockNumber", nil), 0, false, true, false},
		{"another's", change("transactionHash", word(1)), 0, false, false, true},
		{"without a status", change("status", nil), 0, false, false, true},
		{"without its gas", change("gasUsed", nil), 0, false, false, true},
		{"of words", change("gasUsed", "much"), 0, false, false, true},
	} {
		f := startFake(t, 7)
		f.set("eth_getTransactionReceipt", func([]json.RawMessage) any { return c.answer })
		got, err := testClient(t, nil, f.url).find(context.Background(), []Attempt{{Hash: tx}})
		if (err != nil) != c.fails || (got == nil) != (c.none || c.fails) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
			continue
		}
		if got == nil {
			continue
		}
		if got.DataFee != c.dataFee || got.Success != c.success || got.Tx != tx || got.Block.Number != 18_374_229 || got.GasUsed != 21_000 || got.GasPrice != 3_257_371 {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestReceiptOfTooMuch: a receipt cannot say that a payment has cost more than was
// signed.
func TestReceiptOfTooMuch(t *testing.T) {
	f := startFake(t, 7)
	f.set("eth_getTransactionReceipt", func(p []json.RawMessage) any {
		r, ok := receiptIn(80, word(80), "0x1")(p).(map[string]any)
		if ok {
			r["gasUsed"], r["effectiveGasPrice"], r["l1Fee"] = "0xffffffffffffffff", "0xffffffffffffffff", "0xffffffffffffffff"
		}
		return r
	})
	c := testClient(t, nil, f.url)
	got, err := c.find(context.Background(), []Attempt{{Hash: Hash{1}, Gas: 60_000, FeeCap: big.NewInt(9)}})
	if err != nil || got == nil || got.GasUsed != 60_000 || got.GasPrice != 9 || got.DataFee != mostDataFee {
		t.Errorf("%+v, %v; want it held to 60000 gas at 9 wei", got, err)
	}
}

// TestTokenTakesFee: when less reaches a payee than was sent, or nothing by the
// receipt's logs, the user is told how much; when all does, nothing is said.
func TestTokenTakesFee(t *testing.T) {
	transfer := func(token, to Address, amount int64) map[string]any {
		return map[string]any{
			"address": token, "topics": []string{transferTopic.Hex(), word(1), Hash(leftPad(to)).Hex()}, "data": word(amount),
			"transactionHash": word(9), "blockNumber": "0x50", "blockHash": word(80), "transactionIndex": "0x0", "logIndex": "0x0", "removed": false,
		}
	}
	payee := Address{5} // sentPayment pays it 10
	for _, c := range []struct {
		name string
		logs any
		want string
	}{
		{"all", []any{transfer(testToken, payee, 10)}, ""},
		{"in two parts", []any{transfer(testToken, payee, 4), transfer(testToken, payee, 6)}, ""},
		{"less", []any{transfer(testToken, payee, 9), transfer(testToken, Address{6}, 1)}, "only 0.000000000000000009 has arrived"},
		{"another token", []any{transfer(Address{7}, payee, 10)}, "only 0 has arrived"},
		{"nothing", []any{}, "only 0 has arrived"},
		{"an endpoint that does not say", nil, ""},
	} {
		f := startFake(t, 7)
		client := testClient(t, nil, f.url)
		if _, err := client.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		j, p := sentPayment(t, client)
		plain := receiptIn(80, word(80), "0x1")
		f.set("eth_getTransactionReceipt", func(params []json.RawMessage) any {
			r, _ := plain(params).(map[string]any)
			r["logs"] = c.logs
			return r
		})
		if out, err := p.Advance(t.Context()); err != nil || j.in.State != Final || out.Settled != 1 {
			t.Fatalf("%s: payment is %s, %d settled, %v", c.name, j.in.State, out.Settled, err)
		}
		out, err := p.Advance(t.Context()) // it is said from then on
		text := ""
		for _, problem := range out.Problems {
			text += problem.Text
		}
		if err != nil || !strings.Contains(text, c.want) || c.want == "" && text != "" {
			t.Errorf("%s: problems %q, %v; want %q", c.name, text, err, c.want)
		}
	}
}
