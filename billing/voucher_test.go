package billing

import (
	"bytes"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"
)

// TestVoucherGolden holds the bytes that docs/protocol.md section 7.4 describes.
func TestVoucherGolden(t *testing.T) {
	m := &voucherMessage{what: voucherGiven, epoch: 2, cum: new(big.Int).Lsh(big.NewInt(1), 127)}
	m.sig[0], m.sig[64] = 7, 27
	for _, c := range []struct {
		name, want string
		got        []byte
	}{
		{"given", "01 0000000000000002 8000" + strings.Repeat("00", 14) + "07" + strings.Repeat("00", 63) + "1b", m.append(nil)},
		{"held, none", "02" + strings.Repeat("00", voucherSize-1), (&voucherMessage{what: voucherHeld, cum: new(big.Int)}).append(nil)},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s is %x, want %x", c.name, c.got, want)
		}
		if _, err := parseVoucher(want); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing given": (&voucherMessage{what: voucherGiven, cum: new(big.Int)}).append(nil),
		"epoch 0":       (&voucherMessage{what: voucherGiven, cum: big.NewInt(1)}).append(nil),
		"epoch 2^48":    (&voucherMessage{what: voucherGiven, epoch: maxEpoch, cum: big.NewInt(1)}).append(nil),
		"other kind":    (&voucherMessage{what: 3, epoch: 1, cum: big.NewInt(1)}).append(nil),
		"held, half":    (&voucherMessage{what: voucherHeld, epoch: 1, cum: new(big.Int)}).append(nil),
		"short":         m.append(nil)[:voucherSize-1],
		"long":          append(m.append(nil), 0),
	} {
		if _, err := parseVoucher(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzVoucher(f *testing.F) {
	m := &voucherMessage{what: voucherGiven, epoch: 1, cum: big.NewInt(1)}
	f.Add(m.append(nil))
	f.Add((&voucherMessage{what: voucherHeld, cum: new(big.Int)}).append(nil))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseVoucher(b); err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("voucher %x does not come back", b)
		}
	})
}
