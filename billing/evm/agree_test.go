package evm

import (
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
)

func always(v any) func([]json.RawMessage) any { return func([]json.RawMessage) any { return v } }

// otherHash makes blocks of another branch.
func otherHash(p []json.RawMessage) any {
	b := fakeBlock(p).(map[string]any)
	b["hash"] = word(1 << 40)
	return b
}

// headAt is fakeBlock with another head.
func headAt(head string) func([]json.RawMessage) any {
	return func(p []json.RawMessage) any {
		var arg string
		if json.Unmarshal(p[0], &arg) != nil || arg == "latest" {
			arg = head
		}
		quoted, _ := json.Marshal(arg)
		return fakeBlock([]json.RawMessage{quoted})
	}
}

// TestOutvoted: of three endpoints the first lies. It is set aside and named, and
// what the two others say counts.
func TestOutvoted(t *testing.T) {
	for _, c := range []struct {
		name, method string
		lie          any
		paid         bool // the honest ones show a payment
		harmless     bool // the lie moves nothing, so nobody contradicts
	}{
		{name: "balance", method: "eth_call", lie: always(word(9))},
		{name: "coins", method: "eth_getBalance", lie: always("0x1")},
		{name: "code of the token", method: "eth_getCode", lie: always("0x6001")},
		{name: "chain id", method: "eth_chainId", lie: always("0x8")},
		{name: "another branch", method: "eth_getBlockByNumber", lie: otherHash},
		{name: "head far ahead", method: "eth_getBlockByNumber", lie: headAt("0xffff"), harmless: true},
		{name: "head far ahead, payment", method: "eth_getBlockByNumber", lie: headAt("0xffff"), paid: true, harmless: true},
		{name: "head far behind", method: "eth_getBlockByNumber", lie: headAt("0x10"), paid: true, harmless: true},
		{name: "missing logs", method: "eth_getLogs", lie: always([]any{}), paid: true},
		{name: "invented logs", method: "eth_getLogs", lie: always(fakeLog(nil))},
		{name: "another amount", method: "eth_getLogs", lie: always(fakeLog(func(l map[string]any) { l["data"] = word(5) })), paid: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			liar, a, b := startFake(t, 7), startFake(t, 7), startFake(t, 7)
			if c.paid {
				for _, f := range []*fakeChain{liar, a, b} {
					f.set("eth_getLogs", always(fakeLog(nil)))
				}
			}
			lie, ok := c.lie.(func([]json.RawMessage) any)
			if !ok {
				t.Fatal("no lie")
			}
			liar.set(c.method, lie)
			client := testClient(t, nil, liar.url, a.url, b.url)
			if err := client.Compare(context.Background(), 3, Address{3}); err != nil {
				t.Errorf("Compare: %v", err)
			}
			var in memInbox
			n, err := NewReceipts(client, testEarning, &in, 3, 0).Scan(context.Background())
			if err != nil || (n == 1) != c.paid || len(in.marks) == 0 || in.marks[0] != (Mark{98, Hash(big.NewInt(98).FillBytes(make([]byte, 32)))}) {
				t.Errorf("Scan: booked %d up to %+v, %v", n, in.marks, err)
			}
			if c.paid && (len(in.got) != 1 || in.got[0].Amount.Int64() != 1000) {
				t.Errorf("booked %+v, want 1000", in.got)
			}
			doubts := client.Doubts()
			if want := !c.harmless; (len(doubts) == 1) != want || want && !strings.Contains(doubts[0], liar.url) {
				t.Errorf("doubts: %q, want the liar: %v", doubts, want)
			}
			if c.harmless {
				return
			}
			asked := liar.count("eth_getBlockByNumber")
			if _, err := client.Balances(context.Background(), Address{3}); err != nil || liar.count("eth_getBlockByNumber") != asked {
				t.Errorf("after that: %v, and the liar was asked", err)
			}
		})
	}
}

// TestNobodyDecides: of two endpoints that contradict each other neither is
// believed, and the user is told which they are.
func TestNobodyDecides(t *testing.T) {
	liar, honest := startFake(t, 7), startFake(t, 7)
	liar.set("eth_getLogs", always(fakeLog(nil)))
	client := testClient(t, nil, liar.url, honest.url)
	var in memInbox
	_, err := NewReceipts(client, testEarning, &in, 3, 0).Scan(context.Background())
	if !errors.Is(err, ErrDisagree) || !strings.Contains(err.Error(), liar.url) || !strings.Contains(err.Error(), honest.url) {
		t.Errorf("Scan: %v, want ErrDisagree with both names", err)
	}
	if len(in.got) != 0 || len(in.marks) != 0 || len(client.Doubts()) != 0 {
		t.Errorf("booked %+v up to %+v, doubts %q", in.got, in.marks, client.Doubts())
	}
	liar.set("eth_getLogs", always([]any{}))
	liar.set("eth_call", always(word(9)))
	if err := client.Compare(context.Background(), 3, Address{3}); !errors.Is(err, ErrDisagree) {
		t.Errorf("Compare: %v, want ErrDisagree", err)
	}
	// A head that only one has seen moves nothing, and hides nothing for good.
	liar.set("eth_call", always(word(18)))
	liar.set("eth_getBlockByNumber", headAt("0xffff"))
	if _, err := NewReceipts(client, testEarning, &in, 3, 0).Scan(context.Background()); err != nil || in.marks[0].Number != 98 {
		t.Errorf("with an invented head: up to %+v, %v", in.marks, err)
	}
}

// TestTheOtherIsDown: the only one that answers is believed.
func TestTheOtherIsDown(t *testing.T) {
	f := startFake(t, 7)
	f.set("eth_getLogs", always(fakeLog(nil)))
	client := testClient(t, nil, "http://127.0.0.1:1", f.url)
	if err := client.Compare(context.Background(), 3, Address{3}); err != nil {
		t.Errorf("Compare: %v", err)
	}
	var in memInbox
	if n, err := NewReceipts(client, testEarning, &in, 3, 0).Scan(context.Background()); n != 1 || err != nil {
		t.Errorf("Scan: %d, %v", n, err)
	}
}

// receiptIn is a receipt of whatever transaction is asked for.
func receiptIn(number int64, hash, status string) func([]json.RawMessage) any {
	return func(p []json.RawMessage) any {
		var tx string
		_ = json.Unmarshal(p[0], &tx)
		return map[string]any{
			"transactionHash": tx, "transactionIndex": "0x0", "blockNumber": hexutil.EncodeBig(big.NewInt(number)), "blockHash": hash, "status": status,
			"type": "0x2", "cumulativeGasUsed": "0x1", "gasUsed": "0x5208", "effectiveGasPrice": "0x1", "logs": []any{}, "logsBloom": "0x" + strings.Repeat("0", 512),
		}
	}
}

func sentPayment(t *testing.T, client *Client) (*memJournal, *Payments) {
	t.Helper()
	j := &memJournal{in: Intent{ID: 1, Payee: Address{5}, Amount: big.NewInt(10)}}
	p := NewPayments(client, keySigner{crypto.PubkeyToAddress(signerKey.PublicKey)}, j, PaymentConfig{})
	if _, err := p.Advance(context.Background()); err != nil || j.in.State != Sent {
		t.Fatalf("payment is %s, %v", j.in.State, err)
	}
	return j, p
}

// TestInventedReceipt: a payment is not final because one endpoint says so. It is
// sent again, as it is.
func TestInventedReceipt(t *testing.T) {
	liar, a, b := startFake(t, 7), startFake(t, 7), startFake(t, 7)
	client := testClient(t, nil, liar.url, a.url, b.url)
	j, p := sentPayment(t, client)
	liar.set("eth_getTransactionReceipt", receiptIn(80, word(80), "0x1"))
	if _, err := p.Advance(context.Background()); !errors.Is(err, ErrDisagree) || j.in.State == Final {
		t.Errorf("payment is %s, %v; want it not final, and ErrDisagree", j.in.State, err)
	}
	if d := client.Doubts(); len(d) != 1 || !strings.Contains(d[0], liar.url) {
		t.Errorf("doubts: %q, want the liar", d)
	}
	before := a.count("eth_sendRawTransaction")
	if _, err := p.Advance(context.Background()); err != nil || j.in.State != Sent || len(j.in.Attempts) != 1 || a.count("eth_sendRawTransaction") != before+1 {
		t.Errorf("then it is %s, %d attempts, %v", j.in.State, len(j.in.Attempts), err)
	}
	for _, f := range []*fakeChain{a, b} {
		f.set("eth_getTransactionReceipt", receiptIn(90, word(90), "0x1"))
	}
	if _, err := p.Advance(context.Background()); err != nil || j.in.State != Final || j.in.Included.Block.Number != 90 {
		t.Errorf("in the end it is %s in %+v, %v", j.in.State, j.in.Included, err)
	}
}

// TestDeepFork: the block of a payment that counts as final leaves the chain. It
// is sent again with its nonce and bytes, or found in its new block.
func TestDeepFork(t *testing.T) {
	for _, status := range []string{"0x1", "0x0"} {
		f := startFake(t, 7)
		client := testClient(t, nil, f.url)
		j, p := sentPayment(t, client)
		f.set("eth_getTransactionReceipt", receiptIn(80, word(80), status))
		if _, err := p.Advance(context.Background()); err != nil || j.in.State.Open() {
			t.Fatalf("status %s: payment is %s, %v", status, j.in.State, err)
		}
		raw := string(j.in.Attempts[0].Raw)
		if n, err := p.Watch(context.Background()); n != 1 || err != nil || j.in.State.Open() {
			t.Errorf("status %s: without a fork %d are watched and it is %s, %v", status, n, j.in.State, err)
		}

		f.set("eth_getBlockByNumber", otherHash)
		f.set("eth_getTransactionReceipt", receiptIn(85, word(1<<40), status))
		if _, err := p.Watch(context.Background()); err != nil || j.in.State != Mined || j.in.Included.Block.Number != 85 {
			t.Errorf("status %s: mined elsewhere it is %s in %+v, %v", status, j.in.State, j.in.Included, err)
		}
		if _, err := p.Advance(context.Background()); err != nil || j.in.State.Open() {
			t.Errorf("status %s: and then %s, %v", status, j.in.State, err)
		}

		f.set("eth_getBlockByNumber", headAt("0x64"))
		f.set("eth_getTransactionReceipt", always(nil))
		before := f.count("eth_sendRawTransaction")
		if _, err := p.Watch(context.Background()); err != nil || j.in.State != Sent {
			t.Errorf("status %s: in no block it is %s, %v", status, j.in.State, err)
		}
		if _, err := p.Advance(context.Background()); err != nil || f.count("eth_sendRawTransaction") != before+1 || len(j.in.Attempts) != 1 || j.in.Nonce != 0 || string(j.in.Attempts[0].Raw) != raw {
			t.Errorf("status %s: it was not sent again as it was: %v", status, err)
		}
	}
	// A chain that says itself what stays is believed.
	f := startFake(t, 7)
	f.set("eth_getBlockByNumber", func(p []json.RawMessage) any {
		var arg string
		if json.Unmarshal(p[0], &arg) == nil && arg == "finalized" {
			p = []json.RawMessage{[]byte(`"0x60"`)}
		}
		return fakeBlock(p)
	})
	client := testClient(t, func(c *ClientConfig) { c.Finality.Tag = "finalized" }, f.url)
	j, p := sentPayment(t, client)
	f.set("eth_getTransactionReceipt", receiptIn(80, word(80), "0x1"))
	if _, err := p.Advance(context.Background()); err != nil || j.in.State != Final {
		t.Fatalf("payment is %s, %v", j.in.State, err)
	}
	if n, err := p.Watch(context.Background()); n != 0 || err != nil {
		t.Errorf("with a tag %d are watched, %v", n, err)
	}
}

// TestFeeSpike: while the market is over the user's limit nothing is signed and
// the user is told; when it has come down the payment goes out.
func TestFeeSpike(t *testing.T) {
	f := startFake(t, 7)
	f.set("eth_maxPriorityFeePerGas", always("0x174876e80000"))
	j := &memJournal{in: Intent{ID: 1, Payee: Address{5}, Amount: big.NewInt(10)}}
	now := time.Unix(1_800_000_000, 0)
	p := NewPayments(testClient(t, nil, f.url), keySigner{crypto.PubkeyToAddress(signerKey.PublicKey)}, j, PaymentConfig{Now: func() time.Time { return now }})
	for range 3 {
		out, err := p.Advance(context.Background())
		if err != nil || len(out.Problems) != 1 || out.Problems[0].Kind != FeeOverLimit || j.in.State != Planned || f.count("eth_sendRawTransaction") != 0 {
			t.Fatalf("during the spike: %+v, %s, %v", out.Problems, j.in.State, err)
		}
		if !slices.Equal(out.Late, []Late{{Intent: 1}}) {
			t.Errorf("during the spike these are late: %+v", out.Late)
		}
	}
	f.set("eth_maxPriorityFeePerGas", always("0x1"))
	if out, err := p.Advance(context.Background()); err != nil || len(out.Problems) != 0 || len(out.Late) != 0 || j.in.State != Sent {
		t.Fatalf("after the spike: %+v, %s, %v", out.Problems, j.in.State, err)
	}

	// A spike that comes after it was sent: its fee is raised up to the limit and not
	// over it, and the same bytes are repeated.
	f.set("eth_maxPriorityFeePerGas", always("0x174876e80000"))
	now = now.Add(time.Hour)
	before := f.count("eth_sendRawTransaction")
	out, err := p.Advance(context.Background())
	if err != nil || len(j.in.Attempts) != 1 || f.count("eth_sendRawTransaction") != before+1 {
		t.Errorf("stuck over the limit: %d attempts, %v", len(j.in.Attempts), err)
	}
	if !slices.Equal(out.Late, []Late{{1, j.in.Attempts[0].Hash}}) || len(out.Problems) != 1 || out.Problems[0].Kind != FeeOverLimit {
		t.Errorf("stuck over the limit: late %+v, problems %+v", out.Late, out.Problems)
	}
	f.set("eth_maxPriorityFeePerGas", always("0x3b9aca00"))
	if _, err := p.Advance(context.Background()); err != nil || len(j.in.Attempts) != 2 || j.in.Attempts[1].FeeCap.Cmp(gwei(500)) > 0 || j.in.Nonce != 0 {
		t.Errorf("stuck below the limit: %d attempts, %v", len(j.in.Attempts), err)
	}
}
