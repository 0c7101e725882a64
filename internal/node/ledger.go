package node

import (
	"context"
	"strconv"
	"time"

	"cuttle/billing"
	"cuttle/internal/control"
	"cuttle/relay/wire"
)

const (
	reportTime = 5 * time.Second
	agreeTime  = time.Second // for neighbors to agree on the newest counts
)

// Ledger tells what is between us and our neighbors, after agreeing with them on
// the counts so far; a neighbor that does not answer in time is shown as it was.
func (n *Node) Ledger() control.Ledger {
	out := control.Ledger{
		Schema: control.Schema, Mode: n.cfg.Billing.Mode,
		Wallets: []control.Wallet{}, Accounts: []control.Account{}, Problems: []control.Problem{},
	}
	if n.book == nil {
		return out
	}
	ctx, cancel := context.WithTimeout(context.Background(), reportTime)
	defer cancel()
	agree, stop := context.WithTimeout(ctx, agreeTime)
	defer stop()
	_ = n.book.Flush(agree) // who did not agree shows in the tallies
	r, err := n.book.Report(ctx)
	if err != nil {
		out.Problems = append(out.Problems, control.Problem{Text: "the ledger cannot be read: " + err.Error(), Hint: "the log says more", Area: control.AreaMoney})
		return out
	}
	out.ChainID, out.Token, out.Block, out.ChainOK = r.ChainID, r.Token, r.Head, !r.HeadTime.IsZero()
	if r.Consuming != "" {
		w := control.Wallet{Purpose: "consuming", Address: r.Consuming, Token: r.TokenBalance, Gas: r.GasBalance}
		if !r.HeadTime.IsZero() {
			w.Checked = r.HeadTime.Unix()
		}
		out.Wallets = append(out.Wallets, w)
	}
	if r.Earning != "" {
		out.Wallets = append(out.Wallets, control.Wallet{Purpose: "earning", Address: r.Earning})
	}
	if out.Frozen = r.Frozen; r.Frozen {
		out.Problems = append(out.Problems, control.Problem{
			Text: "debts to us do not age and nobody is cut off below twice its limit, since payments to us may have been missed",
			Hint: "this ends by itself: after a look at the chain, or two scans after the clock was set", Area: control.AreaMoney,
		})
	}
	out.Problems = append(out.Problems, n.payProblems()...)
	var owed, due billing.Amount
	for i := range r.Neighbors {
		a := &r.Neighbors[i]
		if a.Dispute != "" && a.Standing == billing.Disputed {
			out.Problems = append(out.Problems, control.Problem{
				Text: "counts with neighbor " + a.Node.String() + " are disputed: " + a.Dispute, Area: control.AreaMoney,
				Hint: "its next link begins anew, three times at most; `cuttle unban " + a.Node.String()[:shortAddress] + "` ends it now",
			})
		}
		owed, due = owed+a.WeOwe, due+a.TheyOwe
		out.Accounts = append(out.Accounts, accountOf(a))
	}
	out.TotalOwed, out.TotalDue = owed.String(), due.String()
	if r.ChainID != 0 {
		out.Fees = r.Fees.String()
	}
	return out
}

func accountOf(r *billing.NeighborReport) control.Account {
	a := control.Account{
		Node: r.Node.String(), State: r.Standing.String(), Reason: r.Reason, Agreed: true, Wallet: r.TheirPayTo,
		OwedUnits: units(r.WeOwe), Owed: r.WeOwe.String(), DueUnits: units(r.TheyOwe), Due: r.TheyOwe.String(),
		EarnedUnits: units(r.Earned), Earned: r.Earned.String(), SpentUnits: units(r.Spent), Spent: r.Spent.String(),
		Tallies: []control.Tally{}, Payments: []control.Payment{},
		Since: epoch(r.Since), Limit: r.Limit.String(), Restore: r.Restore.String(),
		TheirReason: r.TheirReason, TheirLimit: r.TheirLimit.String(), TheirRestore: r.TheirRestore.String(),
		TheirLate: r.TheirLate.String(), TheirLateTx: r.TheirLateTx,
	}
	if r.TheirStanding != 0 {
		a.TheirState = r.TheirStanding.String()
	}
	if r.Dispute != "" && r.Standing == billing.Disputed {
		a.Reason = r.Dispute
	}
	var cells [2]wire.Cells // agreed, by payer
	for _, c := range r.Counts {
		cells[payerOf(c.WePay)] += c.AgreedSent + c.AgreedReceived
		payer := "they"
		if c.WePay {
			payer = "we"
		}
		for _, t := range []control.Tally{
			{Direction: "sent", Ours: uint64(c.OursSent), Theirs: uint64(c.TheirsSent)},
			{Direction: "received", Ours: uint64(c.OursReceived), Theirs: uint64(c.TheirsReceived)},
		} {
			t.Payer, t.Tier, t.Equal = payer, uint8(c.Tier), t.Ours == t.Theirs
			a.Agreed = a.Agreed && t.Equal
			a.Tallies = append(a.Tallies, t)
		}
	}
	a.SpentPerGB = billing.PerGB(r.Spent, cells[billing.WePay])
	a.EarnedPerGB = billing.PerGB(r.Earned, cells[billing.TheyPay])
	for _, p := range r.Payments {
		a.Payments = append(a.Payments, control.Payment{
			Direction: "out", State: outgoing(p.State), Units: units(p.Amount), Amount: p.Amount.String(),
			Tx: p.Tx, Block: p.Block, Confirmations: p.Confirmations, Time: p.Planned.Unix(),
		})
	}
	for _, p := range r.Receipts {
		a.Payments = append(a.Payments, control.Payment{
			Direction: "in", State: control.PaymentConfirmed, Units: units(p.Amount), Amount: p.Amount.String(), Tx: p.Tx, Block: p.Block,
		})
	}
	return a
}

func payerOf(wePay bool) billing.Payer {
	if wePay {
		return billing.WePay
	}
	return billing.TheyPay
}

func units(a billing.Amount) string { return strconv.FormatInt(int64(a), 10) }

// outgoing names the states of our own payments as the control socket does.
func outgoing(state string) control.PaymentState {
	switch state {
	case "planned", "signed":
		return control.PaymentPlanned
	case "final":
		return control.PaymentConfirmed
	case "reverted", "superseded":
		return control.PaymentFailed
	default: // sent, mined
		return control.PaymentPending
	}
}
