package billing

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"

	"cuttle/relay/wire"
)

// Amount is money in ledger units of 1e-9 token.
type Amount int64

// MaxTier is the highest tier that can be counted (docs/protocol.md section 7).
const MaxTier wire.Tier = 63

const (
	unitDigits   = 9         // decimals of an Amount
	tierPrice    = 1_000_000 // units for 2^priceShift cells of tier 1
	priceShift   = 20
	maxAmount    = Amount(math.MaxInt64)
	maxTotal     = wire.Cells(1) << 56 // cells of one total; Owed cannot overflow below it
	unitsInToken = 1_000_000_000
)

// String writes an amount in tokens, for instance "1.5".
func (a Amount) String() string {
	sign, u := "", uint64(a) //nolint:gosec // sign is handled
	if a < 0 {
		sign, u = "-", -u
	}
	s := fmt.Sprintf("%s%d.%09d", sign, u/unitsInToken, u%unitsInToken)
	for s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	if s[len(s)-1] == '.' {
		s = s[:len(s)-1]
	}
	return s
}

// Owed is the price of cells of one tier, counted over both directions and from
// the beginning: floor(cells * tier * 1e6 / 2^20). It saturates, which totals
// under 2^56 cells never reach.
func Owed(cells wire.Cells, tier wire.Tier) Amount {
	hi, lo := bits.Mul64(uint64(cells), uint64(tier)*tierPrice)
	if hi>>(priceShift-1) != 0 { // would not fit 63 bits after the shift
		return maxAmount
	}
	return Amount(hi<<(64-priceShift) | lo>>priceShift) //nolint:gosec // fits, see above
}

// toToken converts to smallest units of a token with that many decimals. The
// amount must be a multiple of step(decimals).
func toToken(a Amount, decimals uint8) *big.Int {
	n := big.NewInt(int64(a))
	if decimals >= unitDigits {
		return n.Mul(n, pow10(int64(decimals)-unitDigits))
	}
	return n.Div(n, pow10(unitDigits-int64(decimals)))
}

// fromToken converts smallest units of the token, rounding down; more than an
// Amount holds is an error.
func fromToken(n *big.Int, decimals uint8) (Amount, error) {
	q := new(big.Int)
	if decimals >= unitDigits {
		q.Div(n, pow10(int64(decimals)-unitDigits))
	} else {
		q.Mul(n, pow10(unitDigits-int64(decimals)))
	}
	if !q.IsInt64() {
		return 0, fmt.Errorf("amount %s of a token with %d decimals is out of range", n, decimals)
	}
	return Amount(q.Int64()), nil
}

// step is the smallest Amount that the token can express.
func step(decimals uint8) Amount {
	s := Amount(1)
	for d := decimals; d < unitDigits; d++ {
		s *= 10
	}
	return s
}

func pow10(n int64) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil) }
