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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/common"

	"cuttle/billing"
	"cuttle/billing/evm/hub"
	"cuttle/billing/wallet"
)

const hubNotice = 3600 // seconds

// deployHub puts a hub with a short notice on the chain.
func (c *devChain) deployHub() common.Address {
	c.tb.Helper()
	hash := c.sendGas(3_000_000, append(common.FromHex(hub.HubMetaData.Bin), hub.NewHub().PackConstructor(c.token, big.NewInt(hubNotice))...))
	c.commit(1)
	return c.receipt(hash).ContractAddress
}

func channelsOn(at common.Address) *billing.ChannelConfig {
	return &billing.ChannelConfig{Hub: at, Window: 40_000_000, Deposit: 100_000_000, CashAbove: 9_000_000, Notice: time.Second}
}

// channel is a party's only channel of that direction.
func channel(p *party, wePay bool) (billing.ChannelReport, error) {
	_, n, err := neighbor(p.book)
	if err != nil {
		return billing.ChannelReport{}, err
	}
	for _, c := range n.Channels {
		if c.WePay == wePay {
			return c, nil
		}
	}
	return billing.ChannelReport{}, errors.New("no channel")
}

// cashed waits until a owes nothing and b has cashed all that it holds.
func cashed(tb testing.TB, a, b *party, want billing.Amount) {
	tb.Helper()
	eventually(tb, fmt.Sprintf("%v is cashed", want), func() error { return isCashed(a, b, want) })
}

func isCashed(a, b *party, want billing.Amount) error {
	_, na, err := neighbor(a.book)
	if err != nil {
		return err
	}
	rb, nb, err := neighbor(b.book)
	if err != nil {
		return err
	}
	ca, err := channel(a, true)
	if err != nil {
		return err
	}
	cb, err := channel(b, false)
	if err != nil {
		return err
	}
	if na.WeOwe != 0 || na.InTransit != 0 || nb.TheyOwe != 0 || ca.Cashed != want || cb.Cashed != want || ca.Vouchers != want || cb.Vouchers != want {
		return fmt.Errorf("a owes %v, %v in transit, channel %+v; b: owed %v, channel %+v, problems %q", na.WeOwe, na.InTransit, ca, nb.TheyOwe, cb, rb.Problems)
	}
	return nil
}

// TestVouchersOnChain: a channel is opened when something is owed, vouchers pay,
// are cashed by themselves, the deposit is topped up, and what is left comes back
// after the notice, to the unit.
func TestVouchersOnChain(t *testing.T) {
	c := startChain(t)
	at := c.deployHub()
	a, b, p := pair(t, c, c.url, func(s *setup) { s.channels = channelsOn(at) })
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.fund(b.wallet.Address(), ether(1), new(big.Int))
	defer c.mineEvery(25 * time.Millisecond)()
	for i := range 10 {
		p.use(billing.WePay, 10, mega) // 0.01 token
		if i == 0 {
			cashed(t, a, b, 10_000_000)
			continue
		}
		eventually(t, "it is paid", func() error {
			_, na, err := neighbor(a.book)
			_, nb, err2 := neighbor(b.book)
			if na.WeOwe+na.InTransit+nb.TheyOwe != 0 {
				err = fmt.Errorf("a owes %v, %v in transit; b says %v", na.WeOwe, na.InTransit, nb.TheyOwe)
			}
			return errors.Join(err, err2)
		})
	}
	cashed(t, a, b, 100_000_000)
	var ca billing.ChannelReport
	eventually(t, "the channel is topped up", func() (err error) {
		if ca, err = channel(a, true); err == nil && ca.Deposit <= 100_000_000 {
			err = fmt.Errorf("channel is %+v", ca)
		}
		return err
	})
	if got, want := c.balance(b.earning), big.NewInt(1e17); got.Cmp(want) != 0 {
		t.Errorf("b has received %s, want %s", got, want)
	}
	if got, want := c.balance(at), new(big.Int).Mul(big.NewInt(int64(ca.Deposit-100_000_000)), big.NewInt(1e9)); got.Cmp(want) != 0 {
		t.Errorf("the hub holds %s, want %s", got, want)
	}
	p.cut()
	if err := a.book.CloseTo(context.Background(), nodeID(2)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the notice runs", func() error {
		ch, err := c.hubChannel(at, a.wallet.Address(), b.earning)
		if err == nil && ch.CloseAt.Sign() == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	eventually(t, "no transaction is in the way of a jump in time", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.backend.AdjustTime(2 * time.Hour)
	})
	eventually(t, "what is left is back", func() error {
		if got, want := c.balance(a.wallet.Address()), big.NewInt(9e17); got.Cmp(want) != 0 {
			return fmt.Errorf("a holds %s, want %s", got, want)
		}
		ch, err := channel(a, true)
		if err == nil && ch.Open {
			err = errors.New("a's ledger does not know yet")
		}
		return err
	})
}

// hubChannel asks the hub itself.
func (c *devChain) hubChannel(at, payer, payee common.Address) (hub.ChannelsOutput, error) {
	h := hub.NewHub()
	out, err := c.backend.Client().CallContract(context.Background(), ethereum.CallMsg{To: &at, Data: h.PackChannels(payer, payee)}, nil)
	if err != nil {
		return hub.ChannelsOutput{}, err
	}
	return h.UnpackChannels(out)
}

// TestStaleClose: the payer gives notice while the payee holds a voucher that is
// too small to be cashed for its own sake. The payee sees the notice and cashes
// at a fee that is over its limit.
func TestStaleClose(t *testing.T) {
	c := startChain(t)
	at := c.deployHub()
	a, b, p := pair(t, c, c.url, func(s *setup) {
		s.channels = channelsOn(at)
		s.channels.CashAbove = 1 << 50
	})
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.fund(b.wallet.Address(), ether(1), new(big.Int))
	defer c.mineEvery(25 * time.Millisecond)()
	p.use(billing.WePay, 10, mega)
	eventually(t, "b holds a voucher", func() error {
		ch, err := channel(b, false)
		if err == nil && ch.Vouchers != 10_000_000 {
			err = fmt.Errorf("%+v", ch)
		}
		return err
	})
	if got := c.balance(b.earning); got.Sign() != 0 {
		t.Fatalf("b has cashed %s without a reason", got)
	}
	if err := a.book.CloseTo(context.Background(), nodeID(2)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has cashed", func() error {
		if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
			return fmt.Errorf("it holds %s", got)
		}
		return nil
	})
}

// TestOfflinePayee: the payer gives notice while the payee, who holds a voucher that
// was not cashed, is off. The payer cannot take the deposit back before the notice is
// over; the payee, on again, cashes without a link, and the payer gets the rest.
func TestOfflinePayee(t *testing.T) {
	c := startChain(t)
	at := c.deployHub()
	var again setup
	a, b, p := pair(t, c, c.url, func(s *setup) {
		s.channels = channelsOn(at)
		s.channels.CashAbove = 1 << 50
		again = *s
	})
	c.fund(a.wallet.Address(), ether(1), ether(1))
	c.fund(b.wallet.Address(), ether(1), new(big.Int))
	defer c.mineEvery(25 * time.Millisecond)()
	p.use(billing.WePay, 10, mega)
	eventually(t, "b holds a voucher, and a knows", func() error {
		ch, err := channel(b, false)
		_, na, err2 := neighbor(a.book)
		if ch.Vouchers != 10_000_000 || na.InTransit != 0 {
			err = errors.Join(err, fmt.Errorf("%+v, %v in transit", ch, na.InTransit))
		}
		return errors.Join(err, err2)
	})
	p.cut()
	b.stop()
	if err := a.book.CloseTo(context.Background(), nodeID(2)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the notice runs", func() error {
		ch, err := c.hubChannel(at, a.wallet.Address(), b.earning)
		if err == nil && ch.CloseAt.Sign() == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	early := ethereum.CallMsg{From: a.wallet.Address(), To: &at, Data: hub.NewHub().PackClose(b.earning)}
	if _, err := c.backend.Client().CallContract(context.Background(), early, nil); err == nil {
		t.Error("the payer could close before the notice is over")
	}
	if got := c.balance(b.earning); got.Sign() != 0 {
		t.Fatalf("b, who is off, has cashed %s", got)
	}
	again.self = 2
	b = mustOpen(t, again)
	eventually(t, "b has cashed", func() error {
		if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
			return fmt.Errorf("it holds %s", got)
		}
		return nil
	})
	eventually(t, "no transaction is in the way of a jump in time", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.backend.AdjustTime(2 * time.Hour)
	})
	eventually(t, "a has the rest back", func() error {
		if got, want := c.balance(a.wallet.Address()), big.NewInt(99e16); got.Cmp(want) != 0 {
			return fmt.Errorf("a holds %s, want %s", got, want)
		}
		return nil
	})
	eventually(t, "nobody owes anything", func() error {
		_, na, err := neighbor(a.book)
		_, nb, err2 := neighbor(b.book)
		if na.WeOwe != 0 || na.InTransit != 0 || nb.TheyOwe != 0 {
			err = fmt.Errorf("a owes %v, %v in transit; b says %v", na.WeOwe, na.InTransit, nb.TheyOwe)
		}
		return errors.Join(err, err2)
	})
}

// killPoints are the steps at which TestKillVouchers kills, each as who, step and
// which time it is taken.
var killPoints = []string{
	"a:signed:1",                              // the approval
	"a:signed:2", "a:accepted:2", "a:final:2", // the deposit
	"a:channel booked:1", "b:channel booked:1",
	"a:voucher made:1", "a:voucher sent:1", "b:voucher taken:1", "b:voucher answered:1", "a:voucher confirmed:1",
	"b:signed:1", "b:accepted:1", "b:final:1", // cashing
	"b:channel booked:2",
}

var killMu sync.Mutex // guards the counts of steps taken

// childVouchers is the process of TestKillVouchers: a pays b with a voucher and b
// cashes it; the process dies where it is told to.
func childVouchers(dir, die string) error {
	s := setup{dir: dir, url: os.Getenv(childURL), token: common.HexToAddress(os.Getenv(childTok)), confirmations: 2, credit: 1 << 60}
	at := func(who string) func(string) {
		taken := map[string]int{}
		return func(step string) { // each party takes its steps one after the other, but for the writer's
			killMu.Lock()
			defer killMu.Unlock()
			taken[step]++
			if fmt.Sprintf("%s:%s:%d", who, step, taken[step]) == die {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // until it arrives
			}
		}
	}
	party := func(self byte, who string) (*party, error) {
		step := at(who)
		s.self, s.step, s.channels = self, func(name string, _ int64) { step(name) }, channelsOn(common.HexToAddress(os.Getenv(childHub)))
		s.channels.Step = step
		return open(s)
	}
	b, err := party(2, "b")
	if err != nil {
		return err
	}
	a, err := party(1, "a")
	if err != nil {
		return err
	}
	p, err := connect(a.book, b.book, nodeID(1), nodeID(2))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
	defer cancel()
	if err := errors.Join(a.book.Flush(ctx), b.book.Flush(ctx)); err != nil {
		return err
	}
	_, n, err := neighbor(a.book)
	if err != nil {
		return err
	}
	if n.Spent == 0 {
		p.use(billing.WePay, 10, mega)
	}
	for {
		err := isCashed(a, b, 10_000_000)
		if err == nil && die == "never" { // what kills may come a moment later
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("never cashed: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.cut()
	a.stop()
	b.stop()
	return nil
}

// TestKillVouchers kills both sides at every durable or visible step of opening a
// channel, of the exchange of a voucher and of cashing, starts them again, and
// compares all balances with those of a run without a kill.
func TestKillVouchers(t *testing.T) {
	c := startChain(t)
	at := c.deployHub()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(dir, step string) error {
		cmd := exec.Command(exe, "-test.run=^$")
		cmd.Env = append(os.Environ(), childDir+"="+dir, childURL+"="+c.url, childTok+"="+c.token.Hex(), childHub+"="+at.Hex(), childStep+"="+step)
		cmd.Stderr = os.Stderr
		return cmd.Run()
	}
	earned := func(payer common.Address) *big.Int {
		t.Helper()
		ch, err := c.hubChannel(at, payer, earning(2))
		if err != nil {
			t.Fatal(err)
		}
		return ch.Paid
	}
	steps := append([]string{"never"}, killPoints...)
	dirs, payers := c.pairs(len(steps))
	defer c.mineEvery(25 * time.Millisecond)()
	t.Run("points", func(t *testing.T) {
		for i, step := range steps {
			t.Run(strconv.Itoa(i)+" "+strings.ReplaceAll(step, ":", " "), func(t *testing.T) {
				t.Parallel()
				var exit *exec.ExitError
				err := run(dirs[i], step)
				if step != "never" {
					if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
						t.Fatalf("child was not killed there: %v", err)
					}
					err = run(dirs[i], "never")
				}
				if err != nil {
					t.Fatalf("after the kill: %v", err)
				}
				if got := earned(payers[i]); got.Cmp(big.NewInt(1e16)) != 0 {
					t.Errorf("%s was cashed, want 1e16", got)
				}
				if got := c.balance(payers[i]); got.Cmp(big.NewInt(9e17)) != 0 {
					t.Errorf("the payer holds %s, want 9e17", got)
				}
			})
		}
	})
	paid := big.NewInt(int64(len(killPoints)+1) * 1e16)
	if got := c.balance(earning(2)); got.Cmp(paid) != 0 {
		t.Errorf("the payee has received %s in all, want %s", got, paid)
	}
}

// pairs makes n folders with the wallets of a payer and a payee, and funds them.
func (c *devChain) pairs(n int) (dirs []string, payers []common.Address) {
	c.tb.Helper()
	nonce := uint64(2) // of the rich key: it has deployed the token and the hub
	for range n {
		dir := c.tb.TempDir()
		dirs = append(dirs, dir)
		for _, self := range []byte{1, 2} {
			w, err := wallet.Create(filepath.Join(dir, fmt.Sprintf("wallet%d", self)), "pw", true)
			if err != nil {
				c.tb.Fatal(err)
			}
			to := w.Address()
			c.mined(c.sendAt(c.key, nonce, 2, &to, ether(1), nil))
			c.mined(c.sendAt(c.key, nonce+1, 2, &c.token, nil, c.binding.PackTransfer(to, ether(1))))
			nonce += 2
			if self == 1 {
				payers = append(payers, to)
			}
		}
	}
	return dirs, payers
}
