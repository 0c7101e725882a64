package billing

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// settler is a way to settle debts with neighbors. direct pays with ERC-20
// transfers, account says on the link what was paid, unpaid only counts. A
// settler's Poll is called by one goroutine; the rest is safe for concurrent
// use. Meter, tallies, ledger and credit know no more of a way than this.
type settler interface {
	// Way names it, the best one if it knows several.
	Way() Way
	// Takes tells whether PAY messages of a way are its.
	Takes(Way) bool
	// Accepts tells whether a neighbor with this HELLO can pay us.
	Accepts(*hello) bool
	// CanPay tells whether we can pay a neighbor with this HELLO, and whom there.
	CanPay(*hello) (payee evm.Address, ok bool)
	// Round gives the largest amount up to a that the way can express.
	Round(a Amount) Amount
	// Plan fixes a payment to a neighbor; the ledger moves the debt to transit.
	Plan(ctx context.Context, p *peer, payee evm.Address, a Amount) error
	// Poll moves payments under way and books those received. Its error says that
	// the chain or the ledger did not answer; it is called again later.
	Poll(ctx context.Context) (evm.Outcome, error)

	// Bound is the most that a neighbor may owe whatever it has paid so far, where
	// the way pays as fast as debts grow.
	Bound(p *peer) Amount
	// Moved is called when what we owe the neighbor may have changed, and about once
	// a second. It does not block.
	Moved(n *Neighbor, now time.Time)
	// Linked is called when the HELLOs of a new link are durable: what the neighbor
	// has not confirmed is said again. It does not block.
	Linked(n *Neighbor)
	// Message takes the body of a PAY message of this way. It does not block; an
	// error ends the link.
	Message(n *Neighbor, body []byte) error

	introduce(h *hello, self wire.NodeID, now time.Time) error
}

// silent is embedded by ways that exchange nothing on links.
type silent struct{}

func (silent) Takes(Way) bool             { return false }
func (silent) Bound(*peer) Amount         { return maxAmount }
func (silent) Moved(*Neighbor, time.Time) {}
func (silent) Linked(*Neighbor)           {}
func (silent) Message(*Neighbor, []byte) error {
	return fmt.Errorf("%w: pay of a way that has none", ErrMessage)
}

func newSettler(cfg Config, l *ledger, urge func()) (settler, error) {
	switch {
	case cfg.Direct != nil && cfg.Account:
		return nil, errors.New("billing: either a chain settles or accounts do")
	case cfg.Direct != nil:
		d, err := newDirect(*cfg.Direct, cfg.Now, l)
		if err != nil || cfg.Direct.Channels == nil || cfg.Direct.Wallet == nil {
			return d, err
		}
		return newChannels(d, cfg, urge)
	case cfg.Account:
		return newAccount(l)
	}
	return unpaid{}, nil
}

// unpaid is the settler of nodes that only keep account.
type unpaid struct{ silent }

func (unpaid) Way() Way                          { return WayNone }
func (unpaid) Accepts(*hello) bool               { return true }
func (unpaid) CanPay(*hello) (evm.Address, bool) { return evm.Address{}, false }
func (unpaid) Round(Amount) Amount               { return 0 }
func (unpaid) Plan(context.Context, *peer, evm.Address, Amount) error {
	return ErrNoSettlement
}
func (unpaid) Poll(context.Context) (evm.Outcome, error)      { return evm.Outcome{}, nil }
func (unpaid) introduce(*hello, wire.NodeID, time.Time) error { return nil }

// DirectConfig sets up settlement by ERC-20 transfers.
type DirectConfig struct {
	Client  *evm.Client
	Wallet  evm.Signer  // the consuming wallet; nil: we can be paid and cannot pay
	Earning evm.Address // where neighbors pay to
	// FromBlock is the first block that can hold a payment to us; it saves
	// reading the chain from its beginning.
	FromBlock uint64
	Payments  evm.PaymentConfig // Confirmations holds for payments received too
	// Release, if set, is called when the Book is closed, or was not opened: it gives
	// back the wallet's lock.
	Release func()
	// Channels, if set, settles with vouchers where the neighbor can, and has a
	// wallet: somebody has to pay the fees of cashing.
	Channels *ChannelConfig
}

const (
	bindingLife    = 30 * 24 * time.Hour
	maxBindingLife = 400 * 24 * time.Hour // accepted
)

// direct settles by transfers of one ERC-20 token on one chain.
type direct struct {
	silent
	cfg      DirectConfig
	ledger   *ledger
	payments *evm.Payments // nil without a wallet
	receipts *evm.Receipts
	decimals atomic.Int32 // -1 before the chain has told
	watched  atomic.Int64 // payments that are done and looked after all the same
	cash     *cashier     // nil without a wallet
	// The newest block that the chain's tag has called final, and when (by the clock of
	// ages) it moved; -1: not in this run.
	final, moved atomic.Int64
	still        atomic.Int64 // how long it had not moved at the last look
}

func newDirect(cfg DirectConfig, now func() time.Time, l *ledger) (*direct, error) {
	if cfg.Client == nil || cfg.Earning == (evm.Address{}) {
		return nil, errors.New("billing: direct settlement needs a chain and an earning address")
	}
	if cfg.Earning == cfg.Client.Token() || cfg.Channels != nil && cfg.Earning == cfg.Channels.Hub {
		return nil, fmt.Errorf("billing: the earning address %s is the contract of the token or the hub: what is sent there is lost", cfg.Earning)
	}
	if cfg.Wallet != nil && cfg.Wallet.Address() == (evm.Address{}) {
		return nil, errors.New("billing: the consuming wallet has no address")
	}
	if err := errors.Join(l.pin("chain", "chain", strconv.FormatUint(cfg.Client.ChainID(), 10)),
		l.pin("token", "token", cfg.Client.Token().Hex()),
		l.pin("earning", "earning address", cfg.Earning.Hex())); err != nil {
		return nil, err
	}
	if cfg.Payments.Now == nil {
		cfg.Payments.Now = now
	}
	if cfg.Payments.Step == nil {
		cfg.Payments.Step = func(string, int64) {}
	}
	if cfg.Payments.Confirmations == 0 {
		cfg.Payments.Confirmations = 3
	}
	d := &direct{cfg: cfg, ledger: l}
	d.decimals.Store(-1)
	d.moved.Store(-1)
	if cfg.Wallet != nil {
		if err := l.checkWallet(cfg.Wallet.Address()); err != nil {
			return nil, err
		}
		d.cash = &cashier{ledger: l, client: cfg.Client, wallet: cfg.Wallet.Address()}
		d.payments = evm.NewPayments(cfg.Client, cfg.Wallet, &journal{l, cfg.Wallet.Address()}, cfg.Payments)
	}
	var hub evm.Address
	if cfg.Channels != nil {
		hub = cfg.Channels.Hub
	}
	d.receipts = evm.NewReceipts(cfg.Client, cfg.Earning, &inbox{l, &d.decimals, hub, cfg.Payments.Step}, cfg.Payments.Confirmations, cfg.FromBlock)
	return d, nil
}

func (d *direct) Way() Way       { return WayDirect }
func (d *direct) chain() *direct { return d }

// common tells whether a neighbor settles in our token on our chain.
func (d *direct) common(h *hello) bool {
	if h == nil || h.chainID != d.cfg.Client.ChainID() || h.token != d.cfg.Client.Token() {
		return false
	}
	for _, w := range h.ways {
		if w == WayDirect {
			return true
		}
	}
	return false
}

func (d *direct) Accepts(h *hello) bool { return d.common(h) && h.bound }

func (d *direct) CanPay(h *hello) (evm.Address, bool) {
	if d.payments == nil || !d.common(h) || h.earning == (evm.Address{}) || h.earning == d.cfg.Client.Token() {
		return evm.Address{}, false
	}
	return h.earning, true
}

func (d *direct) Round(a Amount) Amount {
	n := d.decimals.Load()
	if n < 0 {
		return 0
	}
	s := step(uint8(n)) //nolint:gosec // at most 36
	return a - a%s
}

func (d *direct) introduce(h *hello, self wire.NodeID, now time.Time) error {
	h.ways = append(h.ways, wayNews)
	h.chainID, h.token, h.earning = d.cfg.Client.ChainID(), d.cfg.Client.Token(), d.cfg.Earning
	if d.cfg.Wallet == nil {
		return nil
	}
	h.bound, h.wallet = true, d.cfg.Wallet.Address()
	h.expiry = uint64(now.Add(bindingLife).Truncate(24 * time.Hour).Unix()) //nolint:gosec // after 1970
	sig, err := d.cfg.Wallet.SignDigest(evm.Binding{ChainID: h.chainID, Token: h.token, Node: self, Wallet: h.wallet, Expiry: h.expiry}.Digest())
	if err != nil {
		return fmt.Errorf("bind wallet: %w", err)
	}
	h.sig = sig
	return nil
}

func (d *direct) Plan(ctx context.Context, p *peer, payee evm.Address, a Amount) error {
	n := d.decimals.Load()
	if n < 0 {
		return ErrNoSettlement
	}
	return d.ledger.plan(ctx, p, d.cfg.Wallet.Address(), payee, a, toToken(a, uint8(n))) //nolint:gosec // at most 36
}

// ready reads what must be known of the token before anything is paid.
func (d *direct) ready(ctx context.Context) error {
	if d.decimals.Load() >= 0 {
		return nil
	}
	n, err := d.cfg.Client.Check(ctx)
	if err != nil {
		return err
	}
	if err := d.ledger.pin("decimals", "a token with decimals", strconv.Itoa(int(n))); err != nil {
		return err
	}
	d.decimals.Store(int32(n))
	return nil
}

func (d *direct) Poll(ctx context.Context) (evm.Outcome, error) {
	if err := d.begin(ctx); err != nil {
		return evm.Outcome{}, err
	}
	watched := d.watch(ctx)
	out, err := d.move(ctx)
	return out, errors.Join(watched, err)
}

// begin makes sure of the token, and that endpoints are of one mind.
func (d *direct) begin(ctx context.Context) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	wallet := d.cfg.Earning
	if d.payments != nil {
		wallet = d.cfg.Wallet.Address()
	}
	return d.cfg.Client.Compare(ctx, d.cfg.Payments.Confirmations, wallet)
}

// watch makes sure that what was paid stays so.
func (d *direct) watch(ctx context.Context) error {
	if d.payments == nil {
		return nil
	}
	n, err := d.payments.Watch(ctx)
	if err == nil || n > 0 {
		d.watched.Store(int64(n))
	}
	return err
}

// move books payments received and moves our own.
func (d *direct) move(ctx context.Context) (evm.Outcome, error) {
	_, err := d.receipts.Scan(ctx)
	if err == nil && d.moving(d.receipts.Reached()) {
		d.ledger.ages.sighted()
	}
	if d.payments == nil {
		return evm.Outcome{}, err
	}
	out, err2 := d.payments.Advance(ctx)
	d.watched.Add(int64(out.Settled)) // Watch, which counts them, has been before
	if err2 == nil {
		err2 = d.compare(ctx, out.Deep)
	}
	return out, errors.Join(err, err2)
}

// stalledAfter is how long the block that a chain calls final may stay the same.
// Ethereum's moves every seven minutes, others' sooner.
const stalledAfter = 30 * time.Minute

// moving tells whether payments that were made are credited: what counts as final
// moves on. Depth alone always does when the chain does; a chain's own tag has to
// be seen moving.
func (d *direct) moving(final uint64) bool {
	if d.cfg.Client.Tag() == "" {
		return true
	}
	up := d.ledger.ages.up()
	was := d.final.Load()
	if is := int64(final); is > was { //nolint:gosec // a block number
		d.final.Store(is)
		if was > 0 {
			d.moved.Store(int64(up))
		}
	}
	moved := d.moved.Load()
	if moved < 0 {
		return false
	}
	d.still.Store(int64(up) - moved)
	return up-time.Duration(moved) <= stalledAfter
}

// stalled says in words that what the chain calls final does not move.
func (d *direct) stalled() string {
	still := time.Duration(d.still.Load())
	if still <= stalledAfter {
		return ""
	}
	return fmt.Sprintf("chain %d has called no block after %d %s for %s: no payment is credited until it does", d.cfg.Client.ChainID(), d.final.Load(), d.cfg.Client.Tag(),
		still.Round(time.Minute))
}

// settle is the accountant's loop: it looks at debts every ScanEvery, and asks the
// chain as often as pace says, less often while the chain does not answer. Who
// uses this node asks at once; what neighbors urge waits for the next time that
// the chain may be asked.
func (b *Book) settle(ctx context.Context) {
	timer := time.NewTimer(0) // at once: payments of the last run may wait to be sent again
	defer timer.Stop()
	failures := 0
	nextScan := b.cfg.Up()
	start := time.Now()
	var last, next time.Duration // since start: of the last poll, and the least for the next one
	urges := pacer{every: b.calm()}
	for {
		var asked request
		select {
		case <-ctx.Done():
			return
		case asked = <-b.ask:
		case <-b.urged:
			if now := b.cfg.Up(); now < nextScan && (b.wanted.Swap(false) || b.onChain() == nil || urges.allow(time.Since(start))) {
				nextScan = now
			}
		case <-timer.C:
		}
		if early := next - time.Since(start); asked.answer == nil && early > 0 {
			timer.Reset(early)
			continue
		}
		now := b.cfg.Up()
		scan := asked.answer != nil || now >= nextScan
		if !scan && failures == 0 {
			if pace := b.pace(ctx); pace == 0 || time.Since(start)-last < pace {
				timer.Reset(b.hasty())
				continue
			}
		}
		last = time.Since(start)
		err := b.poll(ctx)
		if scan {
			if len(asked.only) == 0 {
				nextScan = now + b.cfg.ScanEvery
			}
			planned, err2 := b.plan(ctx, asked.answer != nil, asked.only...)
			if err = errors.Join(err, err2); err == nil {
				b.ledger.ages.scanned()
			}
			if planned > 0 {
				err = errors.Join(err, b.poll(ctx))
			}
		}
		for _, n := range b.live() {
			n.judge()
		}
		if asked.answer != nil {
			asked.answer <- err // buffered
		}
		wait := b.hasty()
		if err != nil && ctx.Err() == nil {
			failures++
			b.cfg.Log.Warn("billing settlement waits", "err", err, "failures", failures)
			wait = jitter(min(wait<<min(failures, 6), max(time.Minute, wait)))
		} else {
			failures = 0
		}
		timer.Reset(wait)
		if b.onChain() != nil {
			next = time.Since(start) + wait
		}
	}
}

func (b *Book) poll(ctx context.Context) error {
	out, err := b.settler.Poll(ctx)
	if err == nil {
		err = errors.Join(b.lookAtFunds(ctx), b.tellLate(ctx, out.Late))
	}
	b.blind.Store(err != nil)
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	if err == nil || out.Balances.Token != nil {
		b.seen.outcome, b.seen.at = out, b.cfg.Now()
	}
	b.seen.err = err
	return err
}

// request asks the accountant's loop to pay at once.
type request struct {
	only   []wire.NodeID // nobody else; empty: all
	answer chan error    // buffered; nil in the zero value, which asks nothing
}

// Settle agrees on counts and pays what is owed now, to all neighbors or only to
// those named, whatever the thresholds; it returns when the payments are sent or
// what keeps them waiting is known, not when they are final. Run must be running.
func (b *Book) Settle(ctx context.Context, only ...wire.NodeID) error {
	flushed := b.Flush(ctx, only...)
	asked := request{only, make(chan error, 1)}
	select {
	case b.ask <- asked:
	case <-ctx.Done():
		return errors.Join(flushed, ctx.Err())
	}
	select {
	case err := <-asked.answer:
		return errors.Join(flushed, err)
	case <-ctx.Done():
		return errors.Join(flushed, ctx.Err())
	}
}

// plan makes payments of the debts that are due by their size and age, or asked
// for by the neighbor; with now, of all, or all of the neighbors named.
func (b *Book) plan(ctx context.Context, now bool, only ...wire.NodeID) (planned int, err error) {
	if b.ledger.full.Load() {
		return 0, fmt.Errorf("pay: %w", ErrFull)
	}
	for _, p := range b.known(only...) {
		owed := b.settler.Round(Amount(p.payable.Load()))
		p.mu.Lock()
		payee, ok := b.settler.CanPay(p.theirs)
		asked := p.told.reason.paid() && (p.told.standing == Cut || owed >= b.cfg.urgent())
		p.mu.Unlock()
		if !ok || owed <= 0 || owed < b.cfg.MinPayment {
			continue
		}
		if !now && !asked {
			age, err2 := b.ledger.ageOf(ctx, p.row)
			if err2 != nil {
				return planned, errors.Join(err, err2)
			}
			if owed <= b.cfg.due(age) {
				continue
			}
		}
		switch err2 := b.settler.Plan(ctx, p, payee, owed); {
		case errors.Is(err2, errUnderWay):
		case err2 != nil:
			err = errors.Join(err, fmt.Errorf("plan payment: %w", err2))
		default:
			planned++
		}
	}
	return planned, err
}

// known lists the neighbors, or those of the ones named that are known.
func (b *Book) known(only ...wire.NodeID) []*peer {
	b.mu.Lock()
	defer b.mu.Unlock()
	peers := make([]*peer, 0, len(b.peers))
	for id, p := range b.peers {
		if len(only) == 0 || slices.Contains(only, id) {
			peers = append(peers, p)
		}
	}
	return peers
}

// ageOf is the age of the oldest part of what we owe a neighbor.
func (l *ledger) ageOf(ctx context.Context, neighbor int64) (age time.Duration, err error) {
	err = l.update(ctx, func(tx *tx) error {
		born, found, err := tx.oldest(neighbor, sidePayable)
		if found {
			age = max(0, l.ages.read(sidePayable).Sub(born))
		}
		return err
	})
	return age, err
}

var errUnderWay = errors.New("a payment to this neighbor is under way")

// plan fixes a payment. The debt's lots are closed, oldest first; their oldest
// birth is kept in case the payment does not hold.
func (l *ledger) plan(ctx context.Context, p *peer, wallet, payee evm.Address, a Amount, token *big.Int) error {
	return l.update(ctx, func(tx *tx) error {
		var n int64
		if _, err := tx.one("SELECT count(*) FROM intent WHERE neighbor = ? AND state <= ?", []any{p.row, int(evm.Mined)}, &n); err != nil {
			return err
		}
		if n > 0 {
			return errUnderWay
		}
		owed, err := tx.balance(p.row, sidePayable)
		if err != nil {
			return err
		}
		doubt, err := tx.inDoubt(p.row, wallet)
		if err != nil {
			return err
		}
		if a <= 0 || a > owed-doubt {
			return errUnderWay // the debt has shrunk since it was looked at, or an earlier payment may go on
		}
		born, found, err := tx.oldest(p.row, sidePayable)
		if err != nil {
			return err
		}
		if !found {
			born = l.ages.read(sidePayable)
		}
		res, err := tx.ExecContext(tx.ctx, "INSERT INTO intent (neighbor, wallet, payee, amount, token_amount, born, planned, state) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
			p.row, wallet[:], payee[:], int64(a), token.String(), born.Unix(), l.now().Unix())
		if err != nil {
			return err
		}
		id, err := res.LastInsertId()
		if err != nil {
			return err
		}
		if _, err := tx.book("plan", strconv.FormatInt(id, 10), posting{accPayable, p.row, a}, posting{accTransit, p.row, -a}); err != nil {
			return err
		}
		if err := tx.closeLots(p.row, sidePayable, a, "ASC"); err != nil {
			return err
		}
		return tx.refresh(p)
	})
}

// inDoubt is what payments to a neighbor were to bring whose nonces others have used,
// as long as no human has looked: they may still go on, so it is paid no other way.
func (x *tx) inDoubt(neighbor int64, wallet evm.Address) (a Amount, err error) {
	_, err = x.one("SELECT coalesce(sum(amount), 0) FROM intent WHERE neighbor = ? AND wallet = ? AND state = ? AND NOT looked_at",
		[]any{neighbor, wallet[:], int(evm.Superseded)}, &a)
	return a, err
}
