package chaintest

import (
	"context"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"

	"cuttle/billing/evm"
	"cuttle/billing/evm/hub"
)

// TestHubGas says what the hub's calls cost on a real chain, and fails when one
// gets a tenth dearer than docs/decisions/0014-channel-hub.md says.
func TestHubGas(t *testing.T) {
	c := startChain(t)
	h := hub.NewHub()
	used := func(what string, most uint64, key actor, to *common.Address, data []byte) common.Address {
		t.Helper()
		hash := c.send(key.key, to, nil, data)
		r := c.mined(hash)
		t.Logf("%-34s %7d gas", what, r.GasUsed)
		if r.Status != 1 || r.GasUsed > most {
			t.Errorf("%s: status %d, %d gas, want at most %d", what, r.Status, r.GasUsed, most)
		}
		return r.ContractAddress
	}
	rich := actor{c.key, crypto.PubkeyToAddress(c.key.PublicKey)}
	deploy := c.sendGas(3_000_000, append(common.FromHex(hub.HubMetaData.Bin), h.PackConstructor(c.token, big.NewInt(notice))...))
	r := c.mined(deploy)
	t.Logf("%-34s %7d gas", "deploy", r.GasUsed)
	at := r.ContractAddress
	payee, signer := newActor(200), newActor(201)
	nonce := uint64(2) // of the rich key: it has deployed the token and the hub
	var claims []hub.HubClaim
	for i := range 11 {
		p := newActor(100 + i)
		c.mined(c.sendAt(c.key, nonce, 2, &p.addr, ether(1), nil))
		c.mined(c.sendAt(c.key, nonce+1, 2, &c.token, nil, c.binding.PackTransfer(p.addr, ether(10))))
		nonce += 2
		c.mined(c.sendAt(p.key, 0, 2, &c.token, nil, c.binding.PackApprove(at, ether(100))))
		used("open", 124_000, p, &at, h.PackOpen(payee.addr, signer.addr, ether(1)))
		sig, err := evm.Voucher{ChainID: chainID, Hub: at, Payer: p.addr, Payee: payee.addr, Epoch: 1, Cumulative: big.NewInt(1000)}.Sign(signer)
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, hub.HubClaim{Payer: p.addr, Payee: payee.addr, Cumulative: big.NewInt(1000), Sig: sig[:]})
	}
	used("cash one, payee new to the token", 84_500, rich, &at, h.PackCash(claims[:1]))
	used("cash ten", 279_000, rich, &at, h.PackCash(claims[1:]))
	used("cash ten again", 112_000, rich, &at, h.PackCash(claims[1:]))
	p := newActor(100)
	used("top up", 62_500, p, &at, h.PackTopUp(payee.addr, ether(1)))
	used("request close", 33_200, p, &at, h.PackRequestClose(payee.addr))
	c.mined(c.send(c.key, &payee.addr, ether(1), nil))
	used("close by payee", 56_200, payee, &at, h.PackCloseByPayee(p.addr))
}

// mined makes blocks until one holds the transaction: the pool may not have been
// ready for the first.
func (c *devChain) mined(h common.Hash) (r *types.Receipt) {
	c.tb.Helper()
	eventually(c.tb, "a block holds it", func() (err error) {
		c.commit(1)
		r, err = c.backend.Client().TransactionReceipt(context.Background(), h)
		return err
	})
	return r
}

// BenchmarkVoucher signs and verifies.
func BenchmarkVoucher(b *testing.B) {
	signer := newActor(1)
	v := evm.Voucher{ChainID: chainID, Hub: common.Address{1}, Payer: common.Address{2}, Payee: common.Address{3}, Epoch: 1, Cumulative: ether(1)}
	sig, err := v.Sign(signer)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Sign(signer); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := v.Verify(signer.addr, sig); err != nil {
				b.Fatal(err)
			}
		}
	})
}
