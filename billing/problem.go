package billing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cuttle/billing/evm"
)

// Problem is what keeps money from working, for a person.
type Problem struct {
	Text string // with chain, address and amount, or the file, where they matter
	Hint string // what to do
}

// Problems lists what is wrong with payments now; it asks neither the disk nor
// the chain. Disputes are not among them.
func (b *Book) Problems() (out []Problem) {
	if full := b.ledger.fullProblem(); full != "" {
		out = append(out, Problem{full, "make space on that file system; it goes on by itself then"})
	}
	if err := b.ledger.broken.Load(); err != nil {
		out = append(out, Problem{(*err).Error(), "the log says more; `cuttle ledger verify` looks whether the file is whole"})
	}
	d := b.onChain()
	if d == nil {
		return out
	}
	b.seen.mu.Lock()
	o, at, failed := b.seen.outcome, b.seen.at, b.seen.err
	b.seen.mu.Unlock()
	for _, p := range o.Problems {
		out = append(out, Problem{p.Text, hintOf(p.Kind)})
	}
	for _, p := range d.empty(&o, b.cfg.SettleAbove) {
		out = append(out, Problem{p, hintOf(evm.NoToken)})
	}
	for _, doubt := range d.cfg.Client.Doubts() {
		out = append(out, Problem{doubt, "name other endpoints in billing.rpc; what one alone says gives nobody credit meanwhile"})
	}
	if text := d.stalled(); text != "" {
		out = append(out, Problem{text, "wait, or name other endpoints in billing.rpc; debts to us do not grow older before long, and nobody is cut off below twice its limit"})
	}
	if d.cash != nil && d.cash.told.Load() != nil {
		out = append(out, Problem{*d.cash.told.Load(), "`cuttle ledger history` shows when, as withdrawn; the explorer of the chain shows where it went"})
	}
	if failed != nil && !errors.Is(failed, context.Canceled) {
		since := "in this run"
		if !at.IsZero() {
			since = "since " + at.UTC().Format(time.DateTime) + " UTC"
		}
		out = append(out, Problem{
			fmt.Sprintf("the chain cannot be asked, payments wait; not seen %s: %s", since, strings.ReplaceAll(failed.Error(), "\n", "; ")),
			"see billing.rpc in the configuration, which takes several endpoints; traffic goes on within the credit meanwhile, and nobody is cut off below twice its limit",
		})
	}
	return out
}

// hintOf says what helps against what keeps a payment waiting.
func hintOf(k evm.ProblemKind) string {
	switch k {
	case evm.NoToken, evm.NoGas:
		return "send it to that address; `cuttle wallet balance` shows what has arrived, and the payment goes out by itself"
	case evm.FeeOverLimit:
		return "wait until fees are lower, or raise billing.fee_cap and restart"
	case evm.WouldRevert:
		return "is billing.token the right contract, and may this wallet use it?"
	case evm.TakesFee:
		return "settle in a token that takes nothing of transfers (billing.token, on both sides); with this one every payment leaves a debt"
	case evm.UsedElsewhere:
		return "find the other program and stop it, then let this node go on with `cuttle wallet resume`, or give it a wallet of its own (`cuttle wallet new`)"
	}
	return "the log says more"
}
