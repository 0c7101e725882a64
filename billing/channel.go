package billing

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync/atomic"
	"time"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// Defaults of ChannelConfig.
const (
	DefaultWindow    = Amount(5_000_000)   // 0.005 token
	DefaultDeposit   = Amount(100_000_000) // 0.1 token
	DefaultCashAbove = Amount(50_000_000)
	DefaultCashAfter = 7 * 24 * time.Hour
	DefaultNotice    = 72 * time.Hour
	DefaultIdle      = 30 * 24 * time.Hour

	windowParts  = 8           // vouchers to a window, while much is used
	voucherEvery = time.Minute // and one at least as often, while anything is owed
	revertPause  = time.Hour   // a call that the chain has refused is not repeated before
)

// ChannelConfig sets up settlement by vouchers. Zero values mean the defaults.
type ChannelConfig struct {
	Hub evm.Address // the contract; required
	// Window bounds what either side can lose: a neighbor that pays with vouchers is
	// cut off when it owes half of it, and its link ends when it owes all.
	Window    Amount
	Deposit   Amount        // what we lock for a neighbor at a time
	CashAbove Amount        // vouchers worth more are cashed
	CashAfter time.Duration // and older ones
	Notice    time.Duration // the least that the hub must give; a shorter one is refused
	Idle      time.Duration // our channels are closed when no voucher was given for so long
	// Step, if set, is told of each durable or visible step, as PaymentConfig.Step.
	Step func(step string)
}

func (c *ChannelConfig) setDefaults() error {
	def := func(a *Amount, v Amount) {
		if *a == 0 {
			*a = v
		}
	}
	def(&c.Window, DefaultWindow)
	def(&c.Deposit, DefaultDeposit)
	def(&c.CashAbove, DefaultCashAbove)
	for _, d := range []struct {
		at *time.Duration
		v  time.Duration
	}{{&c.CashAfter, DefaultCashAfter}, {&c.Notice, DefaultNotice}, {&c.Idle, DefaultIdle}} {
		if *d.at == 0 {
			*d.at = d.v
		}
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
	if c.Hub == (evm.Address{}) || min(c.Window, c.Deposit, c.CashAbove) < 0 || min(c.CashAfter, c.Notice, c.Idle) < 0 || c.Window < 2*windowParts {
		return errors.New("billing: channels need a hub, a window and a deposit")
	}
	return nil
}

// channels settles with vouchers where a neighbor can, else by transfers. A
// voucher is durable before it is sent, and sent again until the payee has said
// that it holds it; at most one is on its way.
type channels struct {
	*direct
	cfg     ChannelConfig
	hub     *evm.Hub
	now     func() time.Time
	poll    time.Duration // the least time between two looks that a neighbor can ask for
	checked atomic.Bool   // the contract is the hub that we know
	urge    func()        // has the chain looked at soon
}

var _ settler = (*channels)(nil)

// voucherLink is what the way keeps of one link.
type voucherLink struct {
	busy    atomic.Bool  // a voucher is being made durable
	unacked atomic.Bool  // the payee has not said that it holds our last one
	next    atomic.Int64 // Unix nanoseconds: not before this is one sent again, made for little, or a channel asked for
}

func newChannels(d *direct, cfg Config, urge func()) (*channels, error) {
	c := &channels{direct: d, cfg: *cfg.Direct.Channels, now: cfg.Now, poll: cfg.PollEvery, urge: urge}
	if err := c.cfg.setDefaults(); err != nil {
		return nil, err
	}
	if err := d.ledger.update(context.Background(), func(tx *tx) error {
		_, err := tx.pinned("hub", "channel hub", c.cfg.Hub.Hex()) // check sets it, once the hub is known to be one
		return err
	}); err != nil {
		return nil, err
	}
	c.hub = evm.NewHub(cfg.Direct.Client, c.cfg.Hub)
	return c, nil
}

func (c *channels) Way() Way         { return WayVoucher }
func (c *channels) Takes(w Way) bool { return w == WayVoucher }

func (c *channels) introduce(h *hello, self wire.NodeID, now time.Time) error {
	h.ways, h.hub = []Way{WayVoucher, WayDirect}, c.cfg.Hub
	return c.direct.introduce(h, self, now)
}

// speaks tells whether vouchers are the best way that a neighbor and we have in
// common: both can pay and be paid with them, on the same hub.
func (c *channels) speaks(h *hello) bool {
	return h != nil && c.common(h) && h.bound && h.hub == c.cfg.Hub && slices.Contains(h.ways, WayVoucher)
}

// partner is what a neighbor has said in its HELLO if it settles with vouchers,
// else nil.
func (c *channels) partner(p *peer) *hello {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.speaks(p.theirs) {
		return nil
	}
	return p.theirs
}

// toPair is the channel in which we pay, fromPair the one in which we are paid.
func (c *channels) toPair(h *hello) evm.Pair {
	return evm.Pair{Payer: c.direct.cfg.Wallet.Address(), Payee: h.earning}
}

func (c *channels) fromPair(h *hello) evm.Pair {
	return evm.Pair{Payer: h.wallet, Payee: c.direct.cfg.Earning}
}

func (c *channels) Bound(p *peer) Amount {
	if c.partner(p) == nil {
		return maxAmount
	}
	return c.cfg.Window / 2
}

// Plan pays now: with a voucher of what is owed, as far as the deposit goes, or
// with a transfer where there is no channel and too little is owed for one, or where
// it is about to be closed.
func (c *channels) Plan(ctx context.Context, p *peer, payee evm.Address, a Amount) error {
	h := c.partner(p)
	if h == nil {
		return c.direct.Plan(ctx, p, payee, a)
	}
	var m *voucherMessage
	transfer := false
	err := c.ledger.update(ctx, func(tx *tx) error {
		r, err := tx.channel(c.toPair(h))
		if err != nil {
			return err
		}
		// The channel to this earning address may be another neighbor's, or about to be
		// closed.
		if transfer = r != nil && (r.neighbor != p.row || r.closing || r.closeAt != 0) || (r == nil || !r.usable()) && a < c.cfg.Window/windowParts; transfer {
			return nil
		}
		m, err = c.give(tx, p, h)
		return err
	})
	switch {
	case err != nil:
		return err
	case transfer:
		return c.direct.Plan(ctx, p, payee, a)
	case m == nil:
		return errUnderWay // or there is no channel yet, which Poll sees to
	}
	c.cfg.Step("voucher made")
	if n := p.live.Load(); n != nil {
		n.vouchers.unacked.Store(true)
		c.send(n, m)
	}
	return nil
}

// send sends a voucher, the first time or again.
func (c *channels) send(n *Neighbor, m *voucherMessage) {
	n.vouchers.next.Store(c.now().Add(c.poll).UnixNano())
	n.pay(WayVoucher, m.append(nil))
	c.cfg.Step("voucher sent")
}

// Moved gives a voucher when a part of a window is owed, or anything for a
// while; a voucher that is not acknowledged is sent again instead.
func (c *channels) Moved(n *Neighbor, now time.Time) {
	h := c.partner(n.peer)
	owed := c.Round(Amount(n.peer.payable.Load()))
	v := &n.vouchers
	late := now.UnixNano() >= v.next.Load()
	again := v.unacked.Load()
	if h == nil || !again && (owed <= 0 || c.ledger.full.Load()) || !late && (again || owed < c.cfg.Window/windowParts) || !v.busy.CompareAndSwap(false, true) {
		return
	}
	var m *voucherMessage
	n.persist(func(tx *tx) (err error) {
		if m, err = c.ungiven(tx, n.peer, h); err != nil || m != nil {
			return err
		}
		m, err = c.give(tx, n.peer, h)
		return err
	}, func() {
		v.busy.Store(false)
		v.unacked.Store(m != nil)
		if m != nil {
			c.cfg.Step("voucher made")
			c.send(n, m)
			return
		}
		if late {
			v.next.Store(now.Add(min(c.poll, voucherEvery)).UnixNano())
			if owed >= c.cfg.Window/windowParts {
				c.urge() // for a channel, or a larger deposit
			}
		}
	})
}

// errUnbound says that the wallet of a HELLO has turned out not to be the
// neighbor's own while its voucher was on the way.
var errUnbound = fmt.Errorf("%w: voucher of a wallet that is not bound", ErrMessage)

// ungiven is our last voucher, if the payee has not said that it holds it.
func (c *channels) ungiven(tx *tx, p *peer, h *hello) (*voucherMessage, error) {
	cum, acked, err := tx.promised(p.row, 0, WayVoucher)
	if err != nil || cum == acked {
		return nil, err
	}
	return c.last(tx, p, h)
}

// last is our last voucher to a neighbor, if there is one to repeat.
func (c *channels) last(tx *tx, p *peer, h *hello) (*voucherMessage, error) {
	r, err := tx.channelTo(p, c.toPair(h))
	if err != nil || r == nil || len(r.sig) != 65 {
		return nil, err
	}
	return &voucherMessage{what: voucherGiven, epoch: r.epoch, cum: r.cum, sig: [65]byte(r.sig)}, nil
}

// give makes a voucher for what is owed, as far as the deposit goes; nil if there
// is nothing to give or to give it from.
func (c *channels) give(tx *tx, p *peer, h *hello) (*voucherMessage, error) {
	decimals := c.decimals.Load()
	r, err := tx.channelTo(p, c.toPair(h))
	if err != nil || r == nil || !r.usable() || decimals < 0 {
		return nil, err
	}
	cum, acked, err := tx.promised(p.row, 0, WayVoucher)
	if err != nil || cum != acked {
		return nil, err // one at a time
	}
	owed, err := tx.balance(p.row, sidePayable)
	if err != nil {
		return nil, err
	}
	doubt, err := tx.inDoubt(p.row, c.direct.cfg.Wallet.Address())
	if err != nil {
		return nil, err
	}
	a := c.Round(min(owed-doubt, unitsOf(r.left(), uint8(decimals)))) //nolint:gosec // at most 36
	if a <= 0 {
		return nil, nil //nolint:nilnil // nothing is a valid outcome
	}
	r.cum = new(big.Int).Add(r.cum, toToken(a, uint8(decimals))) //nolint:gosec // at most 36
	m := &voucherMessage{what: voucherGiven, epoch: r.epoch, cum: r.cum}
	if m.sig, err = m.voucher(c.direct.cfg.Client.ChainID(), c.cfg.Hub, r.pair).Sign(evm.ChannelKey(r.key)); err != nil {
		return nil, err
	}
	r.sig, r.counted, r.since = m.sig[:], r.counted+a, tx.l.now().Unix()
	if _, err := tx.accrue("voucher", r, posting{accPayable, p.row, a}, posting{accTransit, p.row, -a}); err != nil {
		return nil, err
	}
	if err := tx.closeLots(p.row, sidePayable, a, "ASC"); err != nil {
		return nil, err
	}
	if err := errors.Join(tx.setPromised(p.row, 0, WayVoucher, cum+int64(a), acked), tx.putChannel(r)); err != nil {
		return nil, err
	}
	return m, tx.refresh(p)
}

// Linked says on a new link what the payee holds, and gives again what the
// other has not said to hold.
func (c *channels) Linked(n *Neighbor) {
	h := c.partner(n.peer)
	if h == nil {
		return
	}
	var again, held *voucherMessage
	unknown := false
	n.persist(func(tx *tx) error {
		r, err := tx.payerChannel(n.peer, c.fromPair(h))
		if err != nil {
			return err
		}
		unknown = !r.open()
		held = heldOf(r)
		again, err = c.ungiven(tx, n.peer, h)
		return err
	}, func() {
		if held.epoch > 0 {
			n.pay(WayVoucher, held.append(nil))
		}
		if again != nil {
			n.vouchers.unacked.Store(true)
			c.send(n, again)
		}
		if unknown {
			c.urge() // it may have opened one already
		}
	})
}

// heldOf is what a payee answers.
func heldOf(r *channelRow) *voucherMessage {
	m := &voucherMessage{what: voucherHeld, cum: new(big.Int)}
	if len(r.sig) == 65 {
		m.epoch, m.cum, m.sig = r.epoch, r.cum, [65]byte(r.sig)
	}
	return m
}

// payerChannel is the channel in which a neighbor pays us; a new row, for Poll to
// look at, if it was not known.
func (x *tx) payerChannel(p *peer, pair evm.Pair) (*channelRow, error) {
	r, err := x.channel(pair)
	if err != nil || r != nil && r.neighbor == p.row {
		return r, err
	}
	if r == nil {
		if err := x.exec("INSERT INTO channel (neighbor, dir, payer, payee) VALUES (?, 1, ?, ?)", p.row, pair.Payer[:], pair.Payee[:]); err != nil {
			return nil, err
		}
		return x.channel(pair)
	}
	// The wallet was bound to another neighbor, who owes nothing (bind sees to
	// that). What it has given stays that one's until the epoch ends.
	if r.counted != r.paidUnits {
		return nil, fmt.Errorf("%w: the wallet's channel is another neighbor's", ErrMessage)
	}
	r.neighbor = p.row
	return r, x.putChannel(r)
}

// Message takes a voucher, or what the payee says that it holds.
func (c *channels) Message(n *Neighbor, b []byte) error {
	m, err := parseVoucher(b)
	if err != nil {
		return err
	}
	h := c.partner(n.peer)
	if h == nil {
		return fmt.Errorf("%w: voucher without a common hub", ErrMessage)
	}
	if m.what == voucherHeld {
		all := false
		return n.persistPay(func(tx *tx) (err error) {
			if c.partner(n.peer) != h {
				return errUnbound
			}
			all, err = c.held(tx, n.peer, h, m)
			return err
		}, func() {
			if all {
				c.cfg.Step("voucher confirmed")
				n.vouchers.unacked.Store(false)
				n.vouchers.next.Store(c.now().Add(voucherEvery).UnixNano())
				c.Moved(n, c.now())
			}
		})
	}
	var answer *voucherMessage
	taken := false
	return n.persistPay(func(tx *tx) (err error) {
		if c.partner(n.peer) != h {
			return errUnbound
		}
		answer, taken, err = c.take(tx, n.peer, h, m)
		return err
	}, func() {
		if taken {
			c.cfg.Step("voucher taken")
		} else if c.now().UnixNano() >= n.vouchers.next.Load() {
			n.vouchers.next.Store(c.now().Add(c.poll).UnixNano())
			c.urge() // the channel may be new, or larger than we know
		}
		n.pay(WayVoucher, answer.append(nil))
		c.cfg.Step("voucher answered")
		n.judge()
	})
}

// take credits a voucher that the channel covers, as the chain is believed: no
// endpoint is asked. The answer says what is held then.
func (c *channels) take(tx *tx, p *peer, h *hello, m *voucherMessage) (answer *voucherMessage, taken bool, err error) {
	r, err := tx.payerChannel(p, c.fromPair(h))
	if err != nil {
		return nil, false, err
	}
	decimals := c.decimals.Load()
	switch {
	case !r.open() || r.epoch != m.epoch || decimals < 0 || !c.checked.Load():
		return heldOf(r), false, nil // not known yet
	case m.cum.Cmp(r.cum) <= 0:
		return heldOf(r), true, nil // old, or said again
	}
	if err := m.voucher(c.direct.cfg.Client.ChainID(), c.cfg.Hub, r.pair).Verify(r.signer, m.sig); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if m.cum.Cmp(r.total) > 0 || r.closeAt != 0 {
		return heldOf(r), false, nil // not covered, or about to be taken away
	}
	if r.counted == r.paidUnits {
		r.since = tx.l.now().Unix()
	}
	r.cum, r.sig = m.cum, m.sig[:]
	counted := unitsOf(m.cum, uint8(decimals)) //nolint:gosec // at most 36
	a := counted - r.counted
	r.counted = counted
	if a > 0 {
		if _, err := tx.accrue("voucher taken", r, posting{accVouchers, p.row, a}, posting{accReceivable, p.row, -a}); err != nil {
			return nil, false, err
		}
	}
	if err := tx.putChannel(r); err != nil {
		return nil, false, err
	}
	return heldOf(r), true, tx.credited(p.row, max(a, 0))
}

// held takes the payee's word for what it holds: for our last voucher that is
// all there is to say; for a higher one it shows our signature, which an older
// copy of our ledger has forgotten.
func (c *channels) held(tx *tx, p *peer, h *hello, m *voucherMessage) (all bool, err error) {
	r, err := tx.channelTo(p, c.toPair(h))
	if err != nil || r == nil || m.epoch != r.epoch {
		return false, err // none, or of another epoch
	}
	switch m.cum.Cmp(r.cum) {
	case -1:
		return false, nil
	case 1:
		decimals := c.decimals.Load()
		if err := m.voucher(c.direct.cfg.Client.ChainID(), c.cfg.Hub, r.pair).Verify(r.signer, m.sig); err != nil || m.cum.Cmp(r.total) > 0 || decimals < 0 {
			return false, fmt.Errorf("%w: holds a voucher that we did not give", ErrMessage)
		}
		r.cum, r.sig = m.cum, m.sig[:]
		if err := tx.recount(r, unitsOf(m.cum, uint8(decimals))); err != nil { //nolint:gosec // at most 36
			return false, err
		}
		if err := tx.putChannel(r); err != nil {
			return false, err
		}
	}
	if err := tx.confirmVouchers(r); err != nil {
		return false, err
	}
	return true, tx.refresh(p)
}
