package billing

import (
	"context"
	"errors"
	"slices"
	"time"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// Report is a node's money as the control socket shows it. Amounts of debts are
// in ledger units, amounts on the chain in words with all their decimals.
type Report struct {
	Way       Way
	ChainID   uint64 `json:",omitempty"` // these: with direct settlement only
	Token     string `json:",omitempty"` // EIP-55
	Consuming string `json:",omitempty"` // EIP-55; empty without a wallet
	Earning   string `json:",omitempty"` // EIP-55
	// Balances of the consuming wallet, at Head, when the chain was last seen.
	TokenBalance string    `json:",omitempty"`
	GasBalance   string    `json:",omitempty"`
	Head         uint64    `json:",omitempty"`
	HeadTime     time.Time `json:",omitzero"`

	Credit    Amount
	Frozen    bool     // debts to us do not age and nobody is cut off, since our own view of payments may be old
	Problems  []string // in words, with what helps
	Neighbors []NeighborReport
	Fees      Amount // of the chain's own coin (1e-9 of it) that payments have cost
	Unclaimed Amount // received from wallets that no neighbor is bound to
	Commits   uint64 // ledger transactions since the start
}

// NeighborReport is the account with one neighbor.
type NeighborReport struct {
	Node      wire.NodeID
	Connected bool
	Standing  Standing  // how we treat the neighbor
	Reason    string    // why, in words; empty while active
	Dispute   string    // the last one, with both numbers
	Since     time.Time // of Standing
	Limit     Amount    // what it may owe at present
	Restore   Amount    // what it has to pay to be active; 0: nothing, or no payment helps
	// How the neighbor says that it treats us; zero before it has said anything.
	TheirStanding Standing
	TheirReason   string
	TheirLimit    Amount // what we may owe it
	TheirRestore  Amount // what we have to pay to be active; 0: nothing, or no payment helps
	TheirLate     Amount // what it says that it pays when fees are lower
	TheirLateTx   string `json:",omitempty"` // signed for it

	Counts     []Count // agreed since the beginning, and what is not agreed yet
	TheyOwe    Amount  // agreed and unpaid; negative: paid ahead
	WeOwe      Amount  // agreed and not planned to be paid
	Earned     Amount  // charged since the beginning
	Spent      Amount
	Payments   []Payment // ours, the newest first, at most 100
	Receipts   []Receipt // theirs, the newest first, at most 100
	InTransit  Amount    // planned or sent, not final
	TheirPayTo string    `json:",omitempty"` // the neighbor's earning address
	Way        Way       // the best that both of us know; of the present link
	Channels   []ChannelReport
}

// Count is the cells of one payer and tier.
type Count struct {
	WePay bool
	Tier  wire.Tier
	// Agreed cells in both ledgers, both directions.
	AgreedSent, AgreedReceived wire.Cells
	// What we counted, and what the neighbor has claimed or confirmed, all links
	// so far and this one; without a link both are the agreed ones.
	OursSent, OursReceived     wire.Cells
	TheirsSent, TheirsReceived wire.Cells // as we would name them: what they say we sent, we received
}

// Payment is one of ours.
type Payment struct {
	ID            int64
	Amount        Amount
	Payee         string // EIP-55
	State         string // planned, signed, sent, mined, final, reverted, superseded
	Nonce         uint64
	Tx            string // of the attempt that is in a block, else the newest
	Block         uint64
	Confirmations uint64
	Planned       time.Time
}

// Receipt is one of theirs, believed.
type Receipt struct {
	Amount Amount
	Tx     string
	Block  uint64
	From   string // EIP-55
}

// Report reads the state of everything. It waits for the disk, not for the
// chain.
func (b *Book) Report(ctx context.Context) (Report, error) {
	r := Report{Way: b.settler.Way(), Credit: b.cfg.Credit, Frozen: b.ledger.ages.frozen(), Commits: b.ledger.commits.Load()}
	b.reportChain(&r)
	for _, p := range b.Problems() {
		r.Problems = append(r.Problems, p.Text)
	}
	peers := b.known()
	slices.SortFunc(peers, func(x, y *peer) int { return int(x.row - y.row) })
	for _, p := range peers {
		n, err := b.reportPeer(ctx, p)
		if err != nil {
			return r, err
		}
		if n.Dispute != "" && n.Standing == Disputed {
			r.Problems = append(r.Problems, "counts with neighbor "+p.id.String()+" are disputed: "+n.Dispute)
		}
		r.Neighbors = append(r.Neighbors, n)
	}
	err := b.ledger.read.QueryRowContext(ctx, "SELECT (SELECT coalesce(sum(amount), 0) FROM receipt WHERE neighbor IS NULL), (SELECT coalesce(sum(amount), 0) FROM posting WHERE account = 'fees')").Scan(&r.Unclaimed, &r.Fees)
	return r, err
}

func (b *Book) reportChain(r *Report) {
	d := b.onChain()
	if d == nil {
		return
	}
	r.ChainID, r.Token, r.Earning = d.cfg.Client.ChainID(), d.cfg.Client.Token().Hex(), d.cfg.Earning.Hex()
	if d.cfg.Wallet != nil {
		r.Consuming = d.cfg.Wallet.Address().Hex()
	}
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	o := &b.seen.outcome
	if o.Balances.Token != nil {
		r.TokenBalance, r.GasBalance = d.cfg.Client.Format(o.Balances.Token), evm.FormatCoin(o.Balances.Gas)
		r.Head, r.HeadTime = o.Head.Number, o.HeadTime
	}
}

func (b *Book) reportPeer(ctx context.Context, p *peer) (NeighborReport, error) {
	n := p.live.Load()
	if n == nil {
		b.judgeAway(p)
	}
	p.mu.Lock()
	r := NeighborReport{
		Node: p.id, Connected: n != nil, Standing: p.state, Reason: p.reason.String(), Dispute: p.dispute,
		Since: p.since, Limit: p.now.limit, Restore: p.now.pay,
		TheirStanding: p.told.standing, TheirReason: p.told.reason.String(), TheirLimit: p.told.limit, TheirRestore: p.told.pay,
		TheyOwe: Amount(p.receivable.Load()), WeOwe: Amount(p.payable.Load()),
	}
	if r.TheirLate = p.late.amount; p.late.tx != (evm.Hash{}) {
		r.TheirLateTx = p.late.tx.Hex()
	}
	if h := p.theirs; h != nil && h.earning != (evm.Address{}) {
		r.TheirPayTo = h.earning.Hex()
	}
	p.mu.Unlock()
	q := b.ledger.read
	if err := q.QueryRowContext(ctx, `SELECT coalesce(-sum(amount) FILTER (WHERE account = 'earned'), 0), coalesce(sum(amount) FILTER (WHERE account = 'spent'), 0),
		coalesce(-sum(amount) FILTER (WHERE account = 'transit'), 0) FROM posting WHERE neighbor = ?`, p.row).Scan(&r.Earned, &r.Spent, &r.InTransit); err != nil {
		return r, err
	}
	var agreed totals
	if err := b.ledger.update(ctx, func(tx *tx) (err error) {
		agreed, err = tx.totals(p.row)
		return err
	}); err != nil {
		return r, err
	}
	r.Counts = n.report(agreed)
	return r, errors.Join(b.reportPayments(ctx, p.row, &r), b.reportChannels(ctx, p, &r))
}

// report lists the counts that are not zero.
func (n *Neighbor) report(agreed totals) (out []Count) {
	ours, theirs := agreed, agreed
	if n != nil {
		n.mu.Lock()
		if n.base != nil {
			ours, theirs = *n.base, *n.base
			theirs.add(Received, &n.claimed)
			theirs.add(Sent, &n.agreed[Sent])
		}
		n.mu.Unlock()
		sent, received := n.meters[Sent].snapshot(), n.meters[Received].snapshot()
		ours.add(Sent, &sent)
		ours.add(Received, &received)
	}
	for _, payer := range []Payer{WePay, TheyPay} {
		for t := range agreed[0][payer] {
			c := Count{
				WePay: payer == WePay, Tier: wire.Tier(t), //nolint:gosec // at most MaxTier
				AgreedSent: agreed[Sent][payer][t], AgreedReceived: agreed[Received][payer][t],
				OursSent: ours[Sent][payer][t], OursReceived: ours[Received][payer][t],
				TheirsSent: theirs[Sent][payer][t], TheirsReceived: theirs[Received][payer][t],
			}
			if c != (Count{WePay: c.WePay, Tier: c.Tier}) {
				out = append(out, c)
			}
		}
	}
	return out
}

func (b *Book) reportPayments(ctx context.Context, row int64, r *NeighborReport) error {
	rows, err := b.ledger.read.QueryContext(ctx, `SELECT id, amount, payee, state, coalesce(nonce, 0), planned, coalesce(block, 0), confirmations,
		coalesce(tx, (SELECT hash FROM attempt WHERE intent = intent.id ORDER BY n DESC LIMIT 1), x'') FROM intent WHERE neighbor = ? ORDER BY id DESC LIMIT 100`, row)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var p Payment
		var payee, tx []byte
		var state evm.State
		var planned int64
		if err := rows.Scan(&p.ID, &p.Amount, &payee, &state, &p.Nonce, &planned, &p.Block, &p.Confirmations, &tx); err != nil {
			return err
		}
		p.Payee, p.State, p.Planned = evm.Address(payee).Hex(), state.String(), time.Unix(planned, 0)
		if len(tx) > 0 {
			p.Tx = evm.Hash(tx).Hex()
		}
		r.Payments = append(r.Payments, p)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	rows, err = b.ledger.read.QueryContext(ctx, "SELECT amount, tx, block, sender FROM receipt WHERE neighbor = ? ORDER BY block DESC, log_index DESC LIMIT 100", row)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var c Receipt
		var tx, from []byte
		if err := rows.Scan(&c.Amount, &tx, &c.Block, &from); err != nil {
			return err
		}
		c.Tx, c.From = evm.Hash(tx).Hex(), evm.Address(from).Hex()
		r.Receipts = append(r.Receipts, c)
	}
	return rows.Err()
}

// Unban has a neighbor served again that was cut off, or whose counts were
// disputed: from the last agreed counts, and what it owes by now is not held
// against it, though it stays owed. Its debt is young again, and it may owe its
// limit beside.
func (b *Book) Unban(ctx context.Context, id wire.NodeID) error {
	b.mu.Lock()
	p := b.peers[id]
	b.mu.Unlock()
	if p == nil {
		return errors.New("no such neighbor")
	}
	if err := b.ledger.update(ctx, func(tx *tx) error {
		// What the neighbor once showed to hold no longer binds it.
		if err := tx.exec("UPDATE total SET proven = 0 WHERE neighbor = ?", p.row); err != nil {
			return err
		}
		owed, err := tx.balance(p.row, sideReceivable)
		if err != nil {
			return err
		}
		if err := tx.exec("UPDATE lot SET born = ? WHERE neighbor = ? AND side = ? AND open > 0", b.ledger.ages.read(sideReceivable).Unix(), p.row, sideReceivable); err != nil {
			return err
		}
		if err := tx.exec("UPDATE neighbor SET strikes = 0, pardoned = ? WHERE id = ?", int64(max(owed, 0)), p.row); err != nil {
			return err
		}
		return tx.refresh(p)
	}); err != nil {
		return err
	}
	p.lost.Store(0) // never agreed, and so nobody will ask for it
	p.mu.Lock()
	disputed := p.state == Disputed
	p.strikes = 0
	p.settle(state{standing: Active}, b.cfg.Now())
	p.mu.Unlock()
	switch n := p.live.Load(); {
	case n == nil:
	case disputed:
		n.out.Close() // a new link starts from the agreed counts
	default:
		n.judge()
	}
	return nil
}
