package billing

import (
	"encoding/binary"
	"fmt"
	"slices"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// Kinds of messages, docs/protocol.md section 7.1.
const (
	kindHello = 1
	kindTally = 2
	kindAck   = 3
	kindState = 4
	kindPay   = 5 // a byte names the way, the rest is the way's own
)

// Way is a way to settle, as HELLO names it.
type Way uint8

// The ways that exist.
const (
	WayNone    Way = 0 // counts only
	WayDirect  Way = 1 // ERC-20 transfers
	WayAccount Way = 2 // said on the link, settled in kind
	WayVoucher Way = 3 // vouchers on a channel of the hub

	// No ways but what else the sender of a HELLO knows: builds from before pass over
	// ways that they do not know.
	wayNews Way = 128 // STATE with ReasonFunds, and PAY of WayDirect
)

func (w Way) String() string {
	switch w {
	case WayNone:
		return "none"
	case WayDirect:
		return "erc20"
	case WayAccount:
		return "account"
	case WayVoucher:
		return "voucher"
	case wayNews: // no way
	}
	return fmt.Sprintf("way %d", uint8(w))
}

// Standing is how a creditor treats a neighbor.
type Standing uint8

// The standings.
const (
	Active   Standing = 1 // served
	Cut      Standing = 2 // new circuits that the neighbor would pay are refused
	Disputed Standing = 3 // the same, because counts differ
	Warned   Standing = 4 // served, and soon not if nothing is paid
	// Throttled is served at a bounded rate.
	Throttled Standing = 5
)

func (s Standing) String() string {
	switch s {
	case Active:
		return "active"
	case Cut:
		return "cut"
	case Disputed:
		return "disputed"
	case Warned:
		return "warned"
	case Throttled:
		return "throttled"
	}
	return fmt.Sprintf("standing %d", uint8(s))
}

// Reason says why.
type Reason uint8

// The reasons.
const (
	ReasonNone         Reason = 0
	ReasonCredit       Reason = 1 // owes more than the credit, or soon does
	ReasonCounts       Reason = 2 // counts differ
	ReasonNoSettlement Reason = 3 // no common way, chain or token, or no bound wallet
	ReasonAge          Reason = 4 // a part of the debt is too old for so much
	ReasonStrangers    Reason = 5 // what neighbors that paid little may owe together is used up
	ReasonFunds        Reason = 6 // its wallet holds less than it owes, or nothing, or no fee
)

func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return ""
	case ReasonCredit:
		return "owes too much for its credit"
	case ReasonCounts:
		return "counts differ"
	case ReasonNoSettlement:
		return "no common way to settle"
	case ReasonAge:
		return "a part of the debt is too old"
	case ReasonStrangers:
		return "the credit for neighbors that have paid little is used up"
	case ReasonFunds:
		return "its wallet holds too little token for what is owed, or no coin for a fee"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// paid tells whether a payment helps.
func (r Reason) paid() bool { return r == ReasonCredit || r == ReasonAge || r == ReasonStrangers }

// Sizes and bounds of messages.
const (
	maxWays      = 4
	bindingSize  = 20 + 8 + 65
	totalSize    = 1 + 1 + 1 + 8
	countSize    = 1 + 1 + 8
	flagBinding  = 1 // of HELLO
	flagHub      = 2 // of HELLO
	flagReply    = 1 // of TALLY: answer with a TALLY of your own
	stateSize    = 1 + 1 + 1 + 8 + 8 + 8
	helloVersion = 1
)

// hello is a side's first message on a link. Names of directions and payers in
// every message are the sender's.
type hello struct {
	ways    []Way
	chainID uint64
	token   evm.Address
	earning evm.Address
	bound   bool
	wallet  evm.Address // the rest of the binding: if bound
	expiry  uint64
	sig     [65]byte
	hub     evm.Address // zero: none; together with WayVoucher
	totals  totals      // agreed over all links so far
}

func (h *hello) append(b []byte) []byte {
	flags := byte(0)
	if h.bound {
		flags |= flagBinding
	}
	if h.hub != (evm.Address{}) {
		flags |= flagHub
	}
	b = append(b, kindHello, helloVersion, flags, byte(len(h.ways)))
	for _, w := range h.ways {
		b = append(b, byte(w))
	}
	b = binary.BigEndian.AppendUint64(b, h.chainID)
	b = append(append(b, h.token[:]...), h.earning[:]...)
	if h.bound {
		b = append(b, h.wallet[:]...)
		b = binary.BigEndian.AppendUint64(b, h.expiry)
		b = append(b, h.sig[:]...)
	}
	if flags&flagHub != 0 {
		b = append(b, h.hub[:]...)
	}
	at := len(b)
	b = append(b, 0, 0)
	n := uint16(0)
	for dir := range h.totals {
		for payer := range h.totals[dir] {
			for tier, cells := range h.totals[dir][payer] {
				if cells != 0 {
					b = append(b, byte(dir), byte(payer), byte(tier)) //nolint:gosec // all small
					b = binary.BigEndian.AppendUint64(b, uint64(cells))
					n++
				}
			}
		}
	}
	binary.BigEndian.PutUint16(b[at:], n)
	return b
}

// reader takes fields off a message; the first one that is not there makes bad
// true and everything after it zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte    { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// end is the error of a message that was not exactly what it should be.
func (r *reader) end(what string) error {
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("%w: %s", ErrMessage, what)
	}
	return nil
}

func parseHello(b []byte) (*hello, error) {
	r := &reader{b: b}
	var h hello
	if r.u8() != kindHello || r.u8() != helloVersion {
		r.bad = true
	}
	flags, ways := r.u8(), int(r.u8())
	if flags&^(flagBinding|flagHub) != 0 || ways < 1 || ways > maxWays {
		r.bad = true
		ways = 0
	}
	for _, w := range r.take(ways) {
		h.ways = append(h.ways, Way(w))
	}
	h.chainID = r.u64()
	h.token, h.earning = evm.Address(r.take(20)), evm.Address(r.take(20))
	if h.bound = flags&flagBinding != 0; h.bound {
		h.wallet, h.expiry = evm.Address(r.take(20)), r.u64()
		h.sig = [65]byte(r.take(65))
	}
	if flags&flagHub != 0 {
		if h.hub = evm.Address(r.take(20)); h.hub == (evm.Address{}) {
			r.bad = true
		}
	}
	if slices.Contains(h.ways, WayVoucher) != (h.hub != evm.Address{}) {
		r.bad = true
	}
	last := -1
	for range entries(r, totalSize) {
		dir, payer, tier, cells := r.u8(), r.u8(), r.u8(), wire.Cells(r.u64())
		place := int(dir)<<16 | int(payer)<<8 | int(tier)
		if dir > 1 || payer > 1 || tier > byte(MaxTier) || place <= last || cells == 0 || cells >= maxTotal {
			return nil, fmt.Errorf("%w: total in hello", ErrMessage)
		}
		last = place
		h.totals[dir][payer][tier] = cells
	}
	return &h, r.end("hello")
}

// entries reads a u16 count and checks that exactly as many entries follow.
func entries(r *reader, size int) int {
	n := int(r.u16())
	if r.bad || len(r.b) != n*size {
		r.bad = true
		return 0
	}
	return n
}

// tally is a marker: what its sender has sent on this link up to here.
type tally struct {
	reply bool   // the sender wants a TALLY back
	seq   uint32 // 1, 2, 3...
	seen  uint32 // seq of the receiver's last TALLY that the sender holds durably
	sent  counts
}

func (t *tally) append(b []byte) []byte {
	flags := byte(0)
	if t.reply {
		flags |= flagReply
	}
	b = append(b, kindTally, flags)
	b = binary.BigEndian.AppendUint32(b, t.seq)
	b = binary.BigEndian.AppendUint32(b, t.seen)
	at := len(b)
	b = append(b, 0, 0)
	n := uint16(0)
	for payer := range t.sent {
		for tier, cells := range t.sent[payer] {
			if cells != 0 {
				b = append(b, byte(payer), byte(tier)) //nolint:gosec // both small
				b = binary.BigEndian.AppendUint64(b, uint64(cells))
				n++
			}
		}
	}
	binary.BigEndian.PutUint16(b[at:], n)
	return b
}

func parseTally(b []byte) (*tally, error) {
	r := &reader{b: b}
	var t tally
	kind, flags := r.u8(), r.u8()
	t.reply, t.seq, t.seen = flags&flagReply != 0, r.u32(), r.u32()
	last := -1
	for range entries(r, countSize) {
		payer, tier, cells := r.u8(), r.u8(), wire.Cells(r.u64())
		place := int(payer)<<8 | int(tier)
		if payer > 1 || tier > byte(MaxTier) || place <= last || cells == 0 || cells >= maxTotal {
			return nil, fmt.Errorf("%w: count in tally", ErrMessage)
		}
		last = place
		t.sent[payer][tier] = cells
	}
	if kind != kindTally || flags&^flagReply != 0 || t.seq == 0 {
		r.bad = true
	}
	return &t, r.end("tally")
}

// ack answers a tally: agreed, or the first count that differs.
type ack struct {
	seq     uint32
	differs bool
	payer   Payer // as the tally's sender names it; these three: if differs
	tier    wire.Tier
	cells   wire.Cells // what the answering side counted
}

func (a *ack) append(b []byte) []byte {
	b = append(b, kindAck)
	b = binary.BigEndian.AppendUint32(b, a.seq)
	if !a.differs {
		return append(b, 0)
	}
	b = append(b, 1, byte(a.payer), byte(a.tier))
	return binary.BigEndian.AppendUint64(b, uint64(a.cells))
}

func parseAck(b []byte) (*ack, error) {
	r := &reader{b: b}
	kind := r.u8()
	a := &ack{seq: r.u32()}
	result := r.u8()
	if a.differs = result == 1; a.differs {
		a.payer, a.tier, a.cells = Payer(r.u8()), wire.Tier(r.u8()), wire.Cells(r.u64())
	}
	if kind != kindAck || result > 1 || a.payer > 1 || a.tier > MaxTier || a.seq == 0 {
		r.bad = true
	}
	return a, r.end("ack")
}

// state tells a neighbor how it is treated.
type state struct {
	standing Standing
	reason   Reason
	owed     Amount // what the receiver of the message owes, unagreed cells included
	limit    Amount // what it may owe at present
	pay      Amount // what has to be paid for it to be active; 0: it is, or no payment helps
}

func (s *state) append(b []byte) []byte {
	b = append(b, kindState, byte(s.standing), byte(s.reason))
	for _, a := range []Amount{s.owed, s.limit, s.pay} {
		b = binary.BigEndian.AppendUint64(b, uint64(max(a, 0))) //nolint:gosec // not negative
	}
	return b
}

func parseState(b []byte) (*state, error) {
	r := &reader{b: b}
	kind := r.u8()
	s := &state{standing: Standing(r.u8()), reason: Reason(r.u8())}
	for _, a := range []*Amount{&s.owed, &s.limit, &s.pay} {
		*a = Amount(r.u64()) //nolint:gosec // checked next
		r.bad = r.bad || *a < 0
	}
	if kind != kindState || s.standing < Active || s.standing > Throttled {
		r.bad = true
	}
	return s, r.end("state")
}
