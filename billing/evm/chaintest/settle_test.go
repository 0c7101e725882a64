package chaintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/math"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"

	"cuttle/billing"
	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// pair is two parties with funded wallets and a link.
func pair(tb testing.TB, c *devChain, url string, change func(*setup)) (a, b *party, p *pipe) {
	tb.Helper()
	s := setup{dir: tb.TempDir(), url: url, token: c.token, confirmations: 3, credit: billing.Amount(1 << 60)}
	if change != nil {
		change(&s)
	}
	s.self = 1
	a = mustOpen(tb, s)
	s.self, s.now, s.step = 2, nil, nil
	b = mustOpen(tb, s)
	return a, b, mustConnect(tb, a, b)
}

const mega = wire.Cells(1 << 20)

// TestPayEachOther is the plain case, both ways: the money that has moved on
// the chain is what the cells cost.
func TestPayEachOther(t *testing.T) {
	c := startChain(t)
	a, b, p := pair(t, c, c.url, nil)
	c.fund(a.wallet.Address(), ether(1), ether(100))
	c.fund(b.wallet.Address(), ether(1), ether(100))
	defer c.mine()()

	p.use(billing.WePay, 10, 5*mega) // a owes 5 * 10 * 0.001
	p.use(billing.TheyPay, 3, 2*mega)
	settle(t, a.book)
	settle(t, b.book)
	settled(t, a, b, 1)
	settled(t, b, a, 1)
	for _, x := range []struct {
		who  string
		at   common.Address
		want int64 // thousandths of a token
	}{{"b's earning", b.earning, 50}, {"a's earning", a.earning, 6}, {"a's consuming", a.wallet.Address(), 100_000 - 50}, {"b's consuming", b.wallet.Address(), 100_000 - 6}} {
		want := new(big.Int).Mul(big.NewInt(x.want), big.NewInt(1e15))
		if got := c.balance(x.at); got.Cmp(want) != 0 {
			t.Errorf("%s wallet holds %s, want %s", x.who, got, want)
		}
	}
	r, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	if pay := n.Payments[0]; pay.Tx == "" || pay.Block == 0 || pay.Confirmations < 3 || pay.Amount != 50_000_000 || pay.Payee != b.earning.Hex() {
		t.Errorf("payment is reported as %+v", pay)
	}
	if r.TokenBalance != "99.95" || len(r.Problems) != 0 || r.Consuming != a.wallet.Address().Hex() {
		t.Errorf("report: balance %s, problems %q", r.TokenBalance, r.Problems)
	}

	// The gas that was spent is in the ledger, to the unit.
	gone, err := a.client.Balances(context.Background(), a.wallet.Address())
	if err != nil {
		t.Fatal(err)
	}
	spent := new(big.Int).Sub(ether(1), gone.Gas)
	spent.Add(spent, big.NewInt(1e9-1)).Quo(spent, big.NewInt(1e9))
	if r.Fees <= 0 || spent.Int64() != int64(r.Fees) {
		t.Errorf("the ledger says that fees were %d gwei, the chain %s", int64(r.Fees), spent)
	}

	p.use(billing.WePay, 1, mega) // a second payment goes on from there
	settle(t, a.book)
	settled(t, a, b, 2)
}

// TestNoGasNoToken: what is missing is said in words; once it is there the
// payment goes out.
func TestNoGasNoToken(t *testing.T) {
	c := startChain(t)
	a, b, p := pair(t, c, c.url, nil)
	p.use(billing.WePay, 10, mega)
	settle(t, a.book)
	problem := func(words ...string) {
		t.Helper()
		eventually(t, "the problem is reported", func() error {
			r, _, err := neighbor(a.book)
			if err != nil {
				return err
			}
			all := strings.Join(r.Problems, "\n")
			for _, w := range append(words, a.wallet.Address().Hex(), "chain 1337") {
				if !strings.Contains(all, w) {
					return fmt.Errorf("problems %q do not say %q", all, w)
				}
			}
			return nil
		})
	}
	problem("not enough token", "0.01")
	c.fund(a.wallet.Address(), new(big.Int), ether(1))
	problem("not enough gas")
	if _, n, err := neighbor(a.book); err != nil || n.Payments[0].State != "planned" {
		t.Errorf("payment without gas is %+v, %v", n.Payments, err)
	}
	c.fund(a.wallet.Address(), ether(1), new(big.Int))
	defer c.mine()()
	settled(t, a, b, 1)
}

// TestChainDown: service goes on while nothing answers, and the payment is made
// when the chain is back.
func TestChainDown(t *testing.T) {
	c := startChain(t)
	g := startGate(t, c.url)
	a, b, p := pair(t, c, g.url, nil)
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	eventually(t, "the chain was seen", func() error {
		if r, _, err := neighbor(a.book); err != nil || r.Head == 0 {
			return fmt.Errorf("head %d, %w", r.Head, err)
		}
		return nil
	})
	g.shut.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := a.book.Settle(ctx); err == nil {
		t.Error("Settle without a chain says nothing")
	}
	p.use(billing.WePay, 10, mega)
	if err := a.book.Flush(ctx); err != nil {
		t.Errorf("agree on counts without a chain: %v", err)
	}
	if err := p.ends[1].n.Admit(10); err != nil {
		t.Errorf("service within credit without a chain: %v", err)
	}
	r, _, err := neighbor(a.book)
	if err != nil || !strings.Contains(strings.Join(r.Problems, "\n"), "chain cannot be asked") {
		t.Errorf("problems %q, %v", r.Problems, err)
	}
	g.shut.Store(false)
	defer c.mine()()
	eventually(t, "all is paid", func() error {
		_, n, err := neighbor(a.book)
		if err == nil && (len(n.Payments) == 0 || n.Payments[0].State != "final") {
			err = fmt.Errorf("payments %+v", n.Payments)
		}
		return err
	})
	settle(t, a.book)
	settled(t, a, b, 2)
}

// TestHalfOfTheCallsFail: lost requests and, worse, lost answers to requests that
// the chain has acted on. Every debt is paid once.
func TestHalfOfTheCallsFail(t *testing.T) {
	c := startChain(t)
	g := startGate(t, c.url)
	a, b, p := pair(t, c, g.url, nil)
	c.fund(a.wallet.Address(), ether(1), ether(1))
	defer c.mine()()
	g.bad.Store(50)
	const rounds = 4
	for i := range rounds {
		p.use(billing.WePay, 1, mega)
		eventually(t, "a payment is planned", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			_ = a.book.Settle(ctx) // half of the calls fail
			_, n, err := neighbor(a.book)
			if err == nil && len(n.Payments) <= i {
				err = errors.New("none yet")
			}
			return err
		})
		settled(t, a, b, i+1)
	}
	if got, want := c.balance(b.earning), new(big.Int).Mul(big.NewInt(rounds), big.NewInt(1e15)); got.Cmp(want) != 0 {
		t.Errorf("b received %s, want %s", got, want)
	}
}

// TestReorg takes the block of a payment off the chain before and after the
// receiver has credited it.
func TestReorg(t *testing.T) {
	c := startChain(t)
	a, b, p := pair(t, c, c.url, func(s *setup) { s.confirmations = 4 })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	parent, err := c.backend.Client().HeaderByNumber(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, a.book)
	c.commit(2)
	state := func(want string) {
		t.Helper()
		eventually(t, "the payment is "+want, func() error {
			_, n, err := neighbor(a.book)
			if err == nil && n.Payments[0].State != want {
				err = fmt.Errorf("it is %+v", n.Payments[0])
			}
			return err
		})
	}
	state("mined")
	_, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	old := n.Payments[0].Block
	// A longer branch without it: a block of its own nonce's absence cannot be
	// forced (the pool mines it again), so it lands in another block.
	if err := c.backend.Fork(parent.Hash()); err != nil {
		t.Fatal(err)
	}
	c.commit(3)
	c.commit(6)
	settled(t, a, b, 1)
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s after the fork (payment was in block %d), want 1e16", got, old)
	}

	// Deep: what both call final goes away with all its confirmations, and another
	// transaction of the wallet has its nonce on the new branch.
	p.use(billing.WePay, 10, mega)
	if parent, err = c.backend.Client().HeaderByNumber(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	settle(t, a.book)
	c.commit(5)
	settled(t, a, b, 2)
	if err := c.backend.Fork(parent.Hash()); err != nil {
		t.Fatal(err)
	}
	c.commit(12)
	eventually(t, "b's books follow the new branch", func() error {
		_, n, err := neighbor(b.book)
		if err != nil {
			return err
		}
		onChain := new(big.Int).Div(c.balance(b.earning), big.NewInt(1e9)).Int64()
		var booked billing.Amount
		for _, r := range n.Receipts {
			booked += r.Amount
		}
		if int64(booked) != onChain || int64(n.TheyOwe) != 20_000_000-onChain {
			return fmt.Errorf("booked %v, on the chain %d, owed %v", booked, onChain, n.TheyOwe)
		}
		return nil
	})
}

// TestFeeBump: a payment that nobody mines gets higher fees under its old nonce,
// and is paid once whichever version is mined.
func TestFeeBump(t *testing.T) {
	c := startChain(t)
	var ahead atomic.Int64
	a, b, p := pair(t, c, c.url, func(s *setup) {
		s.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	settle(t, a.book)
	_, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	first := n.Payments[0]
	ahead.Store(int64(2 * time.Minute))
	eventually(t, "the fee is raised", func() error {
		_, n, err := neighbor(a.book)
		if err == nil && (n.Payments[0].Tx == first.Tx || n.Payments[0].State != "sent" || n.Payments[0].Nonce != first.Nonce) {
			err = fmt.Errorf("payment is %+v", n.Payments[0])
		}
		return err
	})
	defer c.mine()()
	settled(t, a, b, 1)
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s, want 1e16", got)
	}
}

// TestUsedElsewhere: another program takes the nonce. The debt stands, sending
// stops, a human is told; after that it is paid.
func TestUsedElsewhere(t *testing.T) {
	c := startChain(t)
	dir := t.TempDir()
	a, b, p := pair(t, c, c.url, func(s *setup) { s.dir = dir })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	settle(t, a.book)
	_, n, err := neighbor(a.book)
	if err != nil {
		t.Fatal(err)
	}
	thief := walletKey(t, filepath.Join(dir, "wallet1"))
	self := a.wallet.Address()
	c.sendAt(thief, n.Payments[0].Nonce, 500, &self, nil, nil) // pushes ours out of the pool
	c.commit(5)
	eventually(t, "the alarm is there", func() error {
		r, n, err := neighbor(a.book)
		if err == nil && (n.Payments[0].State != "superseded" || n.WeOwe != 10_000_000 || !strings.Contains(strings.Join(r.Problems, "\n"), "used by another program")) {
			err = fmt.Errorf("payments %+v, owed %v, problems %q", n.Payments, n.WeOwe, r.Problems)
		}
		return err
	})
	settle(t, a.book)
	c.commit(5)
	if _, n, err := neighbor(a.book); err != nil || n.Payments[0].State != "planned" {
		t.Errorf("after the alarm something was sent: %+v, %v", n.Payments, err)
	}
	if err := a.book.Acknowledge(context.Background(), n.Payments[0].ID); err != nil {
		t.Fatal(err)
	}
	defer c.mine()()
	settled(t, a, b, 1)
	if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
		t.Errorf("b holds %s, want 1e16", got)
	}
}

// TestCutAndRestore: a neighbor over its credit is cut, told why, pays because
// it was told, and is restored.
func TestCutAndRestore(t *testing.T) {
	c := startChain(t)
	a, _, p := pair(t, c, c.url, func(s *setup) { s.credit = 15_000_000 })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	p.use(billing.WePay, 10, mega)
	if err := p.ends[1].n.Admit(10); err != nil {
		t.Fatalf("within credit: %v", err)
	}
	p.use(billing.WePay, 10, mega)
	// Until b has seen the chain it lets a neighbor owe twice its limit.
	eventually(t, "a is cut", func() error {
		if err := p.ends[1].n.Admit(10); !errors.Is(err, billing.ErrDue) {
			return fmt.Errorf("over credit: %v, want ErrDue", err)
		}
		return nil
	})
	eventually(t, "a knows why", func() error {
		_, n, err := neighbor(a.book)
		if err == nil && (n.TheirStanding != billing.Cut || n.TheirReason == "") {
			err = fmt.Errorf("told %s %q", n.TheirStanding, n.TheirReason)
		}
		return err
	})
	defer c.mine()() // SettleAbove is out of reach: a pays because b has asked
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := a.book.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b serves again and a knows", func() error {
		_, n, err := neighbor(a.book)
		return errors.Join(err, p.ends[1].n.Admit(10), func() error {
			if n.TheirStanding != billing.Active {
				return fmt.Errorf("told %s", n.TheirStanding)
			}
			return nil
		}())
	})
}

// TestUnknownPayer: money from a wallet that nobody has bound is kept apart and
// handed over when its owner shows up.
func TestUnknownPayer(t *testing.T) {
	c := startChain(t)
	s := setup{dir: t.TempDir(), url: c.url, token: c.token, confirmations: 2, credit: 1 << 60}
	s.self = 2
	b := mustOpen(t, s)
	s.self = 1
	a := mustOpen(t, s)
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.send(walletKey(t, filepath.Join(s.dir, "wallet1")), &c.token, nil, c.binding.PackTransfer(b.earning, big.NewInt(7e15)))
	c.commit(3)
	eventually(t, "the money is kept apart", func() error {
		r, err := b.book.Report(context.Background())
		if err == nil && r.Unclaimed != 7_000_000 {
			err = fmt.Errorf("unclaimed %v", r.Unclaimed)
		}
		return err
	})
	mustConnect(t, a, b)
	eventually(t, "it is a's", func() error {
		r, n, err := neighbor(b.book)
		if err == nil && (r.Unclaimed != 0 || n.TheyOwe != -7_000_000) {
			err = fmt.Errorf("unclaimed %v, owed %v", r.Unclaimed, n.TheyOwe)
		}
		return err
	})
}

// TestWrongChain: nothing is signed for another chain or token.
func TestWrongChain(t *testing.T) {
	c := startChain(t)
	for _, x := range []struct {
		name  string
		id    uint64
		token common.Address
		want  error
	}{{"chain", 137, c.token, evm.ErrWrongChain}, {"token", chainID, common.Address{9}, evm.ErrWrongToken}} {
		client, err := evm.NewClient(evm.ClientConfig{Endpoints: []string{c.url}, ChainID: x.id, Token: x.token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Check(context.Background()); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
		client.Close()
	}
	dir := t.TempDir()
	p := mustOpen(t, setup{self: 1, dir: dir, url: c.url, token: c.token})
	p.stop()
	if _, err := open(setup{self: 1, dir: dir, url: c.url, token: common.Address{9}}); err == nil || !strings.Contains(err.Error(), c.token.Hex()) {
		t.Errorf("ledger of another token: %v", err)
	}
}

// TestBindingIsEIP712 compares the digest with go-ethereum's own encoder.
func TestBindingIsEIP712(t *testing.T) {
	b := evm.Binding{ChainID: 137, Token: common.HexToAddress("0xEe9A352F6aAc4aF1A5B9f467F6a93E0ffBe9Dd35"), Node: [32]byte{1, 2, 3}, Wallet: common.Address{4}, Expiry: 1_800_000_000}
	want, _, err := apitypes.TypedDataAndHash(apitypes.TypedData{
		Types: apitypes.Types{
			"EIP712Domain": {{Name: "name", Type: "string"}, {Name: "version", Type: "string"}, {Name: "chainId", Type: "uint256"}, {Name: "verifyingContract", Type: "address"}},
			"Binding":      {{Name: "node", Type: "bytes32"}, {Name: "wallet", Type: "address"}, {Name: "expiry", Type: "uint64"}},
		},
		PrimaryType: "Binding",
		Domain:      apitypes.TypedDataDomain{Name: "Cuttle", Version: "1", ChainId: math.NewHexOrDecimal256(137), VerifyingContract: b.Token.Hex()},
		Message:     apitypes.TypedDataMessage{"node": b.Node[:], "wallet": b.Wallet.Hex(), "expiry": fmt.Sprint(b.Expiry)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Digest(); !bytes.Equal(got[:], want) {
		t.Errorf("digest is %x, go-ethereum says %x", got, want)
	}
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	b.Wallet = crypto.PubkeyToAddress(key.PublicKey)
	digest := b.Digest()
	raw, err := crypto.Sign(digest[:], key)
	if err != nil {
		t.Fatal(err)
	}
	sig := [65]byte(raw)
	sig[64] += 27
	if err := b.Verify(sig); err != nil {
		t.Errorf("good signature: %v", err)
	}
	high := sig // the other s for the same r is a second valid signature: refused
	s := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:64]))
	s.FillBytes(high[32:64])
	high[64] = 27 + 28 - sig[64]
	for name, bad := range map[string][65]byte{"zero": {}, "high s": high, "v 0": func() [65]byte { x := sig; x[64] -= 27; return x }()} {
		if b.Verify(bad) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b.Node[0]++
	if b.Verify(sig) == nil {
		t.Error("signature for another node accepted")
	}
}

const (
	childDir  = "CUTTLE_CHAINTEST_DIR"
	childURL  = "CUTTLE_CHAINTEST_URL"
	childTok  = "CUTTLE_CHAINTEST_TOKEN"
	childStep = "CUTTLE_CHAINTEST_STEP"
	childHub  = "CUTTLE_CHAINTEST_HUB"
)

// child is the process of TestKillAtEachStep: both Books; the payer dies by
// SIGKILL when it comes to the given step.
func child() bool {
	dir := os.Getenv(childDir)
	if dir == "" {
		return false
	}
	run := childRun
	if os.Getenv(childHub) != "" {
		run = childVouchers
	}
	if err := run(dir, os.Getenv(childStep)); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	return true
}

func childRun(dir, die string) error {
	s := setup{dir: dir, url: os.Getenv(childURL), token: common.HexToAddress(os.Getenv(childTok)), confirmations: 3, credit: 1 << 60}
	s.self, s.step = 2, func(step string, _ int64) {
		if "receiver "+step == die {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}
	b, err := open(s)
	if err != nil {
		return err
	}
	s.self, s.step = 1, func(step string, _ int64) {
		if step == die {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}
	a, err := open(s)
	if err != nil {
		return err
	}
	p, err := connect(a.book, b.book, nodeID(1), nodeID(2))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	_, n, err := neighbor(a.book)
	if err != nil {
		return err
	}
	if n.Spent == 0 {
		p.use(billing.WePay, 10, mega)
		if err := errors.Join(a.book.Flush(ctx), b.book.Flush(ctx), a.book.Flush(ctx)); err != nil {
			return err
		}
	}
	if err := a.book.Settle(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		_, na, err := neighbor(a.book)
		if err != nil {
			return err
		}
		_, nb, err := neighbor(b.book)
		if err != nil {
			return err
		}
		if len(na.Payments) == 1 && na.Payments[0].State == "final" && na.WeOwe == 0 && nb.TheyOwe == 0 && len(nb.Receipts) == 1 {
			p.cut()
			a.stop()
			b.stop()
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("the payment never became final")
}

// TestKillAtEachStep kills the payer before and after every durable or visible
// step of a payment, starts it again, and compares balances: never twice, never
// forgotten.
func TestKillAtEachStep(t *testing.T) {
	c := startChain(t)
	defer c.mine()()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	paid := int64(0)
	run := func(dir, step string) error {
		cmd := exec.Command(exe, "-test.run=^$")
		cmd.Env = append(os.Environ(), childDir+"="+dir, childURL+"="+c.url, childTok+"="+c.token.Hex(), childStep+"="+step)
		cmd.Stderr = os.Stderr
		return cmd.Run()
	}
	for _, step := range []string{"sign", "signed", "broadcast", "accepted", "sent", "mined", "final", "receiver credit", "receiver credited"} {
		dir := t.TempDir()
		p := mustOpen(t, setup{self: 1, dir: dir, url: c.url, token: c.token}) // makes the wallet
		c.fund(p.wallet.Address(), ether(1), ether(1))
		p.stop()
		var exit *exec.ExitError
		if err := run(dir, step); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("%s: child was not killed there: %v", step, err)
			continue
		}
		if err := run(dir, "never"); err != nil {
			t.Errorf("%s: after the kill: %v", step, err)
		}
		paid++
		want := new(big.Int).Mul(big.NewInt(paid), big.NewInt(1e16))
		if got := c.balance(earning(2)); got.Cmp(want) != 0 {
			t.Errorf("%s: b has received %s in all, want %s", step, got, want)
		}
	}
}
