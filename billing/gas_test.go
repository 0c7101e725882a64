package billing

import (
	"math"
	"testing"

	"cuttle/billing/evm"
)

// TestFeeOf: a fee is gas times price and what the chain beneath has cost, rounded
// up to a unit, and saturates.
func TestFeeOf(t *testing.T) {
	for _, c := range []struct {
		inc  evm.Inclusion
		want Amount
	}{
		{evm.Inclusion{}, 0},
		{evm.Inclusion{GasUsed: 21_000, GasPrice: 3_257_371}, 69},                         // 68,404,791,000 wei
		{evm.Inclusion{GasUsed: 21_000, GasPrice: 3_257_371, DataFee: 4_931_920_883}, 74}, // the whole receipt of Base: 73,336,711,883 wei
		{evm.Inclusion{DataFee: 1}, 1},
		{evm.Inclusion{GasUsed: math.MaxUint64, GasPrice: math.MaxUint64}, mostFee},
	} {
		if got := feeOf(c.inc); got != c.want {
			t.Errorf("feeOf(%+v) = %d, want %d", c.inc, int64(got), int64(c.want))
		}
	}
}
