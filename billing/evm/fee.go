package evm

import (
	"errors"
	"math/big"
	"strings"

	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/params"
)

func gwei(n int64) *big.Int { return new(big.Int).Mul(big.NewInt(n), big.NewInt(params.GWei)) }

func larger(a, b *big.Int) *big.Int {
	if a.Cmp(b) >= 0 {
		return a
	}
	return b
}

func nonNegative(a *big.Int) *big.Int { return larger(a, new(big.Int)) }

// formatUnits writes n / 10^decimals exactly, without trailing zeros.
func formatUnits(n *big.Int, decimals int) string {
	digits := new(big.Int).Abs(n).String()
	if missing := decimals + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	whole, fraction := digits[:len(digits)-decimals], strings.TrimRight(digits[len(digits)-decimals:], "0")
	if fraction != "" {
		whole += "." + fraction
	}
	if n.Sign() < 0 {
		return "-" + whole
	}
	return whole
}

// FormatCoin writes an amount of the chain's own coin (18 decimals), exactly.
func FormatCoin(wei *big.Int) string { return formatUnits(wei, 18) }

// cost is the most a transaction can take from the wallet in fees, wei.
func cost(gas uint64, feeCap *big.Int) *big.Int {
	return new(big.Int).Mul(new(big.Int).SetUint64(gas), feeCap)
}

// raised is the fee of a replacement: 15 % and 1 wei above the old one (pools
// demand 10 % on both fees), or the market's if that is higher.
func raised(old, market *big.Int) *big.Int {
	n := new(big.Int).Mul(old, big.NewInt(115))
	n.Div(n, big.NewInt(100)).Add(n, big.NewInt(1))
	return new(big.Int).Set(larger(n, market))
}

// Endpoints say these things in words only; the texts are geth's, which bor,
// op-geth and erigon share.

func says(err error, texts ...string) bool {
	if err == nil {
		return false
	}
	s := strings.ToLower(err.Error())
	for _, t := range texts {
		if strings.Contains(s, t) {
			return true
		}
	}
	return false
}

// isKnown: the endpoint has these very bytes. "Nonce too low" is not here: it
// may be ours or another's, which only a receipt tells.
func isKnown(err error) bool {
	return says(err, "already known", "known transaction", "already imported")
}

func isNoFunds(err error) bool {
	return says(err, "insufficient funds", "gas required exceeds allowance")
}

func isRevert(err error) bool {
	if err == nil {
		return false
	}
	if _, ok := ethclient.RevertErrorData(err); ok {
		return true
	}
	return says(err, "execution reverted") && !errors.Is(err, ErrNoEndpoint)
}
