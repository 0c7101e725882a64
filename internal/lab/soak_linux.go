package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"cuttle/internal/control"
	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Soak is how long a network that bills is tried, and how.
type Soak struct {
	For   time.Duration // with traffic and crashes
	Every time.Duration // a relay crashes about so often; the next one when it is back; 0: none
	Bytes int           // of one download; clients download all the time
	Seed  uint64
}

// SoakResult is what a soak has seen.
type SoakResult struct {
	Crashes   int
	Downloads int   // that came to their end
	Accounts  int   // of pairs of neighbors, each compared from both sides
	Spent     int64 // ledger units, by all nodes together; earned by all together
	// On a chain only: transfers from one node to another and out of the hub, what
	// the hub holds in the end, and ledgers whose wallets hold what they say.
	Transfers, Cashed int
	Hub               int64 // ledger units
	Wallets           int
}

// soakMore is how much longer a soak goes on while no download has come to its end,
// as on a slow machine. settleTime bounds how long debts may take to be paid when all is quiet, and
// settlePause is the time between two looks.
const (
	soakMore    = 2 * time.Minute
	settleTime  = 6 * time.Minute
	settlePause = 300 * time.Millisecond
)

// Soak crashes relays at random under traffic, then lets the network come to
// rest, has everybody pay, and compares the ledgers of all neighbors: each must
// hold of the other what the other holds, to the unit, and nobody may owe. With a
// chain every ledger must verify and every wallet hold what its ledger says.
func (l *Lab) Soak(ctx context.Context, s Soak) (r SoakResult, err error) {
	if !l.opts.Account && !l.opts.Billing {
		return r, errors.New("a soak needs a lab that bills: --account or --billing")
	}
	random := rand.New(rand.NewPCG(s.Seed, 0x736f_616b))
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	downloads := make(chan struct{}, 1024)
	for _, n := range l.plan.Clients() {
		wg.Go(func() { soakLoad(loading, n, s.Bytes, downloads) }) // ends with stop
	}
	var relays []string
	for _, n := range l.plan.Nodes {
		if n.Relays() {
			relays = append(relays, n.Name)
		}
	}
	end := time.Now().Add(s.For)
	for s.Every == 0 && err == nil && time.Now().Before(end) {
		err = pause(ctx, min(time.Second, time.Until(end)))
	}
	for s.Every > 0 && err == nil && time.Now().Before(end) {
		if err = pause(ctx, s.Every/2+rand.N(s.Every)); err == nil { // the moment is nobody's to repeat
			victim := relays[random.IntN(len(relays))]
			err = errors.Join(l.Signal(ctx, victim, unix.SIGKILL), l.Start(ctx, victim))
			r.Crashes++
		}
	}
	for most := end.Add(soakMore); err == nil && len(downloads) == 0 && time.Now().Before(most); {
		err = pause(ctx, min(time.Second, time.Until(most)))
	}
	stop()
	wg.Wait()
	r.Downloads = len(downloads)
	if err != nil {
		return r, err
	}
	if err := l.Wait(ctx); err != nil {
		return r, err
	}
	if err := l.quiet(ctx); err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	return r, l.settled(ctx, &r)
}

// quiet takes the clients' VPN down where there is a chain: asking it would cost
// cells, and so always leave a debt.
func (l *Lab) quiet(ctx context.Context) error {
	if !l.opts.Billing {
		return nil
	}
	for _, n := range l.plan.Clients() {
		c, err := l.Control(n.Name)
		if err != nil {
			return err
		}
		if _, err := c.Down(ctx); err != nil {
			return fmt.Errorf("take %s down: %w", n.Name, err)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// soakLoad downloads until ctx ends; a download that fails is begun anew.
func soakLoad(ctx context.Context, n Node, size int, done chan<- struct{}) {
	for ctx.Err() == nil {
		cmd := netns.Command(ctx, n.Namespace, "/proc/self/exe", load.VerbFetch, fmt.Sprintf("http://%s/bytes/%d", WebName, size))
		cmd.Stdout = io.Discard
		if err := cmd.Run(); err != nil {
			_ = pause(ctx, pollPeriod) // a relay has just gone
			continue
		}
		select {
		case done <- struct{}{}:
		default: // enough of them
		}
	}
}

// settled has everybody pay until all ledgers agree and nobody owes, and says what
// is wrong if that does not come before ctx ends.
func (l *Lab) settled(ctx context.Context, r *SoakResult) error {
	wrong := "nobody was asked"
	for {
		ledgers, err := l.pay(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("the ledgers did not settle: %s", wrong)
		}
		if err == nil {
			wrong, err = r.compare(ledgers)
		}
		if err == nil && wrong == "" && l.opts.Billing {
			wrong, err = l.audit(ctx, r)
		}
		if err != nil || wrong == "" {
			return err
		}
		_ = pause(ctx, settlePause) // its end is seen above
	}
}

// pay has all nodes pay at once, and gives their ledgers by their keys.
func (l *Lab) pay(ctx context.Context) (map[string]control.Ledger, error) {
	g, ctx := errgroup.WithContext(ctx)
	all := make([]control.Ledger, len(l.plan.Nodes))
	for i, n := range l.plan.Nodes {
		if !n.Runs() {
			continue
		}
		g.Go(func() error { // ends with ctx
			c, err := l.Control(n.Name)
			if err != nil {
				return err
			}
			_, _ = c.Pay(ctx) // what it could not do shows in the ledgers
			if all[i], err = c.Ledger(ctx); err != nil {
				return fmt.Errorf("ledger of %s: %w", n.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	ledgers := map[string]control.Ledger{}
	for i, n := range l.plan.Nodes {
		if n.Runs() {
			ledgers[l.Key(n.Name)] = all[i]
		}
	}
	return ledgers, nil
}

// compare looks at each account from both sides; wrong says what may still change.
func (r *SoakResult) compare(ledgers map[string]control.Ledger) (wrong string, err error) {
	r.Accounts, r.Spent = 0, 0
	var earned int64
	for node, ledger := range ledgers {
		for _, a := range ledger.Accounts {
			b, ok := mirror(ledgers[a.Node], node)
			if !ok {
				return fmt.Sprintf("%s has an account with %s and not the other way", short(node), short(a.Node)), nil
			}
			owed, err := strconv.ParseInt(a.OwedUnits, 10, 64)
			if err != nil {
				return "", fmt.Errorf("amount %q: %w", a.OwedUnits, err)
			}
			spent, err := strconv.ParseInt(a.SpentUnits, 10, 64)
			if err != nil {
				return "", fmt.Errorf("amount %q: %w", a.SpentUnits, err)
			}
			gain, err := strconv.ParseInt(a.EarnedUnits, 10, 64)
			if err != nil {
				return "", fmt.Errorf("amount %q: %w", a.EarnedUnits, err)
			}
			if a.State == "disputed" {
				return "", fmt.Errorf("%s disputes with %s: %s", short(node), short(a.Node), a.Reason)
			}
			// Less than nothing is owed when the creditor has lost what was paid for.
			if owed > 0 || a.OwedUnits != b.DueUnits || a.SpentUnits != b.EarnedUnits || !a.Agreed {
				return fmt.Sprintf("%s owes %s %s of %s spent, which has %s due of %s earned; counts equal: %v",
					short(node), short(a.Node), a.OwedUnits, a.SpentUnits, b.DueUnits, b.EarnedUnits, a.Agreed), nil
			}
			r.Accounts++
			r.Spent += spent
			earned += gain
		}
	}
	if r.Spent != earned {
		return fmt.Sprintf("all together have spent %d and earned %d", r.Spent, earned), nil
	}
	return "", nil
}

func mirror(l control.Ledger, node string) (control.Account, bool) {
	for _, a := range l.Accounts {
		if a.Node == node {
			return a, true
		}
	}
	return control.Account{}, false
}

func short(key string) string { return key[:min(len(key), 12)] }
