package chaintest

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"cuttle/billing"
)

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
	if os.Getenv(childWish) != "" {
		run = childChannel
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
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
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
	stop := c.mine()
	defer func() { stop() }()
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
		if step == "mined" { // which is between two looks of a slow machine if blocks come fast
			stop()
			stop = c.mineEvery(3 * time.Second)
		}
		var exit *exec.ExitError
		if err := run(dir, step); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("%s: child was not killed there: %v", step, err)
			continue
		}
		if step == "mined" {
			stop()
			stop = c.mine()
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
