package chaintest

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/params"

	"cuttle/billing/evm"
	"cuttle/billing/wallet"
)

// TestSweep empties a wallet: all of the token arrives, and not a wei of the
// chain's coin is left.
func TestSweep(t *testing.T) {
	c := startChain(t)
	w, err := wallet.Create(filepath.Join(t.TempDir(), "w"), "pw", true)
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(t, c.url, c.token)
	defer client.Close()
	ctx, to := context.Background(), earning(9)
	tokens := new(big.Int).Add(ether(7), big.NewInt(1))

	c.fund(w.Address(), new(big.Int), tokens)
	if _, err := client.PlanSweep(ctx, w.Address(), to, evm.PaymentConfig{}); err == nil {
		t.Error("a sweep is planned without gas")
	}
	c.fund(w.Address(), ether(2), new(big.Int))
	for _, bad := range []evm.Address{{}, w.Address(), c.token} {
		if _, err := client.PlanSweep(ctx, w.Address(), bad, evm.PaymentConfig{}); err == nil {
			t.Errorf("a sweep to %s is planned", bad)
		}
	}
	if _, err := client.PlanSweep(ctx, w.Address(), to, evm.PaymentConfig{MaxFee: big.NewInt(1)}); err == nil {
		t.Error("a sweep over the fee limit is planned")
	}

	plan, err := client.PlanSweep(ctx, w.Address(), to, evm.PaymentConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Token.Cmp(tokens) != 0 || plan.Coin.Sign() <= 0 || plan.Contract || plan.TokenFee.Sign() <= 0 {
		t.Errorf("plan is %+v", plan)
	}
	stop := c.mine()
	defer stop()
	var steps []string
	if err := client.Sweep(ctx, w, plan, evm.PaymentConfig{}, func(what string, _ evm.Hash) { steps = append(steps, what) }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"sending token", "token sent", "sending coin", "coin sent"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	left, err := client.Balances(ctx, w.Address())
	if err != nil {
		t.Fatal(err)
	}
	if left.Token.Sign() != 0 || left.Gas.Sign() != 0 {
		t.Errorf("the wallet still has %s token and %s wei", left.Token, left.Gas)
	}
	got, err := client.Balances(ctx, to)
	if err != nil {
		t.Fatal(err)
	}
	if got.Token.Cmp(tokens) != 0 || got.Gas.Cmp(plan.Coin) < 0 { // fees were at most what the plan said
		t.Errorf("the target has %s token and %s wei, planned were %s and about %s", got.Token, got.Gas, tokens, plan.Coin)
	}
	// An old plan does nothing more.
	if err := client.Sweep(ctx, w, plan, evm.PaymentConfig{}, func(string, evm.Hash) {}); !errors.Is(err, evm.ErrWaiting) {
		t.Errorf("an old plan: %v, want ErrWaiting", err)
	}
}

// TestSweepWaits: a wallet with a transaction under way is left alone.
func TestSweepWaits(t *testing.T) {
	c := startChain(t)
	client := newClient(t, c.url, c.token)
	defer client.Close()
	w, err := wallet.Import(filepath.Join(t.TempDir(), "w"), "pw", true, "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
	if err != nil {
		t.Fatal(err)
	}
	c.fund(w.Address(), ether(2), ether(1))
	to := earning(3)
	id := big.NewInt(chainID)
	tx, err := w.SignTx(types.NewTx(&types.DynamicFeeTx{
		ChainID: id, Gas: 21000, GasTipCap: big.NewInt(params.GWei), GasFeeCap: big.NewInt(10 * params.GWei), To: &to, Value: big.NewInt(1),
	}), id)
	if err != nil {
		t.Fatal(err)
	}
	// The pool of transactions follows the head a moment later.
	eventually(t, "the pool takes it", func() error { return c.backend.Client().SendTransaction(context.Background(), tx) })
	if _, err := client.PlanSweep(context.Background(), w.Address(), to, evm.PaymentConfig{}); !errors.Is(err, evm.ErrWaiting) {
		t.Errorf("with a transaction under way: %v, want ErrWaiting", err)
	}
	c.commit(1)
	if _, err := client.PlanSweep(context.Background(), w.Address(), to, evm.PaymentConfig{}); err != nil {
		t.Errorf("when it is in a block: %v", err)
	}
}

// TestEmptyWallet: what is missing is said before the first debt is due, and no
// longer when it is there.
func TestEmptyWallet(t *testing.T) {
	c := startChain(t)
	a, _, _ := pair(t, c, c.url, nil)
	for missing, amount := range map[string]string{"no token": "at least 1152921504.606846976", "no gas": "at most 0.035"} {
		eventually(t, missing+" is said", func() error {
			r, err := a.book.Report(context.Background())
			if err != nil {
				return err
			}
			for _, p := range r.Problems {
				if strings.HasPrefix(p, missing) && strings.Contains(p, a.wallet.String()) && strings.Contains(p, "chain 1337") && strings.HasSuffix(p, amount) {
					return nil
				}
			}
			return fmt.Errorf("problems are %q", r.Problems)
		})
	}
	c.fund(a.wallet.Address(), ether(1), ether(1))
	eventually(t, "nothing is missing", func() error {
		r, err := a.book.Report(context.Background())
		if err == nil && len(r.Problems) > 0 {
			err = fmt.Errorf("problems are %q", r.Problems)
		}
		return err
	})
}
