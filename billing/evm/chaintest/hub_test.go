package chaintest

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/math"
	"github.com/ethereum/go-ethereum/core/rawdb"
	"github.com/ethereum/go-ethereum/core/state"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/core/vm/runtime"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/params"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"
	"github.com/ethereum/go-ethereum/triedb"

	"cuttle/billing/evm"
	"cuttle/billing/evm/erc20"
	"cuttle/billing/evm/hub"
)

const (
	notice  = 72 * 3600 // seconds
	million = 1_000_000
)

// actor is an account with a key.
type actor struct {
	key  *ecdsa.PrivateKey
	addr common.Address
}

// SignDigest signs as a wallet does.
func (a actor) SignDigest(d [32]byte) ([65]byte, error) {
	raw, err := crypto.Sign(d[:], a.key)
	if err != nil {
		return [65]byte{}, err
	}
	sig := [65]byte(raw)
	sig[64] += 27
	return sig, nil
}

func newActor(n int) actor {
	key, err := crypto.ToECDSA(crypto.Keccak256(fmt.Appendf(nil, "actor %d", n)))
	if err != nil {
		panic(err)
	}
	return actor{key, crypto.PubkeyToAddress(key.PublicKey)}
}

// machine is geth's EVM with the token and the hub in memory, no blocks.
type machine struct {
	tb    testing.TB
	cfg   *runtime.Config
	token common.Address
	hub   common.Address
	t     *erc20.Token
	h     *hub.Hub
}

func newMachine(tb testing.TB, holder common.Address) *machine {
	tb.Helper()
	db, err := state.New(types.EmptyRootHash, state.NewDatabase(triedb.NewDatabase(rawdb.NewMemoryDatabase(), nil), nil))
	if err != nil {
		tb.Fatal(err)
	}
	rules := *params.AllDevChainProtocolChanges
	rules.OsakaTime, rules.BogotaTime = nil, nil
	m := &machine{tb: tb, t: erc20.NewToken(), h: hub.NewHub(), cfg: &runtime.Config{
		ChainConfig: &rules, State: db, Time: 1_800_000_000, GasLimit: 30 * million, BlockNumber: big.NewInt(1), Origin: holder, Random: &common.Hash{},
		Difficulty: new(big.Int), BaseFee: new(big.Int),
	}}
	m.token = m.create(append(common.FromHex(erc20.TokenMetaData.Bin), m.t.PackConstructor(holder, ether(million))...))
	m.hub = m.create(append(common.FromHex(hub.HubMetaData.Bin), m.h.PackConstructor(m.token, big.NewInt(notice))...))
	return m
}

func (m *machine) create(code []byte) common.Address {
	m.tb.Helper()
	_, at, _, err := runtime.Create(code, m.cfg)
	if err != nil {
		m.tb.Fatalf("create: %v", err)
	}
	return at
}

// call sends a transaction; its error is the contract's, by name.
func (m *machine) call(from, to common.Address, data []byte) ([]byte, error) {
	m.cfg.Origin = from
	out, _, err := runtime.Call(to, data, m.cfg)
	m.cfg.State.Finalise(m.cfg.ChainConfig.Rules(m.cfg.BlockNumber, true, m.cfg.Time)) // a transaction ends: transient storage is empty again
	if err == nil {
		return out, nil
	}
	if e, err2 := m.h.UnpackError(out); err2 == nil {
		return nil, fmt.Errorf("%T", e)
	}
	return nil, err
}

func (m *machine) must(from, to common.Address, data []byte) []byte {
	m.tb.Helper()
	out, err := m.call(from, to, data)
	if err != nil {
		m.tb.Fatalf("call: %v", err)
	}
	return out
}

// fails makes a call that the hub must refuse with an error of that name.
func (m *machine) fails(what, name string, from common.Address, data []byte) {
	m.tb.Helper()
	if _, err := m.call(from, m.hub, data); err == nil || err.Error() != "*hub.Hub"+name {
		m.tb.Errorf("%s: %v, want %s", what, err, name)
	}
}

func (m *machine) balance(a common.Address) int64 {
	m.tb.Helper()
	return new(big.Int).SetBytes(m.must(a, m.token, m.t.PackBalanceOf(a))).Int64()
}

func (m *machine) channel(payer, payee common.Address) hub.ChannelsOutput {
	m.tb.Helper()
	c, err := m.h.UnpackChannels(m.must(payer, m.hub, m.h.PackChannels(payer, payee)))
	if err != nil {
		m.tb.Fatal(err)
	}
	return c
}

func (m *machine) voucher(payer, payee common.Address, epoch uint64, sum int64) evm.Voucher {
	return evm.Voucher{ChainID: m.cfg.ChainConfig.ChainID.Uint64(), Hub: m.hub, Payer: payer, Payee: payee, Epoch: epoch, Cumulative: big.NewInt(sum)}
}

func (m *machine) claim(signer actor, v evm.Voucher) hub.HubClaim {
	m.tb.Helper()
	sig, err := v.Sign(signer)
	if err != nil {
		m.tb.Fatal(err)
	}
	return hub.HubClaim{Payer: v.Payer, Payee: v.Payee, Cumulative: v.Cumulative, Sig: sig[:]}
}

// fund gives an account tokens and lets the hub take them.
func (m *machine) fund(rich, a common.Address, n int64) {
	m.must(rich, m.token, m.t.PackTransfer(a, big.NewInt(n)))
	m.must(a, m.token, m.t.PackApprove(m.hub, ether(million)))
}

// TestHubLife walks a channel through everything that it can go through.
func TestHubLife(t *testing.T) {
	rich, payer, payee, signer, other := newActor(0), newActor(1), newActor(2), newActor(3), newActor(4)
	m := newMachine(t, rich.addr)
	m.fund(rich.addr, payer.addr, 1000)
	token, n, err := hub.Check(m.cfg.State.GetCode(m.hub))
	if err != nil || token != m.token || n != notice {
		t.Fatalf("Check of the deployed hub: %v, %d, %v", token, n, err)
	}
	m.fails("no payee", "BadParty", payer.addr, m.h.PackOpen(common.Address{}, signer.addr, big.NewInt(1)))
	m.fails("to itself", "BadParty", payer.addr, m.h.PackOpen(payer.addr, signer.addr, big.NewInt(1)))
	m.fails("to the hub", "BadParty", payer.addr, m.h.PackOpen(m.hub, signer.addr, big.NewInt(1)))
	m.fails("to the token", "BadParty", payer.addr, m.h.PackOpen(m.token, signer.addr, big.NewInt(1)))
	m.fails("no signer", "BadParty", payer.addr, m.h.PackOpen(payee.addr, common.Address{}, big.NewInt(1)))
	m.fails("nothing", "NothingDeposited", payer.addr, m.h.PackOpen(payee.addr, signer.addr, new(big.Int)))
	m.fails("too much", "TokenRefused", payer.addr, m.h.PackOpen(payee.addr, signer.addr, big.NewInt(1001)))
	m.fails("top up nothing open", "NotOpen", payer.addr, m.h.PackTopUp(payee.addr, big.NewInt(1)))
	m.must(payer.addr, m.hub, m.h.PackOpen(payee.addr, signer.addr, big.NewInt(600)))
	m.fails("twice", "AlreadyOpen", payer.addr, m.h.PackOpen(payee.addr, signer.addr, big.NewInt(1)))

	pay := func(c ...hub.HubClaim) int64 {
		t.Helper()
		sum, err := m.h.UnpackCash(m.must(other.addr, m.hub, m.h.PackCash(c)))
		if err != nil {
			t.Fatal(err)
		}
		return sum.Int64()
	}
	want := func(what string, got, want int64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	v := func(epoch uint64, sum int64) evm.Voucher { return m.voucher(payer.addr, payee.addr, epoch, sum) }
	hundred := m.claim(signer, v(1, 100))
	want("cash 100", pay(hundred), 100)
	want("again", pay(hundred), 0)
	want("older", pay(m.claim(signer, v(1, 60))), 0)
	want("to 150, and a replay beside", pay(hundred, m.claim(signer, v(1, 150)), hundred), 50)
	want("signed by the payer's wallet", pay(m.claim(payer, v(1, 400))), 0)
	want("of another epoch", pay(m.claim(signer, v(2, 400))), 0)
	want("payee holds", m.balance(payee.addr), 150)
	for name, bad := range forged(m.claim(signer, v(1, 400)).Sig) {
		c := m.claim(signer, v(1, 400))
		c.Sig = bad
		want("signature with "+name, pay(c), 0)
	}
	c := m.claim(signer, v(1, 400))
	c.Payee = other.addr
	want("redirected", pay(c), 0)

	m.fails("close without notice", "NoticeRuns", payer.addr, m.h.PackClose(payee.addr))
	m.must(payer.addr, m.hub, m.h.PackRequestClose(payee.addr))
	m.fails("notice twice", "NoticeRuns", payer.addr, m.h.PackRequestClose(payee.addr))
	m.cfg.Time += notice - 1
	m.fails("a second early", "NoticeRuns", payer.addr, m.h.PackClose(payee.addr))
	want("cash during the notice", pay(m.claim(signer, v(1, 200))), 50)
	m.must(payer.addr, m.hub, m.h.PackTopUp(payee.addr, big.NewInt(100)))
	m.cfg.Time++
	m.fails("topped up since", "NoticeRuns", payer.addr, m.h.PackClose(payee.addr))

	want("overdraft pays what is there", pay(m.claim(signer, v(1, 10_000))), 500)
	m.must(payer.addr, m.hub, m.h.PackTopUp(payee.addr, big.NewInt(70)))
	want("and the rest when there is more", pay(m.claim(signer, v(1, 10_000))), 70)
	m.must(payer.addr, m.hub, m.h.PackTopUp(payee.addr, big.NewInt(30)))
	m.fails("somebody else's channel", "NotOpen", other.addr, m.h.PackCloseByPayee(payer.addr))
	m.must(payee.addr, m.hub, m.h.PackCloseByPayee(payer.addr))
	want("payer has the rest back", m.balance(payer.addr), 230)
	want("cash on a closed channel", pay(m.claim(signer, v(1, 10_000))), 0)

	m.must(payer.addr, m.hub, m.h.PackOpen(payee.addr, signer.addr, big.NewInt(200)))
	want("a voucher of the last epoch", pay(m.claim(signer, v(1, 10_000))), 0)
	closing := func(a actor, sum int64) []byte {
		out := m.must(a.addr, m.hub, m.h.PackCloseDigest(payer.addr, payee.addr, 2, big.NewInt(sum)))
		sig, err := a.SignDigest([32]byte(out))
		if err != nil {
			t.Fatal(err)
		}
		return sig[:]
	}
	m.fails("one signature", "BadSignature", other.addr, m.h.PackCloseTogether(payer.addr, payee.addr, big.NewInt(40), closing(signer, 40), closing(signer, 40)))
	m.fails("another sum", "BadSignature", other.addr, m.h.PackCloseTogether(payer.addr, payee.addr, big.NewInt(40), closing(signer, 41), closing(payee, 40)))
	voucher := m.claim(signer, v(2, 40)).Sig
	m.fails("a voucher for a close", "BadSignature", other.addr, m.h.PackCloseTogether(payer.addr, payee.addr, big.NewInt(40), voucher, closing(payee, 40)))
	m.must(other.addr, m.hub, m.h.PackCloseTogether(payer.addr, payee.addr, big.NewInt(40), closing(signer, 40), closing(payee, 40)))
	want("payee in the end", m.balance(payee.addr), 150+50+500+70+40)
	want("payer in the end", m.balance(payer.addr), 1000-150-50-500-70-40)
	want("hub in the end", m.balance(m.hub), 0)

	m.must(payer.addr, m.hub, m.h.PackOpen(payee.addr, signer.addr, big.NewInt(10)))
	m.must(payer.addr, m.hub, m.h.PackRequestClose(payee.addr))
	m.cfg.Time += notice
	m.must(payer.addr, m.hub, m.h.PackClose(payee.addr))
	want("hub after the close", m.balance(m.hub), 0)
}

// forged makes signatures that are not the one form that counts.
func forged(sig []byte) map[string][]byte {
	clone := func(change func(b []byte)) []byte {
		b := bytes.Clone(sig)
		change(b)
		return b
	}
	return map[string][]byte{
		"nothing":    nil,
		"64 bytes":   sig[:64],
		"66 bytes":   append(bytes.Clone(sig), 0),
		"all zero":   make([]byte, 65),
		"v 0 or 1":   clone(func(b []byte) { b[64] -= 27 }),
		"v 29":       clone(func(b []byte) { b[64] = 29 }),
		"other v":    clone(func(b []byte) { b[64] = 27 + 28 - b[64] }),
		"bit of r":   clone(func(b []byte) { b[5] ^= 1 }),
		"upper half": highS(sig),
	}
}

func highS(sig []byte) []byte {
	b := bytes.Clone(sig)
	s := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:64]))
	s.FillBytes(b[32:64])
	b[64] = 27 + 28 - b[64]
	return b
}

// TestVoucherIsEIP712 compares three encoders: ours, go-ethereum's, the hub's.
func TestVoucherIsEIP712(t *testing.T) {
	rich, payer, payee, signer := newActor(0), newActor(1), newActor(2), newActor(3)
	m := newMachine(t, rich.addr)
	max128 := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))
	for _, sum := range []*big.Int{new(big.Int), big.NewInt(1), ether(37_500_000), max128} {
		v := m.voucher(payer.addr, payee.addr, 1<<47, 0)
		v.Cumulative = sum
		want, _, err := apitypes.TypedDataAndHash(apitypes.TypedData{
			Types: apitypes.Types{
				"EIP712Domain": {{Name: "name", Type: "string"}, {Name: "version", Type: "string"}, {Name: "chainId", Type: "uint256"}, {Name: "verifyingContract", Type: "address"}},
				"Voucher":      {{Name: "payer", Type: "address"}, {Name: "payee", Type: "address"}, {Name: "epoch", Type: "uint64"}, {Name: "cumulative", Type: "uint128"}},
			},
			PrimaryType: "Voucher",
			Domain:      apitypes.TypedDataDomain{Name: "Cuttle Hub", Version: "1", ChainId: math.NewHexOrDecimal256(int64(v.ChainID)), VerifyingContract: m.hub.Hex()}, //nolint:gosec // small
			Message:     apitypes.TypedDataMessage{"payer": payer.addr.Hex(), "payee": payee.addr.Hex(), "epoch": fmt.Sprint(v.Epoch), "cumulative": sum.String()},
		})
		if err != nil {
			t.Fatal(err)
		}
		onChain := m.must(payer.addr, m.hub, m.h.PackDigest(payer.addr, payee.addr, v.Epoch, sum))
		if got := v.Digest(); !bytes.Equal(got[:], want) || !bytes.Equal(got[:], onChain) {
			t.Errorf("digest for %s is %x, go-ethereum says %x, the hub %x", sum, got, want, onChain)
		}
		sig, err := v.Sign(signer)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Verify(signer.addr, sig); err != nil {
			t.Errorf("good voucher: %v", err)
		}
		for name, bad := range forged(sig[:]) {
			if len(bad) == 65 && v.Verify(signer.addr, [65]byte(bad)) == nil {
				t.Errorf("signature with %s accepted", name)
			}
		}
		v.Epoch++
		if v.Verify(signer.addr, sig) == nil || v.Verify(common.Address{}, sig) == nil {
			t.Error("voucher of another epoch, or of nobody, accepted")
		}
	}
	for _, bad := range []*big.Int{nil, big.NewInt(-1), new(big.Int).Add(max128, big.NewInt(1))} {
		v := m.voucher(payer.addr, payee.addr, 1, 0)
		v.Cumulative = bad
		if _, err := v.Sign(signer); !errors.Is(err, evm.ErrBadVoucher) {
			t.Errorf("sum %v signed: %v", bad, err)
		}
	}
}

// model is the hub in plain words, for one payer and payee.
type model struct {
	deposit, paid, epoch int64
	closeAt              uint64
	open                 bool
}

// play does random things to one machine and to models of its channels, and
// compares both after each: balances, channels, and that the hub holds exactly
// what is locked in it.
func play(t testing.TB, steps []byte) {
	rich := newActor(0)
	m := newMachine(t, rich.addr)
	signer, stranger := newActor(9), newActor(8)
	parties := []actor{newActor(1), newActor(2), newActor(3)}
	const start = 1000
	held := map[common.Address]int64{}
	models := map[[2]int]*model{}
	for i, p := range parties {
		m.fund(rich.addr, p.addr, start)
		held[p.addr] = start
		for j := range parties {
			models[[2]int{i, j}] = &model{}
		}
	}
	for len(steps) >= 4 {
		op, pair, size, extra := steps[0]%9, steps[1], int64(steps[2]), steps[3]
		steps = steps[4:]
		i, j := int(pair)%3, int(pair/3)%3
		from, to, c := parties[i].addr, parties[j].addr, models[[2]int{i, j}]
		var data []byte
		sender, ok := from, false
		switch op {
		case 0:
			data = m.h.PackOpen(to, signer.addr, big.NewInt(size))
			if ok = i != j && !c.open && size > 0 && held[from] >= size; ok {
				*c = model{deposit: size, epoch: c.epoch + 1, open: true}
				held[from] -= size
			}
		case 1:
			data = m.h.PackTopUp(to, big.NewInt(size))
			if ok = c.open && size > 0 && held[from] >= size; ok {
				c.deposit += size
				c.closeAt = 0
				held[from] -= size
			}
		case 2, 3, 4: // one to three claims, of this pair and of others, some of them bad
			sender, ok = stranger.addr, true
			var claims []hub.HubClaim
			for k := range int(op) - 1 {
				at := [2]int{i, (j + k) % 3}
				c := models[at]
				who, epoch := signer, c.epoch
				switch extra >> (2 * k) & 3 {
				case 1:
					who = stranger
				case 2:
					epoch++
				}
				sum := size * int64(k+1)
				v := m.voucher(parties[at[0]].addr, parties[at[1]].addr, uint64(epoch), sum) //nolint:gosec // small
				claims = append(claims, m.claim(who, v))
				if c.open && who == signer && epoch == c.epoch && sum > c.paid {
					due := min(sum-c.paid, c.deposit)
					c.deposit -= due
					c.paid += due
					held[v.Payee] += due
				}
			}
			data = m.h.PackCash(claims)
		case 5:
			data = m.h.PackRequestClose(to)
			if ok = c.open && c.closeAt == 0; ok {
				c.closeAt = m.cfg.Time + notice
			}
		case 6:
			data = m.h.PackClose(to)
			if ok = c.open && c.closeAt != 0 && m.cfg.Time >= c.closeAt; ok {
				held[from] += c.deposit
				*c = model{paid: c.paid, epoch: c.epoch}
			}
		case 7:
			sender, data = to, m.h.PackCloseByPayee(from)
			if ok = c.open; ok {
				held[from] += c.deposit
				*c = model{paid: c.paid, epoch: c.epoch}
			}
		case 8:
			m.cfg.Time += uint64(size) * 3600 //nolint:gosec // a byte
			continue
		}
		if _, err := m.call(sender, m.hub, data); (err == nil) != ok {
			t.Fatalf("step %d of %s to %s with %d: %v, the model says %v", op, from, to, size, err, ok)
		}
		locked := int64(0)
		for k, c := range models {
			got := m.channel(parties[k[0]].addr, parties[k[1]].addr)
			if got.Deposit.Int64() != c.deposit || got.Paid.Int64() != c.paid || got.Epoch.Int64() != c.epoch || got.CloseAt.Uint64() != c.closeAt || (got.Signer == signer.addr) != c.open {
				t.Fatalf("after step %d channel %v is %+v, the model %+v", op, k, got, *c)
			}
			locked += c.deposit
		}
		if got := m.balance(m.hub); got != locked {
			t.Fatalf("after step %d the hub holds %d, locked are %d", op, got, locked)
		}
		for a, n := range held {
			if got := m.balance(a); got != n {
				t.Fatalf("after step %d %s holds %d, the model says %d", op, a, got, n)
			}
		}
	}
}

// TestHubProperty plays at random.
func TestHubProperty(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		steps := make([]byte, 4*120)
		for i := range steps {
			steps[i] = byte(r.Uint32())
		}
		play(t, steps)
	}
}

// FuzzHub lets the fuzzer choose.
func FuzzHub(f *testing.F) {
	f.Add([]byte{0, 3, 100, 0, 2, 3, 40, 0, 5, 3, 0, 0, 8, 0, 80, 0, 6, 3, 0, 0})
	f.Fuzz(func(t *testing.T, steps []byte) {
		if len(steps) > 80 {
			steps = steps[:80]
		}
		play(t, steps)
	})
}
