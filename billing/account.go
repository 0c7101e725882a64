package billing

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

// account settles without a chain, for networks whose operators settle among
// themselves: the debtor says on the link what it has paid in all, the creditor
// books it and confirms (docs/protocol.md section 7.3). The creditor takes the
// debtor's word; everything else (counts, ledger, thresholds, credit, cutting
// off) is what it is with money.
type account struct{ ledger *ledger }

var _ settler = account{}

// Bodies of the account way's PAY messages.
const (
	payClaim   = 1
	payConfirm = 2
	paySize    = 1 + 8

	maxCumulative = uint64(1) << 62
)

func newAccount(l *ledger) (settler, error) {
	// Debts in kind never become debts in a token.
	return account{l}, l.pin("chain", "chain", "account")
}

func (account) Way() Way                   { return WayAccount }
func (account) Takes(w Way) bool           { return w == WayAccount }
func (account) Bound(*peer) Amount         { return maxAmount }
func (account) Moved(*Neighbor, time.Time) {}
func (account) Accepts(h *hello) bool      { return h != nil && slices.Contains(h.ways, WayAccount) }
func (a account) CanPay(h *hello) (evm.Address, bool) {
	return evm.Address{}, a.Accepts(h)
}
func (account) Round(a Amount) Amount                          { return a }
func (account) Poll(context.Context) (evm.Outcome, error)      { return evm.Outcome{}, nil }
func (account) introduce(*hello, wire.NodeID, time.Time) error { return nil }
func payBody(what byte, cum int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{what}, uint64(cum)) //nolint:gosec // never negative
}

func parsePay(b []byte) (what byte, cum int64, err error) {
	if len(b) != paySize || b[0] != payClaim && b[0] != payConfirm {
		return 0, 0, fmt.Errorf("%w: pay", ErrMessage)
	}
	u := binary.BigEndian.Uint64(b[1:])
	if u == 0 || u >= maxCumulative {
		return 0, 0, fmt.Errorf("%w: amount of pay", ErrMessage)
	}
	return b[0], int64(u), nil
}

// Plan books a payment and says it to the neighbor, now or on the next link.
func (a account) Plan(ctx context.Context, p *peer, _ evm.Address, amount Amount) error {
	var cum int64
	err := a.ledger.update(ctx, func(tx *tx) (err error) {
		cum, err = tx.promise(p, amount)
		return err
	})
	if n := p.live.Load(); err == nil && n != nil {
		n.pay(WayAccount, payBody(payClaim, cum))
	}
	return err
}

// promise moves a debt to transit until the neighbor confirms it.
func (x *tx) promise(p *peer, amount Amount) (int64, error) {
	cum, acked, err := x.promised(p.row, 0, WayAccount)
	if err != nil {
		return 0, err
	}
	owed, err := x.balance(p.row, sidePayable)
	switch {
	case err != nil:
		return 0, err
	case cum != acked || amount <= 0 || amount > owed || uint64(cum)+uint64(amount) >= maxCumulative: //nolint:gosec // not negative
		return 0, errUnderWay
	}
	if err := x.renew(); err != nil {
		return 0, err
	}
	ref := fmt.Sprintf("%d/%d", p.row, cum+int64(amount))
	if _, err := x.book("promise", ref, posting{accPayable, p.row, amount}, posting{accTransit, p.row, -amount}); err != nil {
		return 0, err
	}
	if err := x.setPromised(p.row, 0, WayAccount, cum+int64(amount), acked); err != nil {
		return 0, err
	}
	if err := x.closeLots(p.row, sidePayable, amount, "ASC"); err != nil {
		return 0, err
	}
	return cum + int64(amount), x.refresh(p)
}

func (x *tx) promised(neighbor int64, dir int, way Way) (cum, acked int64, err error) {
	_, err = x.one("SELECT cum, acked FROM promise WHERE neighbor = ? AND dir = ? AND way = ?", []any{neighbor, dir, int(way)}, &cum, &acked)
	return cum, acked, err
}

func (x *tx) setPromised(neighbor int64, dir int, way Way, cum, acked int64) error {
	return x.exec("INSERT OR REPLACE INTO promise VALUES (?, ?, ?, ?, ?)", neighbor, dir, int(way), cum, acked)
}

// Linked says again what the neighbor has not confirmed.
func (a account) Linked(n *Neighbor) {
	var cum, acked int64
	n.persist(func(tx *tx) (err error) {
		cum, acked, err = tx.promised(n.peer.row, 0, WayAccount)
		return err
	}, func() {
		if cum != acked {
			n.pay(WayAccount, payBody(payClaim, cum))
		}
	})
}

// Message takes a claim or a confirmation.
func (a account) Message(n *Neighbor, b []byte) error {
	what, cum, err := parsePay(b)
	if err != nil {
		return err
	}
	if what == payConfirm {
		return n.persistPay(func(tx *tx) error { return tx.confirmed(n.peer, cum) }, func() {})
	}
	var held int64
	return n.persistPay(func(tx *tx) (err error) {
		held, err = tx.claimed(n.peer.row, cum)
		return err
	}, func() {
		n.pay(WayAccount, payBody(payConfirm, held))
		n.judge()
	})
}

// claimed books what the neighbor says it has paid beyond what is booked; what
// it has paid in all as we hold it.
func (x *tx) claimed(neighbor, cum int64) (int64, error) {
	had, _, err := x.promised(neighbor, 1, WayAccount)
	if err != nil || cum <= had {
		return had, err
	}
	a := Amount(cum - had)
	ref := fmt.Sprintf("%d/%d", neighbor, cum)
	if _, err := x.book("account", ref, posting{accReceived, 0, a}, posting{accReceivable, neighbor, -a}); err != nil {
		return 0, err
	}
	if err := x.setPromised(neighbor, 1, WayAccount, cum, cum); err != nil {
		return 0, err
	}
	return cum, x.credited(neighbor, a)
}

// confirmed books that our payments up to cum have arrived. A neighbor may know
// of more than we do when our ledger is an older copy: that counts as paid, if
// need be ahead, since it is to our good and the neighbor's own word.
func (x *tx) confirmed(p *peer, cum int64) error {
	had, acked, err := x.promised(p.row, 0, WayAccount)
	if err != nil || cum <= acked {
		return err
	}
	if cum > had {
		more := Amount(cum - had)
		ref := strconv.FormatInt(p.row, 10) + "/" + strconv.FormatInt(cum, 10)
		if _, err := x.book("promise", ref, posting{accPayable, p.row, more}, posting{accTransit, p.row, -more}); err != nil {
			return err
		}
		if err := x.closeLots(p.row, sidePayable, more, "ASC"); err != nil {
			return err
		}
		had = cum
	}
	a := Amount(cum - acked)
	if _, err := x.book("settled", fmt.Sprintf("%d/%d", p.row, cum), posting{accTransit, p.row, a}, posting{accPaid, 0, -a}); err != nil {
		return err
	}
	if err := x.setPromised(p.row, 0, WayAccount, had, cum); err != nil {
		return err
	}
	return x.refresh(p)
}
