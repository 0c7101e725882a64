package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/billing/evm"
	"cuttle/billing/wallet"
)

// quietChain is an endpoint of a chain on which nothing happens but a block every
// two seconds. It is reached without a socket, so that time can be made up.
type quietChain struct {
	calls  atomic.Int64 // each of a batch
	down   atomic.Bool  // no connection is taken
	dials  atomic.Int64
	server http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	start  time.Time
	used   atomic.Int64 // nonces of any wallet
	asked  func()       // called when they are asked for, once; set while nobody asks
}

func newQuietChain() *quietChain {
	q := &quietChain{conns: make(chan net.Conn), closed: make(chan struct{}), start: time.Now()}
	q.server.Handler = http.HandlerFunc(q.serve)
	go func() { _ = q.server.Serve(q) }() // ends with Shutdown
	return q
}

func (q *quietChain) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *quietChain) Close() error   { q.once.Do(func() { close(q.closed) }); return nil }
func (q *quietChain) Addr() net.Addr { return &net.TCPAddr{} }

func (q *quietChain) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	q.dials.Add(1)
	if q.down.Load() {
		return nil, errors.New("refused")
	}
	here, there := net.Pipe()
	select {
	case q.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (q *quietChain) serve(w http.ResponseWriter, r *http.Request) {
	type call struct {
		ID     json.RawMessage
		Method string
		Params []any
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	answer := func(c call) any {
		q.calls.Add(1)
		return map[string]any{"jsonrpc": "2.0", "id": c.ID, "result": q.result(c.Method, c.Params)}
	}
	var out any
	var one call
	var many []call
	if json.Unmarshal(body, &one) == nil {
		out = answer(one)
	} else if json.Unmarshal(body, &many) == nil {
		all := make([]any, len(many))
		for i, c := range many {
			all[i] = answer(c)
		}
		out = all
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // the client may have gone
}

func (q *quietChain) result(method string, params []any) any {
	switch method {
	case "eth_chainId":
		return "0x539"
	case "eth_getCode":
		return "0x00"
	case "eth_call":
		call, _ := params[0].(map[string]any)
		if data, _ := call["input"].(string); data == "0x313ce567" { // decimals()
			return fmt.Sprintf("0x%064x", 18)
		}
		return "0x" + strings.Repeat("0", 40) + strings.Repeat("f", 24) // a balance
	case "eth_getBalance":
		return "0xde0b6b3a7640000"
	case "eth_getTransactionCount":
		if f := q.asked; f != nil {
			q.asked = nil
			f()
		}
		return fmt.Sprintf("0x%x", q.used.Load())
	case "eth_maxPriorityFeePerGas":
		return "0x1"
	case "eth_getLogs":
		return []any{}
	case "eth_getBlockByNumber":
		number := fmt.Sprintf("0x%x", 1000+int64(time.Since(q.start)/(2*time.Second)))
		if s, ok := params[0].(string); ok && strings.HasPrefix(s, "0x") {
			number = s
		}
		return map[string]any{"number": number, "hash": "0x" + strings.Repeat("0", 66-len(number)) + number[2:], "timestamp": fmt.Sprintf("0x%x", time.Now().Unix()), "baseFeePerGas": "0x1"}
	}
	return nil
}

// relayHour runs a relay for an hour: a neighbor owes it money, and is served.
// Each minute does is called, which takes less.
func relayHour(t *testing.T, does func(relay *Book, q *quietChain)) (q *quietChain) {
	t.Helper()
	dir := t.TempDir()
	wallets := make([]*wallet.Wallet, 2)
	for i := range wallets {
		w, err := wallet.Create(filepath.Join(dir, fmt.Sprintf("wallet%d", i)), "pw", true)
		if err != nil {
			t.Fatal(err)
		}
		wallets[i] = w
	}
	synctest.Test(t, func(t *testing.T) {
		q = newQuietChain()
		client, err := evm.NewClient(evm.ClientConfig{Endpoints: []string{"http://chain"}, ChainID: 1337, Token: evm.Address{7}, DialContext: q.dial})
		if err != nil {
			t.Fatal(err)
		}
		books := make([]*Book, len(wallets))
		for i, w := range wallets {
			cfg := Config{Path: filepath.Join(dir, fmt.Sprintf("ledger%d", i)), Self: testID(byte(i + 1)), Credit: 1 << 60}                            //nolint:gosec // 1 or 2
			cfg.Direct = &DirectConfig{Client: client, Wallet: w, Earning: evm.Address{byte(i + 1), 9}, Payments: evm.PaymentConfig{Confirmations: 3}} //nolint:gosec // likewise
			if books[i], err = Open(cfg); err != nil {
				t.Fatal(err)
			}
		}
		l := join(t, books[0], books[1])
		l.run()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- books[1].Run(ctx) }() // ends with cancel
		l.ends[0].send(WePay, 1, 20*1024)          // below what anybody pays at once
		eventually(t, "it is owed", func() bool {
			books[0].tickAll()
			books[1].tickAll()
			return books[1].known()[0].receivable.Load() > 0
		})
		before := q.calls.Load()
		for range 60 {
			end := time.Now().Add(time.Minute)
			does(books[1], q)
			time.Sleep(time.Until(end))
		}
		q.calls.Add(-before)
		cancel()
		l.cut()
		client.Close()
		if err := errors.Join(<-ended, books[0].Close(), books[1].Close(), q.server.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return q
}

// TestBudget: in an hour in which nobody waits for the chain a relay asks little
// of it, and goes on asking.
func TestBudget(t *testing.T) {
	got := relayHour(t, func(*Book, *quietChain) {}).calls.Load()
	t.Logf("%d calls in an hour", got)
	if got > 500 || got < 100 {
		t.Errorf("a relay with a neighbor that owes asks %d times in an hour, want 100 to 500", got)
	}
}

// TestUrgedWithinBudget: a neighbor that urges all the time gets a few looks at
// once, and then no more than about as many again as there are without.
func TestUrgedWithinBudget(t *testing.T) {
	got := relayHour(t, func(b *Book, _ *quietChain) {
		for range 50 {
			b.urge()
			time.Sleep(time.Second)
		}
	}).calls.Load()
	t.Logf("%d calls in an hour", got)
	if got > 1000 {
		t.Errorf("a neighbor makes a relay ask %d times in an hour, want at most 1000", got)
	}
}

// TestUrgedWhileDown: urging does not have an endpoint that is down asked more
// often than once a minute or so.
func TestUrgedWhileDown(t *testing.T) {
	var before int64
	q := relayHour(t, func(b *Book, q *quietChain) {
		if before == 0 {
			time.Sleep(5 * time.Second) // what is under way ends
			b.onChain().cfg.Client.Close()
			q.down.Store(true)
			before = q.dials.Load()
		}
		for range 50 {
			b.urge()
			time.Sleep(time.Second)
		}
	})
	got := q.dials.Load() - before
	t.Logf("%d connections in an hour", got)
	if got > 1500 || got < 100 { // each look tries a few times
		t.Errorf("an endpoint that is down is asked %d times in an hour, want 100 to 1500", got)
	}
}
