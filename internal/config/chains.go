package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Chain is what is known of a chain that MASQ's token is on. Confirmations count
// the including block; a block of a chain with a tag has to be both deep enough
// and no newer than the tagged one.
type Chain struct {
	Name          string
	ID            uint64 // 0: the configuration's, a private chain
	Token         string // EIP-55; empty: the configuration's
	FromBlock     uint64 // the token's first
	Tag           string // block tag of JSON-RPC that names the newest block that stays; empty: none
	Confirmations uint64
	Deeper        uint64        // confirmations where an endpoint does not know the tag
	TipFloor      int64         // gwei that the chain asks at least
	MaxHeadAge    time.Duration // an endpoint whose newest block is older is not believed; 0: any age
}

var chains = []Chain{
	{"polygon", 137, "0xEe9A352F6aAc4aF1A5B9f467F6a93E0ffBe9Dd35", 14_863_650, "finalized", 64, 256, 25, 2 * time.Minute},
	{"polygon-amoy", 80002, "0xd98c3EBd6B7f9b7cDa2449eCac00d1E5F47a8193", 5_323_366, "finalized", 64, 256, 25, 2 * time.Minute},
	{"base", 8453, "0x45D9C101a3870Ca5024582fd788F4E1e8F7971c3", 19_711_235, "safe", 10, 64, 0, 2 * time.Minute},
	{"base-sepolia", 84532, "0x898E1cE720084A902Bc37dD822eD6D6a5F027E10", 14_732_730, "safe", 10, 64, 0, 2 * time.Minute},
	{"ethereum", 1, "0x06F3C323f0238c72BF35011071f2b5B7F43A054c", 11_170_708, "finalized", 12, 64, 0, 2 * time.Minute},
	{"dev", 0, "", 0, "", 3, 3, 0, 0},
}

// ChainProfile is what is known of the configured chain; one of an unknown chain has
// nothing but its id, token and depth.
func (b *Billing) ChainProfile() Chain {
	for _, c := range chains {
		if c.ID != 0 && c.ID == b.ChainID {
			if !strings.EqualFold(c.Token, b.Token) {
				c.FromBlock = 0 // another token may be older
			}
			return c
		}
	}
	return Chain{Name: "dev", ID: b.ChainID, Token: b.Token, Confirmations: b.Confirmations}
}

// fill takes from the named chain what the file has left as it is by default.
func (b *Billing) fill(defaults *Billing) error {
	if b.Chain == "" {
		return nil
	}
	i := slices.IndexFunc(chains, func(c Chain) bool { return c.Name == b.Chain })
	if i < 0 {
		var names []string
		for _, c := range chains {
			names = append(names, c.Name)
		}
		return fmt.Errorf("billing.chain %q: want one of %s, or empty", b.Chain, strings.Join(names, ", "))
	}
	c := &chains[i]
	switch {
	case c.ID == 0 && (b.ChainID == defaults.ChainID || b.Token == defaults.Token):
		return fmt.Errorf("billing.chain %q needs billing.chain_id and billing.token", b.Chain)
	case c.ID != 0 && b.ChainID != c.ID && b.ChainID != defaults.ChainID:
		return fmt.Errorf("billing.chain_id %d is not that of billing.chain %q, which is %d: leave one of them out", b.ChainID, b.Chain, c.ID)
	case c.ID != 0:
		b.ChainID = c.ID
	}
	if b.Token == defaults.Token && c.Token != "" {
		b.Token = c.Token
	}
	if b.Confirmations == defaults.Confirmations {
		b.Confirmations = c.Confirmations
	}
	return nil
}
