package evm

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/core/types"
)

// State is where a payment stands.
//
//	PLANNED -> SIGNED -> SENT -> MINED -> FINAL
//	              \        ^       |  \
//	               \       +-------+   +-> REVERTED
//	                \   (block left the chain)
//	                 +-> SUPERSEDED (from SIGNED, SENT: the nonce went to a
//	                     transaction that is not ours)
//
// FINAL and REVERTED become SENT or MINED again when their block leaves the
// chain all the same, which Watch looks for, and Advance where Watch does not. So
// does SUPERSEDED, until a human has looked, when the nonce is not the other
// transaction's any more.
type State uint8

// The states of a payment.
const (
	Planned    State = iota // amount and payee are fixed, no nonce yet
	Signed                  // nonce and raw bytes are durable; may be out
	Sent                    // an endpoint took it
	Mined                   // in a block, not deep enough
	Final                   // deep enough; done
	Reverted                // deep enough with status 0; the nonce is spent, the debt stands
	Superseded              // the wallet's nonce was used by somebody else
)

var stateNames = [...]string{"planned", "signed", "sent", "mined", "final", "reverted", "superseded"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Open tells whether the payment still needs work.
func (s State) Open() bool { return s <= Mined }

// Intent is one payment: its amount and payee never change, and its nonce never
// changes once it has one.
type Intent struct {
	ID       int64
	Payee    Address
	Amount   *big.Int // smallest units of the token that leave the wallet
	Call     *Call    // nil: a transfer of Amount to Payee
	State    State
	Nonce    uint64    // from Signed on
	Attempts []Attempt // from Signed on; all with the same nonce, the newest last
	Included Inclusion // from Mined on
}

// Attempt is one signed transaction of an intent.
type Attempt struct {
	Hash           Hash
	Raw            []byte // as broadcast
	TipCap, FeeCap *big.Int
	Gas            uint64
	At             time.Time
}

// Inclusion says which attempt is in which block.
type Inclusion struct {
	Tx            Hash
	Block         Mark
	Confirmations uint64 // blocks from the including one to the head, both counted
	Success       bool
	GasUsed       uint64 // no more than was signed
	GasPrice      uint64 // wei per gas that was paid, EIP-1559's effective price; no more than was signed
	DataFee       uint64 // wei beside that, for publishing on the chain beneath (OP stack); at most one coin
}

// Journal keeps payments. A method that returns nil has made its change
// durable; Sign is called before the chain hears of the transaction.
type Journal interface {
	// OpenIntents returns the open intents, and the superseded ones that no human
	// has looked at, in ascending order of nonce, those without one last in the
	// order of their ids; and the first nonce that no intent of the wallet has
	// ever had (0 if none).
	OpenIntents(ctx context.Context) (open []Intent, nextNonce uint64, err error)
	// Sign gives the intent its nonce, if it is the first attempt, adds the
	// attempt and moves to Signed.
	Sign(ctx context.Context, id int64, nonce uint64, a Attempt) error
	// Settled returns the intents that became Final or Reverted in the block since or
	// a later one.
	Settled(ctx context.Context, since uint64) ([]Intent, error)
	// Unused returns intents that became Final or Reverted in the block upTo or an
	// earlier one, of that nonce or a later one, the first of them first.
	Unused(ctx context.Context, nonce, upTo uint64) ([]Intent, error)
	// Mark moves the intent to a state; in holds from Mined on. Final and Reverted
	// ones may become Sent or Mined again, and Superseded ones that OpenIntents returns.
	Mark(ctx context.Context, id int64, s State, in Inclusion) error
}

// Signer is an open wallet; billing/wallet has one.
type Signer interface {
	Address() Address
	SignTx(tx *types.Transaction, chainID *big.Int) (*types.Transaction, error)
	SignDigest(digest [32]byte) ([65]byte, error)
}

// PaymentConfig sets how payments are made. Zero values mean the defaults.
type PaymentConfig struct {
	Confirmations uint64        // blocks, the including one counted; default 3
	MaxFee        *big.Int      // wei per unit of gas the user pays at most; default 500 gwei
	MinTip        *big.Int      // wei per unit of gas the chain asks at least; default 0
	BumpAfter     time.Duration // a transaction this old gets a higher fee; default 90 s
	InFlight      int           // nonces open at once; default 8 (a geth pool keeps 16 of one account)
	// Watch is how many blocks a payment that counts as final is looked after where the
	// chain has no tag for what stays; default 64 or 16 times Confirmations.
	Watch uint64
	Now   func() time.Time
	// Step, if set, is told before and after each durable or visible step, for
	// instance "sign 7", "signed 7", "broadcast 7", "sent 7".
	Step func(step string, id int64)
}

// Payments pays the intents of one wallet.
type Payments struct {
	short   string // in words, of the last transfer that has not brought what was sent
	client  *Client
	signer  Signer
	journal Journal
	cfg     PaymentConfig
	resumed bool
	unused  uint64 // the block at which nonces of payments that are done were unused first; 0: none are
}

// NewPayments makes the machine; it does nothing before Advance.
func NewPayments(c *Client, s Signer, j Journal, cfg PaymentConfig) *Payments {
	cfg.setDefaults()
	return &Payments{client: c, signer: s, journal: j, cfg: cfg}
}

// FeeLimit is MaxFee or its default.
func (cfg *PaymentConfig) FeeLimit() *big.Int {
	if cfg.MaxFee == nil {
		return gwei(500)
	}
	return cfg.MaxFee
}

func (cfg *PaymentConfig) setDefaults() {
	if cfg.Confirmations == 0 {
		cfg.Confirmations = 3
	}
	cfg.MaxFee = cfg.FeeLimit()
	if cfg.MinTip == nil {
		cfg.MinTip = new(big.Int)
	}
	if cfg.BumpAfter == 0 {
		cfg.BumpAfter = 90 * time.Second
	}
	if cfg.Watch == 0 {
		cfg.Watch = max(64, 16*cfg.Confirmations)
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 8
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Step == nil {
		cfg.Step = func(string, int64) {}
	}
}

// Outcome is what Advance saw and what keeps payments waiting.
type Outcome struct {
	Head     Mark
	HeadTime time.Time
	Deep     uint64 // the newest block that counts as final; every payment up to it was looked at
	Balances Balances
	Problems []Problem
	Late     []Late // payments that wait for lower fees
	Settled  int    // payments and calls that became final, or reverted for good
}

// Late is a payment, no call, that waits because the market's fee is over the
// user's.
type Late struct {
	Intent int64
	Tx     Hash // of the newest attempt; zero: none is signed
}

// Problem says in words why a payment waits. Text holds chain, address and
// amount, and what helps.
type Problem struct {
	Kind   ProblemKind
	Intent int64
	Text   string
}

// ProblemKind tells problems apart.
type ProblemKind uint8

// The kinds of problems.
const (
	NoToken       ProblemKind = iota + 1 // the wallet has less of the token than it owes
	NoGas                                // the wallet cannot pay the fee
	FeeOverLimit                         // the market's fee is over the user's
	WouldRevert                          // the token refuses the transfer
	UsedElsewhere                        // the wallet's nonces move without us
	TakesFee                             // less has reached a payee than was sent
)

// Advance does for every open payment what can be done now. Its error means
// that the chain or the journal did not answer; nothing is lost then and the
// caller tries again later.
func (p *Payments) Advance(ctx context.Context) (Outcome, error) {
	var out Outcome
	view, err := p.client.look(ctx, p.signer.Address(), p.cfg)
	if err != nil {
		return out, err
	}
	out.Head, out.HeadTime, out.Deep, out.Balances = view.head, view.headTime, view.deep, view.balances
	if err := p.recall(ctx, view); err != nil {
		return out, err
	}
	open, next, err := p.journal.OpenIntents(ctx)
	if err != nil {
		return out, fmt.Errorf("read open payments: %w", err)
	}
	if p.short != "" {
		out.Problems = append(out.Problems, Problem{TakesFee, 0, p.short})
	}
	view.urgent = slices.ContainsFunc(open, func(in Intent) bool { return in.State.Open() && in.Call != nil && in.Call.Urgent })
	flying, superseded, regained := 0, false, false
	var failed error
	tokens, gas := new(big.Int).Set(view.balances.Token), new(big.Int).Set(view.balances.Gas)
	for i := range open {
		in := &open[i]
		if in.State == Planned {
			continue
		}
		if in.State == Superseded {
			failed = errors.Join(failed, p.regain(ctx, in, view))
			regained = regained || in.State != Superseded
		} else {
			failed = errors.Join(failed, p.follow(ctx, in, view, flying == 0))
		}
		if in.State == Final || in.State == Reverted {
			out.Settled++
		}
		if in.State == Superseded {
			superseded = true
			out.Problems = append(out.Problems, p.usedElsewhere(in))
		}
		if in.State == Signed || in.State == Sent {
			flying++
			tokens.Sub(tokens, in.Amount)
			a := in.Attempts[len(in.Attempts)-1]
			gas.Sub(gas, cost(a.Gas, a.FeeCap))
		}
	}
	p.resumed = true
	if view.feeProblem != "" {
		out.wait(open, view.feeProblem)
	}
	if failed != nil || superseded || regained { // nobody signs before a human has looked, or what was planned instead
		return out, failed
	}
	next = max(next, view.pendingNonce)
	for i := range open {
		in := &open[i]
		if in.State != Planned || flying >= p.cfg.InFlight {
			continue
		}
		signed, err := p.start(ctx, in, next, view, tokens, gas, &out)
		if err != nil {
			return out, err
		}
		if signed {
			next++
			flying++
		}
	}
	return out, nil
}

// wait notes the payments that the market's fee holds up, and a problem for one that
// is signed; start notes those that are not.
func (o *Outcome) wait(open []Intent, problem string) {
	said := false
	for i := range open {
		in := &open[i]
		if in.Call != nil || in.State != Planned && in.State != Signed && in.State != Sent {
			continue
		}
		l := Late{Intent: in.ID}
		if in.State != Planned {
			l.Tx = in.Attempts[len(in.Attempts)-1].Hash
			if !said {
				o.Problems = append(o.Problems, Problem{FeeOverLimit, in.ID, problem})
				said = true
			}
		}
		o.Late = append(o.Late, l)
	}
}

// follow looks after a payment that has a nonce. lowest says that no payment
// with a lower nonce is still out: only that one's fee is raised.
func (p *Payments) follow(ctx context.Context, in *Intent, v *view, lowest bool) error {
	inc, err := p.client.find(ctx, in.Attempts)
	switch {
	case err != nil:
		return err
	case inc == nil:
		return p.missing(ctx, in, v, lowest)
	}
	if inc.Block.Number > v.head.Number {
		inc.Confirmations = 0 // the endpoints are not equally far
	} else {
		inc.Confirmations = v.head.Number - inc.Block.Number + 1
	}
	state := Mined
	if inc.Block.Number <= v.deep {
		if err := p.client.confirm(ctx, *inc); err != nil {
			return err
		}
		state = Final
		if !inc.Success {
			state = Reverted
		}
	}
	if state == in.State && *inc == in.Included {
		return nil
	}
	if state == Final && in.Call == nil {
		p.weigh(ctx, in, inc.Tx)
	}
	return p.mark(ctx, in, state, *inc)
}

// weigh looks whether a transfer has brought the payee what has left the wallet. An
// endpoint that does not say is no news.
func (p *Payments) weigh(ctx context.Context, in *Intent, tx Hash) {
	got, err := p.client.arrived(ctx, tx, in.Payee)
	if err != nil {
		return
	}
	if got.Cmp(in.Amount) >= 0 {
		p.short = ""
		return
	}
	p.short = fmt.Sprintf("token %s on chain %s takes a part of what is sent: of %s that went from %s to %s only %s has arrived (transaction %s). The neighbor goes on counting the rest as owed",
		p.client.token, p.client.chainID, p.client.Format(in.Amount), p.signer.Address(), in.Payee, p.client.Format(got), tx)
}

// missing handles a payment of which no endpoint knows a receipt.
func (p *Payments) missing(ctx context.Context, in *Intent, v *view, lowest bool) error {
	if in.State == Mined { // its block left the chain
		if err := p.mark(ctx, in, Sent, Inclusion{}); err != nil {
			return err
		}
	}
	if v.deepNonce > in.Nonce { // a fork may lie between what was seen of the chain so far
		taken, err := p.client.taken(ctx, p.signer.Address(), in, v.deep)
		if err != nil {
			return err
		}
		if taken {
			return p.mark(ctx, in, Superseded, Inclusion{})
		}
	}
	last := in.Attempts[len(in.Attempts)-1]
	if lowest && p.cfg.Now().Sub(last.At) >= p.cfg.BumpAfter {
		return p.bump(ctx, in, last, v)
	}
	if in.State == Sent && p.resumed {
		known, err := p.client.knows(ctx, last.Hash)
		if err != nil || known {
			return err
		}
	}
	return p.broadcast(ctx, in, last)
}

// regain goes on with a payment whose nonce another transaction had, if that has
// left the chain or was a lie: ours is in a block, or nothing is.
func (p *Payments) regain(ctx context.Context, in *Intent, v *view) error {
	inc, err := p.client.find(ctx, in.Attempts)
	if err != nil || inc == nil && v.pendingNonce > in.Nonce || v.deep == 0 {
		return err
	}
	taken, err := p.client.taken(ctx, p.signer.Address(), in, v.deep)
	if err != nil || taken {
		return err
	}
	return p.undone(ctx, in, v.head.Number)
}

// start signs the first attempt of a planned payment, if the wallet can pay it.
func (p *Payments) start(ctx context.Context, in *Intent, nonce uint64, v *view, tokens, gas *big.Int, out *Outcome) (bool, error) {
	from := p.signer.Address()
	if tokens.Cmp(in.Amount) < 0 {
		out.Problems = append(out.Problems, Problem{NoToken, in.ID, fmt.Sprintf(
			"not enough token: wallet %s on chain %s has %s of token %s free and owes %s: send at least %s more to it",
			from, p.client.chainID, p.client.Format(nonNegative(tokens)), p.client.token, p.client.Format(in.Amount), p.client.Format(new(big.Int).Sub(in.Amount, nonNegative(tokens))))})
		return false, nil
	}
	urgent := in.Call != nil && in.Call.Urgent
	feeCap := v.feeCap
	if urgent {
		feeCap = v.urgentCap
	}
	if v.feeProblem != "" && !urgent || v.urgentProblem {
		out.Problems = append(out.Problems, Problem{FeeOverLimit, in.ID, v.feeProblem})
		return false, nil
	}
	if v.balances.Gas.Sign() == 0 {
		out.Problems = append(out.Problems, p.noGas(in, gas, nil))
		return false, nil
	}
	to, data := p.request(in)
	limit, err := p.client.estimate(ctx, from, to, data)
	switch {
	case isNoFunds(err):
		out.Problems = append(out.Problems, p.noGas(in, gas, nil))
		return false, nil
	case isRevert(err):
		out.Problems = append(out.Problems, Problem{WouldRevert, in.ID, fmt.Sprintf(
			"contract %s on chain %s refuses a payment of %s from %s to %s: %v", to, p.client.chainID, p.client.Format(in.Amount), from, in.Payee, err)})
		return false, nil
	case err != nil:
		return false, err
	}
	fee := cost(limit, feeCap)
	if gas.Cmp(fee) < 0 {
		out.Problems = append(out.Problems, p.noGas(in, gas, fee))
		return false, nil
	}
	if err := p.sign(ctx, in, nonce, limit, v.tip, feeCap); err != nil {
		return false, err
	}
	tokens.Sub(tokens, in.Amount)
	gas.Sub(gas, fee)
	return true, p.broadcast(ctx, in, in.Attempts[len(in.Attempts)-1])
}

func (p *Payments) noGas(in *Intent, have, want *big.Int) Problem {
	need := "some"
	if want != nil {
		need = formatUnits(want, 18)
	}
	return Problem{NoGas, in.ID, fmt.Sprintf("not enough gas: wallet %s on chain %s has %s of the chain's coin free for fees and needs %s: send some to it",
		p.signer.Address(), p.client.chainID, formatUnits(nonNegative(have), 18), need)}
}

func (p *Payments) usedElsewhere(in *Intent) Problem {
	return Problem{UsedElsewhere, in.ID, fmt.Sprintf(
		"wallet %s on chain %s is used by another program: nonce %d went to a transaction that is not ours; sending has stopped until a human has looked",
		p.signer.Address(), p.client.chainID, in.Nonce)}
}

// bump replaces the newest attempt by one with higher fees and the same nonce.
func (p *Payments) bump(ctx context.Context, in *Intent, last Attempt, v *view) error {
	tip, feeCap := raised(last.TipCap, v.tip), raised(last.FeeCap, v.feeCap)
	most := p.cfg.MaxFee
	if v.urgent {
		most = v.mostUrgent
	}
	if feeCap.Cmp(most) > 0 || tip.Cmp(feeCap) > 0 {
		return p.broadcast(ctx, in, last) // at the user's limit: hold; start reports the market's fee
	}
	if err := p.sign(ctx, in, in.Nonce, last.Gas, tip, feeCap); err != nil {
		return err
	}
	return p.broadcast(ctx, in, in.Attempts[len(in.Attempts)-1])
}

// sign makes an attempt and has it journaled. Nothing is out yet when it returns.
func (p *Payments) sign(ctx context.Context, in *Intent, nonce uint64, gas uint64, tip, feeCap *big.Int) error {
	to, data := p.request(in)
	tx, err := p.signer.SignTx(types.NewTx(&types.DynamicFeeTx{
		ChainID: p.client.chainID, Nonce: nonce, GasTipCap: tip, GasFeeCap: feeCap, Gas: gas, To: &to, Data: data,
	}), p.client.chainID)
	if err != nil {
		return err
	}
	raw, err := tx.MarshalBinary()
	if err != nil {
		return fmt.Errorf("encode transaction: %w", err)
	}
	a := Attempt{Hash: tx.Hash(), Raw: raw, TipCap: tip, FeeCap: feeCap, Gas: gas, At: p.cfg.Now()}
	p.cfg.Step("sign", in.ID)
	if err := p.journal.Sign(ctx, in.ID, nonce, a); err != nil {
		return fmt.Errorf("journal payment before sending: %w", err)
	}
	in.State, in.Nonce, in.Attempts = Signed, nonce, append(in.Attempts, a)
	p.cfg.Step("signed", in.ID)
	return nil
}

// broadcast sends an attempt's stored bytes. An answer that leaves it open
// whether they are out is no error: the payment stays Signed and is looked for.
func (p *Payments) broadcast(ctx context.Context, in *Intent, a Attempt) error {
	p.cfg.Step("broadcast", in.ID)
	if err := p.client.send(ctx, a.Raw); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if in.State == Sent {
			return nil
		}
		return fmt.Errorf("send payment: %w", err)
	}
	if in.State == Sent {
		return nil
	}
	p.cfg.Step("accepted", in.ID)
	return p.mark(ctx, in, Sent, Inclusion{})
}

func (p *Payments) mark(ctx context.Context, in *Intent, s State, inc Inclusion) error {
	if err := p.journal.Mark(ctx, in.ID, s, inc); err != nil {
		return fmt.Errorf("journal payment as %s: %w", s, err)
	}
	in.State, in.Included = s, inc
	p.cfg.Step(s.String(), in.ID)
	return nil
}
