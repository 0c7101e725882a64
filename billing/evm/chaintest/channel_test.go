package chaintest

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"cuttle/billing"
	"cuttle/billing/evm/hub"
	"cuttle/relay/wire"
)

const childWish = "CUTTLE_CHAINTEST_WISH"

// deployShortHub puts a hub on the chain whose notice is over after some blocks.
func (c *devChain) deployShortHub(seconds int64) common.Address {
	c.tb.Helper()
	hash := c.sendGas(3_000_000, append(common.FromHex(hub.HubMetaData.Bin), hub.NewHub().PackConstructor(c.token, big.NewInt(seconds))...))
	c.commit(1)
	return c.receipt(hash).ContractAddress
}

const toppedUp = billing.Amount(30_000_000)

// channelPoints are the steps of a top-up and of a close, as TestKillVouchers
// names them: a gives the approval, the deposit, a second approval, the top-up,
// the notice and the close.
var channelPoints = []string{
	"a:wished topup:1", "a:signed:3", // the second approval
	"a:signed:4", "a:accepted:4", "a:final:4", "a:channel booked:3", // the top-up
	"a:wished close:1", "a:signed:5", "a:accepted:5", // the notice
	"a:signed:6", "a:accepted:6", "a:final:6", "a:channel booked:5", // the close
}

// childChannel is the process of TestKillChannel: a opens a channel to b, tops it
// up and closes it; the process dies where it is told to.
func childChannel(dir, die string) error {
	at := common.HexToAddress(os.Getenv(childHub))
	taken := map[string]int{}
	step := func(name string) {
		killMu.Lock()
		defer killMu.Unlock()
		taken[name]++
		if fmt.Sprintf("a:%s:%d", name, taken[name]) == die {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	}
	s := setup{dir: dir, url: os.Getenv(childURL), token: common.HexToAddress(os.Getenv(childTok)), confirmations: 2, credit: 1 << 60}
	s.self, s.channels = 2, channelsOn(at)
	b, err := open(s)
	if err != nil {
		return err
	}
	s.self, s.channels = 1, channelsOn(at)
	s.step, s.channels.Step = func(name string, _ int64) { step(name) }, step
	a, err := open(s)
	if err != nil {
		return err
	}
	p, err := connect(a.book, b.book, nodeID(1), nodeID(2))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
	defer cancel()
	_, n, err := neighbor(a.book)
	if err != nil {
		return err
	}
	if n.Spent == 0 {
		p.use(billing.WePay, 10, mega)
	}
	until := func(what string, ok func(billing.ChannelReport) bool) error {
		for {
			c, err := channel(a, true)
			if err == nil && ok(c) {
				return nil
			}
			if ctx.Err() != nil {
				r, _ := a.book.Report(context.Background())
				return fmt.Errorf("never %s: %+v, %w, problems %q", what, c, err, r.Problems)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	deposit := billing.Amount(100_000_000)
	if err := until("cashed, or closed", func(c billing.ChannelReport) bool { return c.Cashed == 10_000_000 || c.Epoch > 0 && !c.Open }); err != nil {
		return err
	}
	wish := func(name string, do func() error) error {
		for err := do(); err != nil; err = do() { // the chain was not seen yet
			if ctx.Err() != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
		step("wished " + name)
		return nil
	}
	c, err := channel(a, true)
	if err != nil {
		return err
	}
	if c.Open && !c.Closing && c.Target < deposit+toppedUp { // as an operator who looks first
		if err := wish("topup", func() error { return a.book.TopUp(ctx, nodeID(2), toppedUp) }); err != nil {
			return err
		}
	}
	if err := until("topped up", func(c billing.ChannelReport) bool { return c.Deposit == deposit+toppedUp || c.Closing || !c.Open }); err != nil {
		return err
	}
	if c, err = channel(a, true); err == nil && c.Open && !c.Closing {
		err = wish("close", func() error { return a.book.CloseTo(ctx, nodeID(2)) })
	}
	if err != nil {
		return err
	}
	if err := until("closed", func(c billing.ChannelReport) bool { return !c.Open && c.UnderWay == "" }); err != nil {
		return err
	}
	for die != "never" { // what kills may come a moment later
		if ctx.Err() != nil {
			return errors.New("not killed")
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.cut()
	a.stop()
	b.stop()
	return nil
}

// TestKillChannel kills the payer at every durable or visible step of topping up
// and of closing a channel by hand, starts it again, and compares all balances with
// those of a run without a kill.
func TestKillChannel(t *testing.T) {
	c := startChain(t)
	at := c.deployShortHub(20)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(dir, step string) error {
		cmd := exec.Command(exe, "-test.run=^$")
		cmd.Env = append(os.Environ(), childDir+"="+dir, childURL+"="+c.url, childTok+"="+c.token.Hex(), childHub+"="+at.Hex(), childStep+"="+step, childWish+"=1")
		cmd.Stderr = os.Stderr
		return cmd.Run()
	}
	steps := append([]string{"never"}, channelPoints...)
	dirs, payers := c.pairs(len(steps))
	defer c.mineEvery(25 * time.Millisecond)()
	t.Run("points", func(t *testing.T) {
		for i, step := range steps {
			t.Run(strconv.Itoa(i)+" "+strings.ReplaceAll(step, ":", " "), func(t *testing.T) {
				t.Parallel()
				err := run(dirs[i], step)
				if step != "never" {
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
						t.Fatalf("child was not killed there: %v", err)
					}
					err = run(dirs[i], "never")
				}
				if err != nil {
					t.Fatalf("after the kill: %v", err)
				}
				ch, err := c.hubChannel(at, payers[i], earning(2))
				if err != nil {
					t.Fatal(err)
				}
				if ch.Signer != (common.Address{}) || ch.Deposit.Sign() != 0 || ch.Paid.Cmp(big.NewInt(1e16)) != 0 || ch.Epoch.Int64() != 1 {
					t.Errorf("the hub's channel is %+v, want closed, with 1e16 paid", ch)
				}
				if got := c.balance(payers[i]); got.Cmp(big.NewInt(99e16)) != 0 {
					t.Errorf("the payer holds %s, want 99e16: all but what it owed", got)
				}
				f, err := billing.OpenFile(filepath.Join(dirs[i], "ledger1"))
				if err != nil {
					t.Fatal(err)
				}
				if v, err := f.Verify(context.Background()); err != nil || len(v.Findings) > 0 {
					t.Errorf("the payer's ledger: %+v, %v", v, err)
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// TestMoneyGone: what is put into the wallet is booked as it comes, payments and
// deposits are not taken for losses, and tokens that leave another way are noticed.
func TestMoneyGone(t *testing.T) {
	c := startChain(t)
	at := c.deployHub()
	dir := t.TempDir()
	a, b, p := pair(t, c, c.url, func(s *setup) { s.dir, s.channels = dir, channelsOn(at) })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.fund(b.wallet.Address(), ether(1), new(big.Int))
	defer c.mineEvery(25 * time.Millisecond)()
	p.use(billing.WePay, 10, mega)
	cashed(t, a, b, 10_000_000)
	sums := func() (funded, withdrawn int64, err error) {
		f, err := billing.OpenFile(filepath.Join(dir, "ledger1"))
		if err != nil {
			return 0, 0, err
		}
		err = f.History(context.Background(), wire.NodeID{}, func(m billing.Movement) error {
			if m.Account == "wallet" && m.Kind == "funded" {
				funded += m.Units
			} else if m.Account == "wallet" {
				withdrawn -= m.Units
			}
			return nil
		})
		return funded, withdrawn, errors.Join(err, f.Close())
	}
	is := func(what string, wantIn, wantOut int64) {
		t.Helper()
		eventually(t, what, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := a.book.Settle(ctx); err != nil {
				return err
			}
			in, out, err := sums()
			if err == nil && (in != wantIn || out != wantOut) {
				err = fmt.Errorf("%d came and %d is gone, want %d and %d", in, out, wantIn, wantOut)
			}
			return err
		})
	}
	is("the first token is booked", 1_000_000_000, 0)
	c.fundMined(a.wallet.Address(), ether(2))
	is("two more are booked", 3_000_000_000, 0)
	thief := walletKey(t, filepath.Join(dir, "wallet1"))
	c.mined(c.send(thief, &c.token, nil, c.binding.PackTransfer(common.Address{9}, big.NewInt(5e17))))
	is("the loss is noticed", 3_000_000_000, 500_000_000)
	r, _, err := neighbor(a.book)
	if err != nil || !strings.Contains(strings.Join(r.Problems, "\n"), "0.5 of token") {
		t.Errorf("problems %q, %v; want the loss of 0.5", r.Problems, err)
	}
	p.use(billing.WePay, 10, mega) // and the payments after it are no losses
	cashed(t, a, b, 20_000_000)
	is("nothing else is gone", 3_000_000_000, 500_000_000)
}

// fundMined sends tokens while somebody else makes blocks.
func (c *devChain) fundMined(to common.Address, tokens *big.Int) {
	c.tb.Helper()
	c.mined(c.send(c.key, &c.token, nil, c.binding.PackTransfer(to, tokens)))
}
