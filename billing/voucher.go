package billing

import (
	"encoding/binary"
	"math/big"

	"cuttle/billing/evm"
)

// Bodies of the voucher way's PAY messages, docs/protocol.md section 7.4.
const (
	voucherGiven = 1 // the payer's voucher
	voucherHeld  = 2 // the highest one that the payee holds; all zero: none
	voucherSize  = 1 + 8 + 16 + 65

	maxEpoch = uint64(1) << 48 // the hub counts them in 48 bits
)

// voucherMessage is a voucher without what both sides know: chain, hub, payer
// and payee.
type voucherMessage struct {
	what  byte
	epoch uint64
	cum   *big.Int // smallest units of the token, below 2^128
	sig   [65]byte
}

func (m *voucherMessage) append(b []byte) []byte {
	b = append(b, m.what)
	b = binary.BigEndian.AppendUint64(b, m.epoch)
	var cum [16]byte
	b = append(b, m.cum.FillBytes(cum[:])...)
	return append(b, m.sig[:]...)
}

func parseVoucher(b []byte) (*voucherMessage, error) {
	r := &reader{b: b}
	m := &voucherMessage{what: r.u8(), epoch: r.u64(), cum: new(big.Int).SetBytes(r.take(16)), sig: [65]byte(r.take(65))}
	nothing := m.epoch == 0 && m.cum.Sign() == 0 && m.sig == [65]byte{}
	some := m.epoch > 0 && m.epoch < maxEpoch && m.cum.Sign() > 0
	if m.what != voucherGiven && m.what != voucherHeld || !some && (m.what != voucherHeld || !nothing) {
		r.bad = true
	}
	return m, r.end("voucher")
}

// voucher is what the message's signature covers.
func (m *voucherMessage) voucher(chain uint64, hub evm.Address, p evm.Pair) evm.Voucher {
	return evm.Voucher{ChainID: chain, Hub: hub, Payer: p.Payer, Payee: p.Payee, Epoch: m.epoch, Cumulative: m.cum}
}
