package config

import (
	"strings"
	"testing"
)

// TestChain names each chain and looks at what the configuration becomes.
func TestChain(t *testing.T) {
	const paid = "[billing]\nmode = \"paid\"\nrpc = [\"http://127.0.0.1:1\"]\n"
	for _, c := range []struct {
		extra         string
		id            uint64
		token         string
		confirmations uint64
		tag           string
	}{
		{"", 137, "0xEe9A352F6aAc4aF1A5B9f467F6a93E0ffBe9Dd35", 64, "finalized"},
		{"chain = \"polygon\"", 137, "0xEe9A352F6aAc4aF1A5B9f467F6a93E0ffBe9Dd35", 64, "finalized"},
		{"chain = \"polygon-amoy\"", 80002, "0xd98c3EBd6B7f9b7cDa2449eCac00d1E5F47a8193", 64, "finalized"},
		{"chain = \"base\"", 8453, "0x45D9C101a3870Ca5024582fd788F4E1e8F7971c3", 10, "safe"},
		{"chain = \"base-sepolia\"\nconfirmations = 20", 84532, "0x898E1cE720084A902Bc37dD822eD6D6a5F027E10", 20, "safe"},
		{"chain = \"ethereum\"\ntoken = \"0x1\"", 1, "0x1", 12, "finalized"},
		{"chain = \"dev\"\nchain_id = 1337\ntoken = \"0x2\"", 1337, "0x2", 3, ""},
	} {
		got, err := Parse([]byte(paid + c.extra))
		if err != nil {
			t.Errorf("%q: %v", c.extra, err)
			continue
		}
		b := &got.Billing
		if b.ChainID != c.id || b.Token != c.token || b.Confirmations != c.confirmations || b.ChainProfile().Tag != c.tag {
			t.Errorf("%q: chain %d, token %s, %d confirmations, tag %q; want %+v", c.extra, b.ChainID, b.Token, b.Confirmations, b.ChainProfile().Tag, c)
		}
	}
	for extra, want := range map[string]string{
		"chain = \"bitcoin\"":               "want one of polygon",
		"chain = \"base\"\nchain_id = 1":    "leave one of them out",
		"chain = \"dev\"":                   "needs billing.chain_id",
		"hub = \"0x12\"\nwindow = \"lots\"": "billing.window",
	} {
		if _, err := Parse([]byte(paid + extra)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", extra, err, want)
		}
	}
}
