package billing

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"cuttle/billing/evm"
)

// late is what a debtor says of its payments to a neighbor that wait because the
// chain asks a higher fee than its user allows: a PAY of the way of transfers
// (docs/protocol.md section 7.1). It is said, shown, and changes nothing else.
type late struct {
	amount Amount   // on its way, in ledger units; 0: nothing waits any more
	tx     evm.Hash // the newest transaction signed for it; zero: none is signed yet
}

const (
	lateKind = 1
	lateSize = 1 + 8 + 32
)

func (l late) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, lateKind), uint64(l.amount)) //nolint:gosec // never negative
	return append(b, l.tx[:]...)
}

func parseLate(b []byte) (l late, err error) {
	if len(b) != lateSize || b[0] != lateKind {
		return l, fmt.Errorf("%w: pay of transfers", ErrMessage)
	}
	l.amount = Amount(binary.BigEndian.Uint64(b[1:])) //nolint:gosec // checked next
	copy(l.tx[:], b[9:])
	if l.amount < 0 || l.amount == 0 && l.tx != (evm.Hash{}) {
		return l, fmt.Errorf("%w: amount of a late payment", ErrMessage)
	}
	return l, nil
}

// onLate takes what a debtor says.
func (n *Neighbor) onLate(b []byte) error {
	l, err := parseLate(b)
	if err != nil {
		return err
	}
	n.peer.mu.Lock()
	n.peer.late = l
	n.peer.mu.Unlock()
	return nil
}

// tellLate says to neighbors with a link which payments to them wait for lower fees,
// and when they wait no more; each news once.
func (b *Book) tellLate(ctx context.Context, waiting []evm.Late) error {
	byRow := make(map[int64]late)
	for _, w := range waiting {
		var row, amount int64
		err := b.ledger.read.QueryRowContext(ctx, "SELECT neighbor, amount FROM intent WHERE id = ?", w.Intent).Scan(&row, &amount)
		if err != nil {
			return fmt.Errorf("read late payment: %w", err)
		}
		l := byRow[row]
		l.amount += Amount(amount)
		if w.Tx != (evm.Hash{}) {
			l.tx = w.Tx
		}
		byRow[row] = l
	}
	for _, p := range b.known() {
		if n := p.live.Load(); n != nil {
			n.tellLate(byRow[p.row])
		}
	}
	return nil
}

func (n *Neighbor) tellLate(l late) {
	p := n.peer
	p.mu.Lock()
	knows := p.theirs != nil && slices.Contains(p.theirs.ways, wayNews)
	p.mu.Unlock()
	if !knows {
		return
	}
	n.mu.Lock()
	news := n.late != l
	n.late = l
	n.mu.Unlock()
	if news {
		n.pay(WayDirect, l.append(nil))
	}
}
