package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os/exec"
	"path/filepath"
	"strings"
)

// ledgerFile is a node's ledger in its state folder.
const ledgerFile = "ledger.db"

// unitInToken is a ledger unit (1e-9 token) in smallest units of the lab's token,
// which has 18 decimals.
var unitInToken = big.NewInt(1_000_000_000)

// sums are a ledger's accounts (docs/money.md), each summed up over its journal,
// in ledger units; a debit is positive.
type sums map[string]int64

// audit compares what the ledger files say with what the chain says, past the
// daemons: every ledger verifies, nothing is on its way, all accounts of all
// ledgers together are zero, and each wallet and the hub hold, to the unit, what
// the ledgers say. wrong says what may still change.
func (l *Lab) audit(ctx context.Context, r *SoakResult) (wrong string, err error) {
	all := sums{}
	r.Wallets = 0
	for _, n := range l.plan.Nodes {
		if !n.Runs() {
			continue
		}
		own, err := l.ledgerSums(ctx, n.Name)
		if err != nil {
			return "", err
		}
		for account, units := range own {
			all[account] += units
		}
		if own["transit"] != 0 || own["unallocated"] != 0 {
			return fmt.Sprintf("%s has %d units on their way and %d from strangers", n.Name, -own["transit"], -own["unallocated"]), nil
		}
		start, _ := new(big.Int).SetString(startToken, 10)
		consuming, earning := l.Wallets(n.Name)
		for _, w := range []struct {
			name, address string
			want          *big.Int
		}{{"consuming", consuming, start.Add(start, inToken(own["paid"]))}, {"earning", earning, inToken(own["received"])}} {
			has, err := l.TokenBalance(ctx, w.address)
			if err != nil {
				return "", err
			}
			if has.Cmp(w.want) != 0 {
				return fmt.Sprintf("the %s wallet of %s holds %s on the chain, its ledger says %s", w.name, n.Name, has, w.want), nil
			}
			r.Wallets++
		}
	}
	for _, zero := range [][]string{{"spent", "earned"}, {"payable", "receivable"}, {"paid", "received", "locked", "vouchers"}} {
		var sum int64
		for _, account := range zero {
			sum += all[account]
		}
		if sum != 0 {
			return fmt.Sprintf("over all ledgers %s sum to %d", strings.Join(zero, " and "), sum), nil
		}
	}
	wrong, err = l.auditChain(ctx, r, all["locked"]+all["vouchers"])
	if wrong != "" || err != nil {
		return wrong, err
	}
	for _, n := range l.plan.Nodes {
		if n.Runs() {
			err = errors.Join(err, l.verifies(ctx, n.Name))
		}
	}
	return "", err
}

// verifies has a node's ledger file checked for everything that it can show.
func (l *Lab) verifies(ctx context.Context, node string) error {
	var verified struct {
		OK       bool
		Findings []struct{ What, At string }
	}
	if err := l.cuttle(ctx, &verified, "ledger", "verify", l.ledgerPath(node)); err != nil || !verified.OK {
		return errors.Join(fmt.Errorf("the ledger of %s does not verify: %+v", node, verified.Findings), err)
	}
	return nil
}

func (l *Lab) ledgerPath(node string) string {
	return filepath.Join(l.opts.fileOf(node, stateFolder), ledgerFile)
}

// auditChain compares what the hub holds, and counts what has moved.
func (l *Lab) auditChain(ctx context.Context, r *SoakResult, inHub int64) (wrong string, err error) {
	has, err := l.TokenBalance(ctx, l.state.Chain.Hub)
	if err != nil {
		return "", err
	}
	if want := inToken(inHub); has.Cmp(want) != 0 {
		return fmt.Sprintf("the hub holds %s on the chain, the ledgers say %s", has, want), nil
	}
	transfers, _, err := l.Transfers(ctx)
	if err != nil {
		return "", err
	}
	earning := map[string]bool{}
	for _, w := range l.state.Wallets {
		earning[strings.ToLower(w.Earning)] = true
	}
	r.Transfers, r.Cashed, r.Hub = 0, 0, inHub
	for _, t := range transfers {
		switch {
		case !earning[t.To]:
		case t.From == strings.ToLower(l.state.Chain.Hub):
			r.Cashed++
		default:
			r.Transfers++
		}
	}
	return "", nil
}

func inToken(units int64) *big.Int { return new(big.Int).Mul(big.NewInt(units), unitInToken) }

// ledgerSums adds up the journal of a node's ledger file.
func (l *Lab) ledgerSums(ctx context.Context, node string) (sums, error) {
	var history struct {
		History []struct {
			Account string
			Units   int64
		}
	}
	if err := l.cuttle(ctx, &history, "ledger", "history", l.ledgerPath(node)); err != nil {
		return nil, fmt.Errorf("journal of %s: %w", node, err)
	}
	own := sums{}
	for _, m := range history.History {
		own[m.Account] += m.Units
	}
	return own, nil
}

// cuttle runs the command that people type and reads its JSON.
func (l *Lab) cuttle(ctx context.Context, answer any, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(l.opts.Bin, "cuttle"), append([]string{"--json"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		return fmt.Errorf("cuttle %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(out, answer); err != nil {
		return fmt.Errorf("cuttle %s: %w", args[0], err)
	}
	return nil
}
