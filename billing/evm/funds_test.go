package evm

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
)

// TestFundsOfTwo: one endpoint that calls all wallets empty, or fees huge, is not
// believed beside another one; alone it is.
func TestFundsOfTwo(t *testing.T) {
	poor, dear, honest := startFake(t, 7), startFake(t, 7), startFake(t, 7)
	poor.set("eth_call", always(word(0)))
	poor.set("eth_getBalance", always("0x0"))
	dear.set("eth_getBlockByNumber", func(p []json.RawMessage) any {
		b, ok := fakeBlock(p).(map[string]any)
		if ok {
			b["baseFeePerGas"] = "0xffffffffffffffffffff"
		}
		return b
	})
	wallets := make([]Address, fundsBatch+1)
	for _, c := range []struct {
		name       string
		urls       []string
		token, gas int64
		fee        string
		none       bool
	}{
		{name: "empty, honest", urls: []string{poor.url, honest.url}, token: 18, gas: 1e18, fee: "1000000000"},
		{name: "honest, empty", urls: []string{honest.url, poor.url}, token: 18, gas: 1e18, fee: "1000000000"},
		{name: "dear, honest", urls: []string{dear.url, honest.url}, token: 18, gas: 1e18, fee: "1000000000"},
		{name: "dear, gone, honest", urls: []string{dear.url, "http://127.0.0.1:1", honest.url}, token: 18, gas: 1e18, fee: "1000000000"},
		{name: "empty, gone", urls: []string{poor.url, "http://127.0.0.1:1"}, fee: "1000000000"},
		{name: "dear alone", urls: []string{dear.url}, token: 18, gas: 1e18, fee: "1208925819614629174706175"},
		{name: "nobody", urls: []string{"http://127.0.0.1:1"}, none: true},
	} {
		held, fee, err := testClient(t, nil, c.urls...).Funds(context.Background(), wallets, 90)
		if c.none {
			if !errors.Is(err, ErrNoEndpoint) {
				t.Errorf("%s: %v, want ErrNoEndpoint", c.name, err)
			}
			continue
		}
		if err != nil || len(held) != len(wallets) || fee.String() != c.fee {
			t.Errorf("%s: %d wallets, fee %v, %v; want a fee of %s", c.name, len(held), fee, err, c.fee)
			continue
		}
		for i, b := range held {
			if b.Token.Int64() != c.token || b.Gas.Int64() != c.gas {
				t.Errorf("%s: wallet %d holds %v and %v, want %d and %d", c.name, i, b.Token, b.Gas, c.token, c.gas)
			}
		}
	}
	asked := honest.count("eth_call")
	if _, _, err := testClient(t, nil, poor.url, dear.url, honest.url).Funds(context.Background(), wallets, 0); err != nil || honest.count("eth_call") != asked {
		t.Errorf("a third is asked although two have answered, or %v", err)
	}
}
