package evm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testToken, testEarning = Address{0xaa}, Address{0xbb}

// fakeChain answers JSON-RPC from a table, to show what no real node does.
type fakeChain struct {
	mu     sync.Mutex
	answer map[string]func(params []json.RawMessage) any
	calls  map[string]int
	url    string
}

func word(n int64) string { return fmt.Sprintf("0x%064x", n) }

func startFake(tb testing.TB, id int64) *fakeChain {
	tb.Helper()
	f := &fakeChain{calls: map[string]int{}}
	constant := func(v any) func([]json.RawMessage) any { return func([]json.RawMessage) any { return v } }
	f.answer = map[string]func([]json.RawMessage) any{
		"eth_chainId":                 constant(fmt.Sprintf("0x%x", id)),
		"eth_getCode":                 constant("0x00"),
		"eth_call":                    constant(word(18)),
		"eth_getBalance":              constant("0xde0b6b3a7640000"),
		"eth_getTransactionCount":     constant("0x0"),
		"eth_maxPriorityFeePerGas":    constant("0x1"),
		"eth_estimateGas":             constant("0xc350"),
		"eth_getTransactionReceipt":   constant(nil),
		"eth_getTransactionByHash":    constant(nil),
		"eth_getLogs":                 constant([]any{}),
		"eth_sendRawTransaction":      constant(word(1)),
		"eth_getBlockByNumber":        func(p []json.RawMessage) any { return fakeBlock(p) },
		"eth_getBlockTransactionHash": constant(nil),
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var one fakeCall
		var batch []fakeCall
		var out any
		switch {
		case json.Unmarshal(body, &one) == nil:
			out = f.reply(one)
		case json.Unmarshal(body, &batch) == nil:
			all := make([]any, len(batch))
			for i, q := range batch {
				all[i] = f.reply(q)
			}
			out = all
		default:
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out) // the client may have gone
	}))
	tb.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

type fakeCall struct {
	ID     json.RawMessage
	Method string
	Params []json.RawMessage
}

func (f *fakeChain) reply(q fakeCall) map[string]any {
	f.mu.Lock()
	f.calls[q.Method]++
	fn := f.answer[q.Method]
	f.mu.Unlock()
	out := map[string]any{"jsonrpc": "2.0", "id": q.ID}
	switch v := fn(q.Params).(type) {
	case error:
		out["error"] = map[string]any{"code": -32000, "message": v.Error()}
	default:
		out["result"] = v
	}
	return out
}

// fakeBlock makes block 100 the head; a block's hash is its number.
func fakeBlock(p []json.RawMessage) any {
	var arg string
	if json.Unmarshal(p[0], &arg) != nil || arg == "latest" {
		arg = "0x64"
	}
	n, _ := new(big.Int).SetString(strings.TrimPrefix(arg, "0x"), 16)
	return map[string]any{"number": arg, "hash": word(n.Int64()), "timestamp": "0x1", "baseFeePerGas": "0x3b9aca00"}
}

func (f *fakeChain) set(method string, fn func([]json.RawMessage) any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer[method] = fn
}

func (f *fakeChain) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

func testClient(tb testing.TB, change func(*ClientConfig), urls ...string) *Client {
	tb.Helper()
	cfg := ClientConfig{Endpoints: urls, ChainID: 7, Token: testToken, Timeout: time.Minute}
	if change != nil {
		change(&cfg)
	}
	c, err := NewClient(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func TestEndpoints(t *testing.T) {
	good, wrong := startFake(t, 7), startFake(t, 8)
	c := testClient(t, nil, wrong.url, "http://127.0.0.1:1", good.url)
	if d, err := c.Check(context.Background()); err != nil || d != 18 {
		t.Fatalf("Check = %d, %v", d, err)
	}
	if n := wrong.count("eth_call"); n != 0 {
		t.Errorf("an endpoint on the wrong chain was asked %d times", n)
	}
	if _, err := testClient(t, nil, wrong.url).Check(context.Background()); !errors.Is(err, ErrWrongChain) || !errors.Is(err, ErrNoEndpoint) || !strings.Contains(err.Error(), "chain 8") {
		t.Errorf("wrong chain only: %v", err)
	}
	_, err := testClient(t, nil, "http://127.0.0.1:1/secret-key").Check(context.Background())
	if !errors.Is(err, ErrNoEndpoint) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestHostileEndpoint(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":"%s"}`, strings.Repeat("0", 1<<20))
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") },
		"silent": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client goes
			<-r.Context().Done()
		},
		"busy": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "later", http.StatusTooManyRequests) },
	} {
		srv := httptest.NewServer(h)
		c := testClient(t, func(c *ClientConfig) { c.Timeout, c.MaxResponse = 300*time.Millisecond, 1<<16 }, srv.URL)
		if _, err := c.Check(context.Background()); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("%s: %v, want ErrNoEndpoint", name, err)
		}
		c.Close()
		srv.Close()
	}
	for name, cfg := range map[string]ClientConfig{
		"none": {ChainID: 1, Token: testToken}, "ftp": {Endpoints: []string{"ftp://x"}, ChainID: 1, Token: testToken},
		"no chain": {Endpoints: []string{"http://x"}, Token: testToken}, "no token": {Endpoints: []string{"http://x"}, ChainID: 1},
	} {
		if _, err := NewClient(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// memInbox is an Inbox in memory.
type memInbox struct {
	marks []Mark
	got   []Transfer
}

func (m *memInbox) Marks(context.Context) ([]Mark, error) { return m.marks, nil }

func (m *memInbox) Credit(_ context.Context, upTo Mark, t []Transfer) error {
	m.marks, m.got = append([]Mark{upTo}, m.marks...), append(m.got, t...)
	return nil
}

func (m *memInbox) Rewind(_ context.Context, to Mark) error {
	for len(m.marks) > 0 && m.marks[0].Number > to.Number {
		m.marks = m.marks[1:]
	}
	kept := m.got[:0]
	for _, t := range m.got {
		if t.Block.Number <= to.Number {
			kept = append(kept, t)
		}
	}
	m.got = kept
	return nil
}

func fakeLog(change func(map[string]any)) []any {
	earning := leftPad(testEarning)
	l := map[string]any{
		"address": testToken.Hex(), "topics": []string{transferTopic.Hex(), word(5), earning.Hex()}, "data": word(1000),
		"blockNumber": "0x50", "blockHash": word(0x50), "transactionHash": word(9), "transactionIndex": "0x0", "logIndex": "0x2", "removed": false,
	}
	if change != nil {
		change(l)
	}
	return []any{l}
}

func TestLyingLogs(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(map[string]any)
		ok     bool
	}{
		{"honest", nil, true},
		{"other token", func(l map[string]any) { l["address"] = Address{1}.Hex() }, false},
		{"other event", func(l map[string]any) { l["topics"].([]string)[0] = word(1) }, false},
		{"other payee", func(l map[string]any) { l["topics"].([]string)[2] = word(1) }, false},
		{"too few topics", func(l map[string]any) { l["topics"] = l["topics"].([]string)[:2] }, false},
		{"removed", func(l map[string]any) { l["removed"] = true }, false},
		{"not deep enough", func(l map[string]any) { l["blockNumber"], l["blockHash"] = "0x63", word(0x63) }, false},
		{"not on the chain", func(l map[string]any) { l["blockHash"] = word(0x51) }, false},
		{"short data", func(l map[string]any) { l["data"] = "0x01" }, false},
	} {
		f := startFake(t, 7)
		f.set("eth_getLogs", func([]json.RawMessage) any { return fakeLog(c.change) })
		var in memInbox
		n, err := NewReceipts(testClient(t, nil, f.url), testEarning, &in, 3, 0).Scan(context.Background())
		if (err == nil) != c.ok || (n == 1) != c.ok || (len(in.got) == 1) != c.ok {
			t.Errorf("%s: booked %d, %v", c.name, n, err)
		}
		if c.ok && (in.got[0].Amount.Int64() != 1000 || in.got[0].LogIndex != 2 || in.marks[0].Number != 98) {
			t.Errorf("%s: %+v up to %+v", c.name, in.got[0], in.marks[0])
		}
	}
	f := startFake(t, 7)
	f.set("eth_getLogs", func([]json.RawMessage) any { return fakeLog(func(l map[string]any) { l["data"] = word(0) }) })
	var in memInbox
	if n, err := NewReceipts(testClient(t, nil, f.url), testEarning, &in, 3, 0).Scan(context.Background()); n != 0 || err != nil {
		t.Errorf("transfer of nothing: booked %d, %v", n, err)
	}
}

// TestForkWalksBack: of three marks the two newest left the chain.
func TestForkWalksBack(t *testing.T) {
	f := startFake(t, 7)
	in := memInbox{
		marks: []Mark{{90, Hash{1}}, {80, Hash{2}}, {70, Hash(big.NewInt(70).FillBytes(make([]byte, 32)))}},
		got:   []Transfer{{Block: Mark{Number: 85}}, {Block: Mark{Number: 60}}},
	}
	if _, err := NewReceipts(testClient(t, nil, f.url), testEarning, &in, 3, 0).Scan(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(in.got) != 1 || in.got[0].Block.Number != 60 || in.marks[0].Number != 98 {
		t.Errorf("after the fork: %+v, %+v", in.got, in.marks)
	}
	lagging := memInbox{marks: []Mark{{200, Hash{1}}}}
	if _, err := NewReceipts(testClient(t, nil, f.url), testEarning, &lagging, 3, 0).Scan(context.Background()); err == nil || len(lagging.marks) != 1 {
		t.Errorf("a lagging endpoint was taken for a fork: %v", err)
	}
}

// memJournal is a Journal in memory whose Sign may fail.
type memJournal struct {
	in    Intent
	fail  error
	stays bool // nobody has looked at it when it is superseded
}

func (m *memJournal) OpenIntents(context.Context) ([]Intent, uint64, error) {
	next := uint64(0)
	if m.in.State != Planned {
		next = m.in.Nonce + 1
	}
	if !m.in.State.Open() && !(m.stays && m.in.State == Superseded) {
		return nil, next, nil
	}
	return []Intent{m.in}, next, nil
}

func (m *memJournal) Settled(_ context.Context, since uint64) ([]Intent, error) {
	if s := m.in.State; s != Final && s != Reverted || m.in.Included.Block.Number < since {
		return nil, nil
	}
	return []Intent{m.in}, nil
}

func (m *memJournal) Unused(_ context.Context, nonce, upTo uint64) ([]Intent, error) {
	if s := m.in.State; s != Final && s != Reverted || m.in.Nonce < nonce || m.in.Included.Block.Number > upTo {
		return nil, nil
	}
	return []Intent{m.in}, nil
}

func (m *memJournal) Sign(_ context.Context, _ int64, nonce uint64, a Attempt) error {
	if m.fail != nil {
		return m.fail
	}
	m.in.State, m.in.Nonce, m.in.Attempts = Signed, nonce, append(m.in.Attempts, a)
	return nil
}

func (m *memJournal) Mark(_ context.Context, _ int64, s State, inc Inclusion) error {
	m.in.State, m.in.Included = s, inc
	return nil
}

type keySigner struct{ address Address }

func (k keySigner) Address() Address { return k.address }

var signerKey, _ = crypto.HexToECDSA(strings.Repeat("11", 32))

func (keySigner) SignTx(tx *types.Transaction, id *big.Int) (*types.Transaction, error) {
	return types.SignTx(tx, types.LatestSignerForChainID(id), signerKey)
}
func (keySigner) SignDigest([32]byte) ([65]byte, error) { return [65]byte{}, nil }

func TestNothingIsSentUnjournaled(t *testing.T) {
	f := startFake(t, 7)
	j := &memJournal{in: Intent{ID: 1, Payee: Address{5}, Amount: big.NewInt(10)}, fail: errors.New("disk full")}
	p := NewPayments(testClient(t, nil, f.url), keySigner{crypto.PubkeyToAddress(signerKey.PublicKey)}, j, PaymentConfig{})
	if _, err := p.Advance(context.Background()); !errors.Is(err, j.fail) {
		t.Errorf("Advance: %v, want the journal's error", err)
	}
	if n := f.count("eth_sendRawTransaction"); n != 0 {
		t.Errorf("%d transactions were sent without being journaled", n)
	}
	j.fail = nil
	if _, err := p.Advance(context.Background()); err != nil || j.in.State != Sent || f.count("eth_sendRawTransaction") != 1 {
		t.Errorf("Advance: %v, state %s, sent %d times", err, j.in.State, f.count("eth_sendRawTransaction"))
	}
}

// TestSendErrors: which answers mean that the bytes may be out. Whatever they
// are, the payment keeps its nonce.
func TestSendErrors(t *testing.T) {
	for answer, want := range map[string]State{"already known": Sent, "nonce too low: next nonce 3, tx nonce 0": Signed, "replacement transaction underpriced": Signed, "internal error": Signed} {
		f := startFake(t, 7)
		f.set("eth_sendRawTransaction", func([]json.RawMessage) any { return errors.New(answer) })
		j := &memJournal{in: Intent{ID: 1, Payee: Address{5}, Amount: big.NewInt(10)}}
		p := NewPayments(testClient(t, nil, f.url), keySigner{}, j, PaymentConfig{})
		_, err := p.Advance(context.Background())
		if j.in.State != want || (err == nil) != (want == Sent) || len(j.in.Attempts) != 1 {
			t.Errorf("%q: state %s, %v, want %s", answer, j.in.State, err, want)
		}
		if _, err = p.Advance(context.Background()); j.in.Nonce != 0 || len(j.in.Attempts) != 1 {
			t.Errorf("%q: second try has nonce %d and %d attempts, %v", answer, j.in.Nonce, len(j.in.Attempts), err)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name, method string
		answer       any
		kind         ProblemKind
		words        string
	}{
		{"token", "eth_call", word(9), NoToken, "not enough token"},
		{"gas", "eth_getBalance", "0x0", NoGas, "not enough gas"},
		{"little gas", "eth_getBalance", "0x1", NoGas, "needs"},
		{"fee", "eth_maxPriorityFeePerGas", "0x174876e80000", FeeOverLimit, "limit"},
		{"revert", "eth_estimateGas", errors.New("execution reverted: paused"), WouldRevert, "paused"},
	} {
		f := startFake(t, 7)
		f.set(c.method, func([]json.RawMessage) any { return c.answer })
		j := &memJournal{in: Intent{ID: 1, Payee: Address{5}, Amount: big.NewInt(10)}}
		out, err := NewPayments(testClient(t, nil, f.url), keySigner{}, j, PaymentConfig{}).Advance(context.Background())
		if err != nil || len(out.Problems) != 1 || out.Problems[0].Kind != c.kind || !strings.Contains(out.Problems[0].Text, c.words) || !strings.Contains(out.Problems[0].Text, "chain") {
			t.Errorf("%s: problems %+v, %v", c.name, out.Problems, err)
		}
		if j.in.State != Planned || f.count("eth_sendRawTransaction") != 0 {
			t.Errorf("%s: something was signed or sent", c.name)
		}
	}
}

func TestFees(t *testing.T) {
	if got := raised(big.NewInt(100), big.NewInt(5)); got.Int64() != 116 {
		t.Errorf("raised(100) = %s, want 116", got)
	}
	if got := raised(big.NewInt(100), big.NewInt(500)); got.Int64() != 500 {
		t.Errorf("raised to the market = %s, want 500", got)
	}
	var v view
	v.setFees(big.NewInt(10), big.NewInt(2), PaymentConfig{MinTip: big.NewInt(3), MaxFee: big.NewInt(100)})
	if v.tip.Int64() != 3 || v.feeCap.Int64() != 23 || v.feeProblem != "" {
		t.Errorf("fees: tip %s, cap %s, %q", v.tip, v.feeCap, v.feeProblem)
	}
	v.setFees(big.NewInt(60), big.NewInt(3), PaymentConfig{MinTip: new(big.Int), MaxFee: big.NewInt(100)})
	if v.feeCap.Int64() != 100 {
		t.Errorf("cap over the limit: %s", v.feeCap)
	}
	for _, c := range []struct {
		n        int64
		decimals int
		want     string
	}{{0, 18, "0"}, {1, 18, "0.000000000000000001"}, {1500, 3, "1.5"}, {-1500, 3, "-1.5"}, {7, 0, "7"}} {
		if got := formatUnits(big.NewInt(c.n), c.decimals); got != c.want {
			t.Errorf("formatUnits(%d, %d) = %s, want %s", c.n, c.decimals, got, c.want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"", "0x", "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "0xF39FD6E51AAD88F6F4CE6AB8827279CFFFB92266", "0x0000000000000000000000000000000000000000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err == nil && (a == Address{} || !strings.EqualFold(a.Hex(), s)) {
			t.Errorf("ParseAddress(%q) = %s", s, a)
		}
	})
}
