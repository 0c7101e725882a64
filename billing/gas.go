package billing

import (
	"fmt"
	"math/big"

	"cuttle/billing/evm"
)

// Fees are in the chain's own coin, in units of 1e-9 of it (gwei), and so in two
// accounts of their own, which no amount of the token ever touches. Each is
// rounded up.
const (
	accFees = "fees" // what payments have cost, by neighbor where it is one's
	accCoin = "coin" // minus what has left the consuming wallet for fees
)

// mostFee is more than any transaction costs. Sums of fees stay far from what 64
// bits hold: SQLite refuses to add up beyond.
const mostFee = Amount(1) << 43

// feeOf is a transaction's fee; on chains that publish on another one, that one's
// part included. It saturates at mostFee.
func feeOf(inc evm.Inclusion) Amount {
	fee := new(big.Int).Mul(new(big.Int).SetUint64(inc.GasUsed), new(big.Int).SetUint64(inc.GasPrice))
	return min(mostFee, wei(fee.Add(fee, new(big.Int).SetUint64(inc.DataFee))))
}

const unitsInCoin = 1_000_000_000 // wei in one of our units

// bookFee posts what a payment's transaction has cost, once it is deep enough,
// whether it has moved anything or not. A payment whose block left the chain
// later is corrected: it has cost nothing then, or something else in another.
func (x *tx) bookFee(payment, neighbor int64, inc evm.Inclusion) error {
	var had, n int64
	if _, err := x.one(`SELECT coalesce(sum(p.amount), 0), count(*) FROM journal j JOIN posting p ON p.journal = j.id
		WHERE j.kind = 'fee' AND j.ref LIKE ? || '/%' AND p.account = 'fees'`, []any{payment}, &had, &n); err != nil {
		return err
	}
	more := feeOf(inc) - Amount(had)
	intent, _, row := tables(payment)
	if err := x.exec("UPDATE "+intent+" SET fee = ? WHERE id = ?", had+int64(more), row); err != nil || more == 0 {
		return err
	}
	_, err := x.book("fee", fmt.Sprintf("%d/%d", payment, n+1), posting{accFees, neighbor, more}, posting{accCoin, 0, -more})
	return err
}
