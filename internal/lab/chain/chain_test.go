package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"cuttle/billing/evm/erc20"
	"cuttle/billing/evm/hub"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/ethclient"
)

// freePort finds a port that nobody listens on, below those that the system gives
// to connections.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err == nil {
			_ = ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func fund(t *testing.T, url, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(url+"/fund", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatalf("post: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	return resp.StatusCode, string(text)
}

func TestChainServesAndFunds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	rpc, faucet := freePort(t), freePort(t)
	for faucet == rpc {
		faucet = freePort(t)
	}
	go func() { ended <- run(ctx, rpc, faucet, 4711, 50*time.Millisecond, w) }() // ends with ctx
	var line ready
	if err := json.NewDecoder(r).Decode(&line); err != nil {
		t.Fatalf("read the ready line: %v", err)
	}
	client, err := ethclient.DialContext(ctx, line.RPC)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer client.Close()
	if id, err := client.ChainID(ctx); err != nil || id.Int64() != 4711 {
		t.Errorf("chain id = %v, %v; want 4711", id, err)
	}
	who := common.HexToAddress("0x00000000000000000000000000000000000000aa")
	if code, text := fund(t, line.Faucet, `{"address":"`+who.Hex()+`","gas":"1000","token":"500"}`); code != http.StatusOK {
		t.Fatalf("fund = %d %q, want 200", code, text)
	}
	if got, err := client.BalanceAt(ctx, who, nil); err != nil || got.Int64() != 1000 {
		t.Errorf("gas of the funded = %v, %v; want 1000", got, err)
	}
	token := erc20.NewToken()
	out, err := client.CallContract(ctx, ethereum.CallMsg{To: &line.Token, Data: token.PackBalanceOf(who)}, nil)
	if err != nil || new(big.Int).SetBytes(out).Int64() != 500 {
		t.Errorf("token of the funded = %x, %v; want 500", out, err)
	}
	if code, err := client.CodeAt(ctx, line.Hub, nil); err != nil {
		t.Errorf("read the hub: %v", err)
	} else if token, notice, err := hub.Check(code); err != nil || token != line.Token || notice != uint64(hubNotice.Seconds()) {
		t.Errorf("hub is for %s with a notice of %d s, %v", token, notice, err)
	}
	for _, bad := range []string{``, `{`, `{"address":"0x12"}`, `{"address":"` + who.Hex() + `","gas":"-1"}`, `{"address":"` + who.Hex() + `","gas":"1.5"}`, `{"nonsense":1}`} {
		if code, _ := fund(t, line.Faucet, bad); code != http.StatusBadRequest {
			t.Errorf("fund(%q) = %d, want 400", bad, code)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run ended with %v, want nil", err)
	}
	if _, err := http.Post(line.RPC, "application/json", bytes.NewReader(nil)); err == nil {
		t.Error("the chain still answers after its end")
	}
}
